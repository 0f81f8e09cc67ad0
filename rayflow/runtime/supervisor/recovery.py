"""The supervisor's part that finds executions without a live coordinator, and has them go on.

What follows from a loss is decided by the pure machines of :mod:`rayflow.core.cluster.recovery`; this shell reads the
rows, has executions submitted, and those set aside that get no further. Everything is called on the supervisor's one
thread. All it knows can be read back, but for the counts of takeovers: a supervisor that was made anew begins them
again.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Protocol

from rayflow.core.cluster.recovery import CRASH_LOOP, FailoverAction, FailoverCounter, OverdueItem, overdue, stale
from rayflow.core.events import Entry, Paused
from rayflow.errors import CorruptRecord, Failure, RayflowError
from rayflow.ids import ExecutionStatus
from rayflow.runtime.actors.mailbox import Mailbox
from rayflow.runtime.code.environment import Environment, environment_of
from rayflow.storage.base import Filter
from rayflow.storage.codec.journal import append_digest, encode_entry, encode_failure
from rayflow.storage.damage import DamagedRecord, damage_failure, remedy
from rayflow.storage.model import ExecutionRecord, JournalRow
from rayflow.storage.operations import Append, Claim, Park, Rejected

log = logging.getLogger(__name__)

#: Seconds after which something is tried again that went wrong.
AGAIN = 0.2

#: Seconds between two looks for executions that have been lost sight of. Nothing should ever lose sight of one: this
#: is the net below.
LOOK = 10.0

_UNFINISHED = (ExecutionStatus.PENDING, ExecutionStatus.RUNNING, ExecutionStatus.PAUSED)

#: Those that somebody owns, or that need an owner some time.
DRIVEN = Filter(status=_UNFINISHED, driven=True, limit=1_000_000)


class Submit(Protocol):
    """Has executions driven."""

    def __call__(self, records: Sequence[ExecutionRecord], *, suspect: bool = False) -> None:
        """``suspect``: each on a coordinator of its own."""


class RecoveryLoop:
    """See the module's docstring.

    Args:
        turns: the supervisor's thread.
        ask: asks the store's actor.
        driven: the executions that have a live coordinator, or wait for one.
        submit: has executions driven.
        set_aside: has an execution set aside, with the reason.

    Attributes:
        takeovers: how often executions lost their coordinators.
    """

    def __init__(
        self,
        turns: Mailbox,
        ask: Callable[..., Any],
        driven: Callable[[], Collection[str]],
        submit: Submit,
        set_aside: Callable[[ExecutionRecord, Failure], None],
    ) -> None:
        self.takeovers = FailoverCounter()
        self._turns = turns
        self._ask = ask
        self._driven = driven
        self._submit = submit
        self._set_aside = set_aside
        self._found: list[str] = []
        self._watchful = False
        self._looked = 0.0

    # --- what nobody drives --------------------------------------------------------------------------------
    def begin(self) -> None:
        """Take up all that is unfinished; whoever asks first is told what that was."""
        self._found = self._take_up(None, 0.0)
        self._watchful = True

    def recover(self, ids: Collection[str] | None = None, older_than: float = 0.0) -> list[str]:
        """Take up what needs a coordinator and has none; answers what that was, or was at the beginning.

        Args:
            ids: only these executions; None for all.
            older_than: only those for which nothing was done for so many seconds.
        """
        self._watchful = self._watchful or ids is None
        taken = self._take_up(ids, older_than)
        found, self._found = self._found, []  # once somebody is told of it
        return [i for i in found if ids is None or i in ids] + taken

    def look(self) -> None:
        """From time to time, take up what nobody drives and nobody has done anything for; not before it was begun."""
        now = self._turns.now()
        if self._watchful and now >= self._looked + LOOK:
            self._looked = now
            if found := self._take_up(None, LOOK):
                log.warning("nobody drove these executions, and they are taken up: %s", ", ".join(found))

    def stale(self) -> list[ExecutionRecord]:
        """The executions that need a coordinator and have none, as they are; nothing is done."""
        return self._stale(None, 0.0)

    def overdue(self, grace: float) -> list[OverdueItem]:
        """One pass of the watchdog over all unfinished executions: takes up what is overdue and nobody sees to.

        Args:
            grace: seconds that whoever sees to it may take.
        """
        now = self._turns.now()
        rows: list[ExecutionRecord] = self._ask("executions", DRIVEN)
        found = overdue(rows, now=now, grace=grace)
        late = {one.execution_id for one in found} - set(self._driven())
        # Also one whose deadline passes while it waits for something else: its owner will see that.
        self._submit([row for row in rows if row.id in late])
        return found

    def _take_up(self, ids: Collection[str] | None, older_than: float) -> list[str]:
        records = self._stale(ids, older_than)
        self._submit(records)
        return [record.id for record in records]

    def _stale(self, ids: Collection[str] | None, older_than: float) -> list[ExecutionRecord]:
        rows: list[ExecutionRecord] = self._ask("executions", DRIVEN)
        wanted = rows if ids is None else [row for row in rows if row.id in ids]
        return stale(wanted, self._driven(), now=self._turns.now(), older_than=older_than)

    # --- takeovers -----------------------------------------------------------------------------------------
    def lost(self, coordinator: str, ids: Iterable[str]) -> None:
        """A coordinator is gone: others take over what it drove.

        Args:
            coordinator: its name.
            ids: what it drove.
        """
        if left := set(ids):
            log.warning("coordinator %s is gone; %d executions are taken up by others", coordinator, len(left))
            self._take_over(left)

    def _take_over(self, ids: set[str]) -> None:
        for record in self._unfinished(ids, self._take_over):
            how = self.takeovers.record_loss(record.id, record.last_seq)
            if how is FailoverAction.QUARANTINE:
                self._set_aside(record, _crash_loop(self.takeovers.times(record.id)))
                self.takeovers.forget(record.id)
            else:
                self._submit([record], suspect=how is FailoverAction.EXCLUSIVE)

    def submit_again(self, ids: Sequence[str]) -> None:
        """Have these executions driven by others, since whoever was to drive them does not."""
        for record in self._unfinished(set(ids), lambda left: self.submit_again(tuple(left))):
            self._submit([record], suspect=self.takeovers.suspected(record.id))

    def _unfinished(self, ids: set[str], again: Callable[[set[str]], None]) -> list[ExecutionRecord]:
        """Those of these executions that nobody drives; where the store cannot tell now, ``again`` is called later."""
        wanted = replace(DRIVEN, ids=tuple(ids), limit=len(ids))
        try:
            rows: list[ExecutionRecord] = self._ask("executions", wanted)
        except RayflowError as error:
            log.warning("what is without a coordinator cannot be looked up now; it is tried again: %s", error)
            self._turns.later(AGAIN, lambda: again(ids))
            return []
        driven = self._driven()
        return [row for row in rows if row.id not in driven]

    def forget(self, ids: Iterable[str]) -> None:
        """These executions were given up by their coordinators in good order."""
        for execution_id in ids:
            self.takeovers.forget(execution_id)

    def made_progress(self, ids: Iterable[str]) -> bool:
        """Whether all of these executions have got further than where their coordinators died."""
        records: list[ExecutionRecord | None] = [self._ask("execution", execution_id) for execution_id in ids]
        return all(r is None or self.takeovers.has_progressed(r.id, r.last_seq) for r in records)


def _crash_loop(times: int) -> Failure:
    message = (
        f"its coordinator died {times} times in a row without any progress of this execution; most likely its "
        "own code kills the process. Mend it, then resume the execution"
    )
    return Failure(type=CRASH_LOOP, message=message)


#: Seconds after which it is tried again.
QUARANTINE_RETRY = 1.0


class Quarantine:
    """The supervisor's part that sets executions aside; everything is called on its one thread.

    Args:
        turns: that thread.
        ask: asks the store's actor.
    """

    def __init__(self, turns: Mailbox, ask: Callable[..., Any]) -> None:
        self._turns = turns
        self._ask = ask
        #: Executions whose rows are damaged, and were told of.
        self._told: set[str] = set()
        #: Those that are to be set aside as soon as the store can be written.
        self._due: set[str] = set()

    def environment(self, record: ExecutionRecord) -> Environment | None:
        """The code environment of an execution; None, and it is set aside, if its row is damaged."""
        try:
            if isinstance(record, DamagedRecord):
                raise record.error
            return environment_of(record)
        except CorruptRecord as error:
            self.put(record, damage_failure(error, remedy(record, ())))
            return None

    def put(self, record: ExecutionRecord, reason: Failure) -> None:
        """Set an execution aside, now or as soon as the store can be written."""
        if record.id in self._due:  # each look into the store finds it, and it is tried again by itself
            return
        try:
            self._write(record, reason)
        except RayflowError as error:
            log.warning("execution %s cannot be set aside now; it is tried again: %s", record.id, error)
            self._due.add(record.id)
            self._turns.later(QUARANTINE_RETRY, partial(self._put_again, record, reason))

    def _put_again(self, record: ExecutionRecord, reason: Failure) -> None:
        self._due.discard(record.id)
        self.put(record, reason)

    def _write(self, record: ExecutionRecord, reason: Failure) -> None:
        if record.id not in self._told:
            log.error("execution %s is set aside: %s", record.id, reason.message)
        if isinstance(record, DamagedRecord):  # nothing can be written to it, and nobody takes it up
            self._told.add(record.id)
            return
        # The claim first: an append is told from another owner's by its epoch alone, which may be the same number.
        claim, *rest = setting_aside(record, reason, self._turns.now())
        for operations in ([claim], rest):
            refused = [answer.error for answer in self._ask("start", operations) if isinstance(answer, Rejected)]
            if refused:
                log.warning("execution %s is not set aside, somebody else has it: %s", record.id, refused[0])
                break


def setting_aside(record: ExecutionRecord, reason: Failure, now: float) -> list[Claim | Append | Park]:
    """What is written of an execution that nobody can drive: it is paused, by an owner of its own, and given up.

    Args:
        record: its row.
        reason: why.
        now: seconds since the epoch.
    """
    seq, epoch = record.last_seq + 1, record.epoch + 1
    rows = (JournalRow(seq, encode_entry(Entry(seq, Paused(now, reason.message)))),)
    return [
        Claim(record.id, record.epoch, uuid.uuid4().hex, "", now),
        Append(
            record.id, epoch, seq, rows, append_digest(rows), now, ExecutionStatus.PAUSED,
            inbox_done=record.inbox_done, failure=encode_failure(reason),
        ),
        Park(record.id, epoch, runnable_at=None, at=now, seen=record.inbox_last),
    ]  # fmt: skip
