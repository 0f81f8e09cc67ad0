"""Which executions that are over may be deleted: the rule, for every store.

An execution goes whole: its row, journal, inbox, dead letters and notes. What it was counted in stays: totals never
fall. What is not over is never deleted; nor is a child that the run which called it may still need. That run has been
told of the child's end (in its inbox, then in its journal), but when it fails and is resumed, what it asked may be
asked again: a failed child has to be there to be resumed with it, and one that has completed must not run a second
time. So such a child stays until its parent has completed, was cancelled for good, has gone on to another run, or is
deleted. One that only ends with its parent stays as long, since it goes on with it, too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from rayflow.ids import ExecutionStatus
from rayflow.storage.model import ExecutionRecord
from rayflow.storage.rules.starts import rewinds_at_call

#: Journal entries of all executions that one transaction deletes, unless it is one execution alone.
MOST_ENTRIES = 5_000

Head = Callable[[str], ExecutionRecord | None]


@dataclass(frozen=True, slots=True)
class PurgeFilter:
    """Which executions that are over are meant.

    They come in the order in which they ended; with ``expired_by`` in that in which their times are up.

    Args:
        ids: only these; None for all.
        status: only these statuses; empty for all.
        workflow_id: only this workflow.
        ended_before: only those that ended before that moment.
        expired_by: only those whose own time is up by then.
        after: only what comes after that moment and id.
        limit: at most so many are looked at.
    """

    ids: tuple[str, ...] | None = None
    status: tuple[ExecutionStatus, ...] = ()
    workflow_id: str | None = None
    ended_before: float | None = None
    expired_by: float | None = None
    after: tuple[float, str] | None = None
    limit: int = 100

    def place(self, record: ExecutionRecord) -> tuple[float, str]:
        """Where an execution stands in the order."""
        at = record.updated_at if self.expired_by is None else record.expires_at
        return (0.0 if at is None else at, record.id)

    def fits(self, record: ExecutionRecord) -> bool:
        """Whether an execution is meant, wherever it stands in the order."""
        if not record.status.terminal or (self.status and record.status not in self.status):
            return False
        if self.ids is not None and record.id not in self.ids:
            return False
        if self.workflow_id not in (None, record.workflow_id):
            return False
        if self.ended_before is not None and record.updated_at >= self.ended_before:
            return False
        return self.expired_by is None or (record.expires_at is not None and record.expires_at <= self.expired_by)


@dataclass(frozen=True, slots=True)
class PurgeBatch:
    """What was deleted, or would be.

    Args:
        ids: of the executions.
        size: bytes that their records took.
        after: where to go on; None if there was nothing more.
    """

    ids: tuple[str, ...] = ()
    size: int = 0
    after: tuple[float, str] | None = None


def is_needed_by_parent(record: ExecutionRecord, head: Head) -> bool:
    """Whether the run that called this child may still need it.

    Args:
        record: an execution that is over.
        head: answers the row of an execution, or None.
    """
    parent = head(record.parent) if record.parent_step else None
    if parent is None or parent.status is ExecutionStatus.COMPLETED:
        return False
    if parent.status is ExecutionStatus.CANCELLED:  # it goes on with its own parent, if that had given it up
        return is_needed_by_parent(parent, head)
    if not record.waited_for:  # it goes on with any run of its parent
        return record.start_nonce.startswith(f"{parent.start_nonce}/")
    return rewinds_at_call(parent, record) is not None


def choose(records: Iterable[ExecutionRecord], over: PurgeFilter, head: Head, *, later: bool) -> PurgeBatch:
    """Those of some executions that may be deleted in one transaction, without their sizes.

    Args:
        records: executions that are meant, in their order, ``over.limit`` at most.
        over: what is meant.
        head: answers the row of an execution, or None.
        later: also those that may be deleted once others are that are meant as well.
    """
    ids: list[str] = []
    entries = looked_at = 0
    last = over.after
    for record in records:
        if entries and entries + record.last_seq > MOST_ENTRIES:
            return PurgeBatch(tuple(ids), after=last)
        if not (_stays(record, over, head) if later else is_needed_by_parent(record, head)):
            ids.append(record.id)
            entries += record.last_seq
        looked_at += 1
        last = over.place(record)
    return PurgeBatch(tuple(ids), after=last if looked_at >= over.limit else None)


def _stays(record: ExecutionRecord, over: PurgeFilter, head: Head) -> bool:
    if not is_needed_by_parent(record, head):
        return False
    parent = head(record.parent)
    return parent is None or not over.fits(parent) or _stays(parent, over, head)
