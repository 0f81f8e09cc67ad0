"""Recovery: finds executions without a live coordinator and reassigns or quarantines them.

The pure machines of :mod:`rayflow.core.cluster.recovery` decide what follows from the loss of a coordinator. This shell
reads the executions' rows, submits them again, and quarantines those that make no progress or are damaged. All state
can be read back from the store, except the failover counts, which a restarted supervisor begins again. All methods run
on the supervisor's thread.
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

#: Seconds until a failed read is repeated.
RETRY_DELAY = 0.2

#: Seconds between two sweeps for executions that no message is about. There should never be one: this is the safety
#: net.
SWEEP_INTERVAL = 10.0

#: Seconds until the quarantine of an execution is tried again.
QUARANTINE_RETRY = 1.0

_UNFINISHED = (ExecutionStatus.PENDING, ExecutionStatus.RUNNING, ExecutionStatus.PAUSED)

#: Executions that have an owner, or need one at some time.
DRIVEN = Filter(status=_UNFINISHED, driven=True, limit=1_000_000)


class Submit(Protocol):
    """Has executions driven."""

    def __call__(self, records: Sequence[ExecutionRecord], *, suspect: bool = False) -> None:
        """Submit executions; with ``suspect``, each gets its own coordinator."""


class RecoveryLoop:
    """Finds and resubmits executions without a live coordinator.

    Args:
        driven: returns the executions that have a live coordinator or wait for one.
        submit: has executions driven.
        quarantine: quarantines an execution, with the reason.

    Attributes:
        takeovers: how often executions lost their coordinators.
    """

    def __init__(
        self,
        mailbox: Mailbox,
        call_store: Callable[..., Any],
        driven: Callable[[], Collection[str]],
        submit: Submit,
        quarantine: Callable[[ExecutionRecord, Failure], None],
    ) -> None:
        self.takeovers = FailoverCounter()
        self._mailbox = mailbox
        self._call_store = call_store
        self._driven = driven
        self._submit = submit
        self._quarantine = quarantine
        self._resumed_at_start: list[str] = []
        self._sweeping = False
        self._swept_at = 0.0

    def start(self) -> None:
        """Resume all unfinished executions; the first call of :meth:`recover` returns them."""
        self._resumed_at_start = self._resubmit(None, 0.0)
        self._sweeping = True

    def recover(self, ids: Collection[str] | None = None, older_than: float = 0.0) -> list[str]:
        """Resume the executions that need a coordinator and have none. Return them, and those resumed at the start.

        Args:
            ids: only these executions; None for all.
            older_than: only executions without activity for this many seconds.
        """
        self._sweeping = self._sweeping or ids is None
        resumed = self._resubmit(ids, older_than)
        at_start, self._resumed_at_start = self._resumed_at_start, []
        return [i for i in at_start if ids is None or i in ids] + resumed

    def sweep(self) -> None:
        """Resume executions that were overlooked, every few seconds, once recovery has been started or requested."""
        now = self._mailbox.now()
        if self._sweeping and now >= self._swept_at + SWEEP_INTERVAL:
            self._swept_at = now
            if found := self._resubmit(None, SWEEP_INTERVAL):
                log.warning("resuming executions that had no coordinator: %s", ", ".join(found))

    def stale(self) -> list[ExecutionRecord]:
        """Return the executions that need a coordinator and have none, without resuming them."""
        return self._stale(None, 0.0)

    def overdue(self, grace: float) -> list[OverdueItem]:
        """Return items overdue by more than ``grace`` seconds, and resume those without a coordinator."""
        now = self._mailbox.now()
        rows: list[ExecutionRecord] = self._call_store("executions", DRIVEN)
        found = overdue(rows, now=now, grace=grace)
        late = {one.execution_id for one in found} - set(self._driven())
        # Also an execution whose deadline passes while it waits for something else: its coordinator will see that.
        self._submit([row for row in rows if row.id in late])
        return found

    def _resubmit(self, ids: Collection[str] | None, older_than: float) -> list[str]:
        records = self._stale(ids, older_than)
        self._submit(records)
        return [record.id for record in records]

    def _stale(self, ids: Collection[str] | None, older_than: float) -> list[ExecutionRecord]:
        rows: list[ExecutionRecord] = self._call_store("executions", DRIVEN)
        wanted = rows if ids is None else [row for row in rows if row.id in ids]
        return stale(wanted, self._driven(), now=self._mailbox.now(), older_than=older_than)

    def lost(self, coordinator: str, ids: Iterable[str]) -> None:
        """Reassign the executions of a coordinator that has ended."""
        if left := set(ids):
            log.warning("coordinator %s has ended, reassigning its %d executions", coordinator, len(left))
            self._with_unfinished(left, self._fail_over)

    def _fail_over(self, record: ExecutionRecord) -> None:
        action = self.takeovers.record_loss(record.id, record.last_seq)
        if action is FailoverAction.QUARANTINE:
            self._quarantine(record, _crash_loop(self.takeovers.times(record.id)))
            self.takeovers.forget(record.id)
        else:
            self._submit([record], suspect=action is FailoverAction.EXCLUSIVE)

    def submit_again(self, ids: Sequence[str]) -> None:
        """Reassign executions whose coordinator has returned them."""
        self._with_unfinished(
            set(ids), lambda record: self._submit([record], suspect=self.takeovers.suspected(record.id))
        )

    def _with_unfinished(self, ids: set[str], action: Callable[[ExecutionRecord], None]) -> None:
        """Call ``action`` with those of these executions that are unfinished and not driven, once they can be read."""
        wanted = replace(DRIVEN, ids=tuple(ids), limit=len(ids))

        def attempt(again: Callable[[], None]) -> None:
            try:
                rows: list[ExecutionRecord] = self._call_store("executions", wanted)
            except RayflowError as error:
                log.warning("cannot read %d executions without a coordinator, retrying: %s", len(ids), error)
                again()
                return
            driven = self._driven()
            for row in [row for row in rows if row.id not in driven]:
                action(row)

        self._mailbox.retry(attempt, RETRY_DELAY)

    def forget(self, ids: Iterable[str]) -> None:
        """Reset the failover counts of executions that their coordinators released in good order."""
        for execution_id in ids:
            self.takeovers.forget(execution_id)

    def made_progress(self, ids: Iterable[str]) -> bool:
        """Return whether all of these executions are beyond the entry at which their coordinators died."""
        records: list[ExecutionRecord | None] = [self._call_store("execution", execution_id) for execution_id in ids]
        return all(r is None or self.takeovers.has_progressed(r.id, r.last_seq) for r in records)


def _crash_loop(times: int) -> Failure:
    message = (
        f"its coordinator died {times} times in a row without any progress of this execution. Most likely the "
        "workflow's own code kills the process. Fix the code, then resume the execution"
    )
    return Failure(type=CRASH_LOOP, message=message)


class Quarantine:
    """Pauses executions that cannot be driven, with the reason."""

    def __init__(self, mailbox: Mailbox, call_store: Callable[..., Any]) -> None:
        self._mailbox = mailbox
        self._call_store = call_store
        #: Executions whose rows are damaged, and that were logged.
        self._logged: set[str] = set()
        #: Executions whose quarantine is tried again.
        self._retrying: set[str] = set()

    def environment(self, record: ExecutionRecord) -> Environment | None:
        """Return an execution's code environment; if its row is damaged, quarantine it and return None."""
        try:
            if isinstance(record, DamagedRecord):
                raise record.error
            return environment_of(record)
        except CorruptRecord as error:
            self.put(record, damage_failure(error, remedy(record, ())))
            return None

    def put(self, record: ExecutionRecord, reason: Failure) -> None:
        """Quarantine an execution, now or as soon as the store can be written."""
        if record.id not in self._retrying:  # every sweep finds it again
            self._mailbox.retry(partial(self._put, record, reason), QUARANTINE_RETRY)

    def _put(self, record: ExecutionRecord, reason: Failure, again: Callable[[], None]) -> None:
        self._retrying.discard(record.id)
        try:
            self._write(record, reason)
        except RayflowError as error:
            log.warning("cannot quarantine execution %s, retrying: %s", record.id, error)
            self._retrying.add(record.id)
            again()

    def _write(self, record: ExecutionRecord, reason: Failure) -> None:
        if record.id not in self._logged:
            log.error("quarantining execution %s: %s", record.id, reason.message)
        if isinstance(record, DamagedRecord):  # it can neither be written nor claimed
            self._logged.add(record.id)
            return
        # The claim first: only its epoch distinguishes this append from another owner's, and that may be the same.
        claim, *rest = quarantine_operations(record, reason, self._mailbox.now())
        for operations in ([claim], rest):
            refused = [answer.error for answer in self._call_store("start", operations) if isinstance(answer, Rejected)]
            if refused:
                log.warning("execution %s is not quarantined, another owner has it: %s", record.id, refused[0])
                break


def quarantine_operations(record: ExecutionRecord, reason: Failure, now: float) -> list[Claim | Append | Park]:
    """Return the operations that claim, pause and park an execution.

    Args:
        record: its row.
        reason: why it cannot be driven.
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
