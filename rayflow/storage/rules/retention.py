"""Retention rule for all stores: which finished executions may be deleted.

An execution is deleted with its row, journal, inbox, dead letters, notes and keyed records. The totals keep what it
counted. Unfinished executions are never deleted. Neither is a child that its parent's current run may still need: if
that run fails and is resumed, it may issue the call again. Then a failed child must exist to be resumed with its
parent, and a completed one must not run a second time. Such a child stays until its parent has completed, was
cancelled permanently, has continued with another run, or is deleted. So does a child that ends with its parent,
since it is resumed together with the parent.
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
    """Selection of finished executions, in the order of their ends; with ``expired_by``, of ``expires_at``.

    Args:
        ids: only these executions; None for all.
        status: only these statuses; empty for all.
        workflow_id: only this workflow.
        ended_before: only executions that ended before this moment.
        expired_by: only executions whose own retention has ended by this moment.
        after: only executions after this moment and id, in the order.
        limit: maximum number of executions that one call reads.
    """

    ids: tuple[str, ...] | None = None
    status: tuple[ExecutionStatus, ...] = ()
    workflow_id: str | None = None
    ended_before: float | None = None
    expired_by: float | None = None
    after: tuple[float, str] | None = None
    limit: int = 100

    def place(self, record: ExecutionRecord) -> tuple[float, str]:
        """Return the execution's place in the order."""
        at = record.updated_at if self.expired_by is None else record.expires_at
        return (0.0 if at is None else at, record.id)

    def fits(self, record: ExecutionRecord) -> bool:
        """Return whether the filter selects an execution, wherever it is in the order."""
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
    """Executions that one call has deleted, or would delete.

    Args:
        ids: ids of the executions.
        size: bytes that their records took.
        after: the ``after`` of the next call; None if there are no more.
    """

    ids: tuple[str, ...] = ()
    size: int = 0
    after: tuple[float, str] | None = None


def is_needed_by_parent(record: ExecutionRecord, head: Head) -> bool:
    """Return whether the run that called this child may still need it.

    Args:
        record: a finished execution.
        head: returns the row of an execution, or None.
    """
    parent = head(record.parent) if record.parent_step else None
    if parent is None or parent.status is ExecutionStatus.COMPLETED:
        return False
    if parent.status is ExecutionStatus.CANCELLED:  # it is resumed with its own parent, if that cancelled it
        return is_needed_by_parent(parent, head)
    if not record.waited_for:  # it continues with any run of its parent
        return record.start_nonce.startswith(f"{parent.start_nonce}/")
    return rewinds_at_call(parent, record) is not None


def choose(records: Iterable[ExecutionRecord], over: PurgeFilter, head: Head, *, later: bool) -> PurgeBatch:
    """Return the executions that one transaction may delete, without their sizes.

    Args:
        records: selected executions, in their order, at most ``over.limit``.
        over: the selection.
        head: returns the row of an execution, or None.
        later: include executions that may be deleted once others of the selection are.
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
