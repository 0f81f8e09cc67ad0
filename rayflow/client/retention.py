"""Purge finished executions: selection and batched deletion."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from rayflow.client.backend import Backend
from rayflow.errors import InvalidArgument
from rayflow.ids import ExecutionStatus
from rayflow.storage.rules.retention import PurgeBatch, PurgeFilter

_FINISHED = tuple(status for status in ExecutionStatus if status.terminal)


@dataclass(frozen=True, slots=True)
class PurgeResult:
    """What ``engine.purge`` deleted, or would delete.

    Args:
        executions: number of executions.
        bytes: approximate number of bytes of their records. The disk space is released a little later.
        dry_run: whether nothing was deleted.
    """

    executions: int
    bytes: int
    dry_run: bool = False


def purge(backend: Backend, selected: PurgeFilter, *, dry_run: bool) -> PurgeResult:
    """Delete the selected executions batch by batch, and return the totals."""
    passes = PurgePasses(selected, dry_run=dry_run)
    while passes.next is not None:
        passes.add(backend.purge(passes.next, dry_run=dry_run))
    while passes.result.executions and not dry_run and backend.reclaim():
        pass
    return passes.result


def select(
    older_than: float | None,
    status: ExecutionStatus | str | Sequence[ExecutionStatus | str],
    workflow: str | None,
    now: float,
) -> PurgeFilter:
    """Return the filter for ``engine.purge``'s arguments.

    Args:
        older_than: seconds since the end, at least; None selects executions whose retention has passed.
        status: one of ``completed``, ``failed`` and ``cancelled``, or several; empty for all.
        workflow: the workflow's id; None for all.
        now: seconds since the epoch.

    Raises:
        InvalidArgument: ``older_than`` is not a number of seconds, or a status is not one of a finished execution.
    """
    given = [status] if isinstance(status, str) else list(status)
    wanted = tuple(known for known in _FINISHED if known in given)
    unknown = [each for each in given if each not in _FINISHED]
    if unknown:
        raise InvalidArgument(
            f"cannot purge executions with status {', '.join(map(repr, map(str, unknown)))}; status must be completed, "
            "failed or cancelled"
        )
    if older_than is None:
        return PurgeFilter(status=wanted, workflow_id=workflow, expired_by=now)
    given_as: object = older_than  # a caller may pass anything
    if isinstance(given_as, bool) or not isinstance(given_as, int | float) or not 0 <= given_as < math.inf:
        raise InvalidArgument(f"older_than must be a number of seconds, 0 or more, not {older_than!r}")
    return PurgeFilter(status=wanted, workflow_id=workflow, ended_before=now - older_than)


class PurgePasses:
    """Passes over the selected executions, one batch after another, until a pass deletes nothing.

    A further pass finds executions that an execution deleted before had needed.

    Args:
        selected: the filter.
        dry_run: whether nothing is deleted; one pass then finds all.

    Attributes:
        next: the filter of the next batch; None at the end.
    """

    def __init__(self, selected: PurgeFilter, *, dry_run: bool) -> None:
        self.next: PurgeFilter | None = selected
        self.dry_run = dry_run
        self._selected = selected
        self._before = self._executions = self._bytes = 0

    def add(self, found: PurgeBatch) -> None:
        """Count a batch and choose the next one."""
        self._executions += len(found.ids)
        self._bytes += found.size
        if found.after is not None:
            self.next = replace(self._selected, after=found.after)
        elif self.dry_run or self._executions == self._before:
            self.next = None
        else:
            self.next, self._before = self._selected, self._executions

    @property
    def result(self) -> PurgeResult:
        """The totals so far."""
        return PurgeResult(self._executions, self._bytes, self.dry_run)
