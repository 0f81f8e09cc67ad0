"""Deleting what is over: which executions are meant, and asking the store until there is nothing more."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from rayflow.errors import DefinitionError
from rayflow.ids import ExecutionStatus
from rayflow.storage.rules.retention import PurgeBatch, PurgeFilter

_OVER = tuple(status for status in ExecutionStatus if status.terminal)


@dataclass(frozen=True, slots=True)
class PurgeResult:
    """What ``engine.purge`` has deleted, or would.

    Args:
        executions: how many.
        bytes: about how many bytes their records took. They are given back to the disk a little later.
        dry_run: whether nothing was deleted.
    """

    executions: int
    bytes: int
    dry_run: bool = False


def meant(
    older_than: float | None,
    status: ExecutionStatus | str | Sequence[ExecutionStatus | str],
    workflow: str | None,
    now: float,
) -> PurgeFilter:
    """The executions that a person means.

    Args:
        older_than: seconds since their end, at least; None for those whose own time to live is over.
        status: one of ``completed``, ``failed`` and ``cancelled``, or several; empty for all.
        workflow: the workflow's id; None for all.
        now: seconds since the epoch.

    Raises:
        DefinitionError: it is no number of seconds, or no status of an execution that is over.
    """
    given = [status] if isinstance(status, str) else list(status)
    wanted = tuple(known for known in _OVER if known in given)
    unknown = [each for each in given if each not in _OVER]
    if unknown:
        raise DefinitionError(
            f"only what is over can be deleted: completed, failed or cancelled executions, not {', '.join(unknown)}"
        )
    if older_than is None:
        return PurgeFilter(status=wanted, workflow_id=workflow, expired_by=now)
    given_as: object = older_than  # by a person, who may pass anything
    if isinstance(given_as, bool) or not isinstance(given_as, int | float) or not 0 <= given_as < math.inf:
        raise DefinitionError(f"older_than needs seconds since the end, 0 or more, not {older_than!r}")
    return PurgeFilter(status=wanted, workflow_id=workflow, ended_before=now - older_than)


class PurgePasses:
    """Goes through what is meant, batch after batch, and once more as long as anything was deleted.

    What was needed by something that has been deleted is found then.

    Args:
        over: what is meant.
        dry_run: whether nothing is deleted, so that one round tells all.

    Attributes:
        next: what the store is to be asked next; None at the end.
    """

    def __init__(self, over: PurgeFilter, *, dry_run: bool) -> None:
        self.next: PurgeFilter | None = over
        self.dry_run = dry_run
        self._over = over
        self._before = self._executions = self._bytes = 0

    def add(self, found: PurgeBatch) -> None:
        """Note what a batch has come to, and go on."""
        self._executions += len(found.ids)
        self._bytes += found.size
        if found.after is not None:
            self.next = replace(self._over, after=found.after)
        elif self.dry_run or self._executions == self._before:
            self.next = None
        else:
            self.next, self._before = self._over, self._executions

    @property
    def deleted(self) -> PurgeResult:
        """What there was so far."""
        return PurgeResult(self._executions, self._bytes, self.dry_run)
