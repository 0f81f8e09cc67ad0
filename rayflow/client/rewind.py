"""Plan of a rewind: how a failed execution continues, together with the children that it cancelled by failing.

A rewind is one transaction. A child that its parent cancelled has ended as cancelled, as have that child's own
children. If the parent continues from before the cancellation, it waits for the child, so these children continue from
before their cancellation as well. So do children that failed, if the parent has not reacted to the failure or failed
because of it. A child that another caller cancelled stays cancelled; a child whose compensations have run stays ended.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from rayflow.client.backend import Backend
from rayflow.core.events import CancelRequested, Ended, Entry, Rewound
from rayflow.core.execution.journal import RewindPlan, effective, plan_rewind
from rayflow.errors import InvalidTransition
from rayflow.ids import ExecutionStatus
from rayflow.storage.base import Filter
from rayflow.storage.codec.journal import append_digest, decode_entry, encode_entry
from rayflow.storage.damage import entries_of, options_of
from rayflow.storage.model import ExecutionRecord, InboxRow, JournalRow
from rayflow.storage.operations import Rewind
from rayflow.storage.rules.starts import call_nonce, carried_rows

_NOT_COMPLETED = tuple(status for status in ExecutionStatus if status is not ExecutionStatus.COMPLETED)

#: More children than any execution has.
_CHILDREN = 10_000_000


class UnsettledError(Exception):
    """A cancelled child, named by its id, has not ended yet."""


class RewindPlanner:
    """Plans how one failed execution continues.

    Args:
        backend: where records are read.
        root: the execution.
        now: seconds since the epoch.
    """

    def __init__(self, backend: Backend, root: ExecutionRecord, now: float) -> None:
        self._backend = backend
        self._root = root
        self._now = now

    def plan(self) -> Rewind:
        """Return the one operation that makes the execution and its children continue.

        Raises:
            InvalidTransition: the execution did not fail, compensations of the execution or of a child have run, or
                another caller cancelled the child because of which it failed.
            UnsettledError: a child has not ended yet.
        """
        entries = self._journal(self._root)
        plan = plan_rewind(self._root.id, entries)
        children = tuple(self._children(self._root, plan))
        return replace(self._operation(self._root, plan), children=children)

    def _operation(self, record: ExecutionRecord, plan: RewindPlan) -> Rewind:
        options = options_of(record)
        deadline = None if options.timeout is None else self._now + options.timeout
        seq = record.last_seq + 1
        row = JournalRow(seq, encode_entry(Entry(seq, Rewound(self._now, plan.to, deadline))))
        signals = (left for left in self._unread(record.id) if left.kind == "signal")  # accepted, and never applied
        carried = (
            *carried_rows(plan.carried, f"carried/{record.epoch}"),
            *(replace(left, key=f"left/{record.epoch}/{left.number}") for left in signals),
        )
        digest = append_digest([row])
        return Rewind(record.id, record.epoch, record.last_seq, row, digest, carried, deadline, self._now, plan.to)

    # --- children ------------------------------------------------------------------------------------------
    def _children(self, parent: ExecutionRecord, plan: RewindPlan) -> Iterator[Rewind]:
        """Yield the rewinds of the children that the rewound parent waits for."""
        calls = {call_nonce(parent, number, rewinds): number for number, rewinds in enumerate(plan.calls, start=1)}
        found = self._backend.executions(Filter(parent=parent.id, status=_NOT_COMPLETED, limit=_CHILDREN))
        for child in found:
            number = calls.get(child.start_nonce)
            if child.waited_for:
                if number in plan.children:
                    yield from self._child(child, cause=number == plan.failed)
            elif child.parent_step < 0 and (number is not None or self._of_earlier_run(child, parent)):
                yield from self._child(child, cause=False)

    @staticmethod
    def _of_earlier_run(child: ExecutionRecord, parent: ExecutionRecord) -> bool:
        nonce, run, _ = child.start_nonce.rsplit("/", 2)
        return nonce == parent.start_nonce and int(run) < parent.run

    def _child(self, child: ExecutionRecord, *, cause: bool) -> Iterator[Rewind]:
        entries = self._journal(child)
        unread = [decode_entry(child.id, 0, row.body) for row in self._unread(child.id) if row.kind == "cancel"]
        asked = [e.event for e in (*effective(entries), *unread) if isinstance(e.event, CancelRequested)]
        if not child.status.terminal:
            if any(event.by for event in asked):
                raise UnsettledError(child.id)
            return
        ended = entries[-1].event
        given_up = isinstance(ended, Ended) and ended.cancelled_by_parent and all(event.by for event in asked)
        if not given_up and (child.status is ExecutionStatus.CANCELLED or not child.waited_for):
            if cause:
                raise self._stays(child, "was cancelled")
            return  # its parent hears of that, if it waits for it
        try:
            plan = plan_rewind(child.id, entries, cancelled_by_parent=given_up)
        except InvalidTransition as error:
            if cause or given_up:
                raise self._stays(child, "has run its compensations") from error
            return
        yield from self._children(child, plan)
        yield self._operation(child, plan)

    def _stays(self, child: ExecutionRecord, what: str) -> InvalidTransition:
        return InvalidTransition(
            self._root.id,
            status=f"failed, and its child {child.id!r} {what}, so it cannot continue",
            action="resume",
            hint=f"Fork {child.parent!r} before the call that starts it, with allow_reacquire=True "
            "(--allow-reacquire): the fork starts its own child",
        )

    # --- reading -------------------------------------------------------------------------------------------
    def _journal(self, record: ExecutionRecord) -> list[Entry]:
        return entries_of(record, self._backend.journal(record.id))

    def _unread(self, execution_id: str) -> list[InboxRow]:
        return self._backend.inbox(execution_id)
