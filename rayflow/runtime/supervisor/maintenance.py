"""Periodic maintenance across executions: schedules, leases of locks, deadlocks, retention.

Maintenance owns no state: it reads the store, pure functions decide, and each change is one transaction with a
compare-and-set. So two supervisors, or one that dies halfway, do no harm. All methods run on the supervisor's thread.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

from rayflow.core.execution.requests import WaitsFor
from rayflow.core.failures import deadlock_failure
from rayflow.core.locks.deadlocks import Waits, find_deadlocks
from rayflow.core.locks.machine import Lock
from rayflow.core.schedules.machine import Decision, decide, ended
from rayflow.errors import RayflowError, SingletonConflict, WorkflowNotRegistered
from rayflow.ids import ExecutionStatus
from rayflow.runtime.actors.base import Reply
from rayflow.runtime.actors.mailbox import Mailbox
from rayflow.runtime.logs import ThrottledWarning
from rayflow.storage.base import Filter
from rayflow.storage.codec.journal import encode_failure
from rayflow.storage.codec.payloads import MsgpackCodec
from rayflow.storage.codec.schedules import ScheduleSpec, decode_plan, decode_state
from rayflow.storage.model import DefinitionRecord, ExecutionRecord, ScheduleRecord
from rayflow.storage.operations import Answer, Done, ExpireLeases, FailLockWait, Operation, Rejected
from rayflow.storage.rules.large_values import GRACE
from rayflow.storage.rules.retention import PurgeBatch, PurgeFilter
from rayflow.storage.rules.starts import schedule_transaction, unchanged

log = logging.getLogger(__name__)

#: Executions that one purge transaction considers, and seconds between two of them, so that commits go first.
BATCH, PAUSE = 100, 0.02

#: Large values that are deleted at a time, and seconds between two searches for unreferenced ones.
VALUE_BATCH, VALUE_INTERVAL = 20, 30.0

StoreCall = Callable[..., Any]
"""Calls a method of the store actor: its name, then its arguments."""


class MaintenanceLoop:
    """Fires schedules, expires leases and resolves deadlocks.

    Args:
        notify: has executions driven that were started, or have new rows in their inboxes.
    """

    def __init__(self, call_store: StoreCall, notify: Callable[[Sequence[str]], None], codec: MsgpackCodec) -> None:
        self._call_store = call_store
        self._notify = notify
        self._codec = codec
        self._outages: dict[str, ThrottledWarning] = {}

    def run(self, now: float) -> float | None:
        """Run the due checks, and return when the next schedule is due. Raises RayflowError if the store fails."""
        self._check_locks(now)
        return self._check_schedules(now)

    def _check_locks(self, now: float) -> None:
        locks: list[Lock] = self._call_store("locks", None)
        contended = [lock for lock in locks if lock.waiting]
        if any(claim.expired(now) for lock in contended for claim in lock.claims):
            self._write([ExpireLeases(now)])
        if any(claim.execution_id for lock in contended for claim in lock.waiting):
            self._break_deadlocks(contended, now)

    def _break_deadlocks(self, locks: Sequence[Lock], now: float) -> None:
        stuck: list[ExecutionRecord] = self._call_store("executions", Filter(stuck=True, limit=100_000))
        waits = {}
        for record in stuck:
            waits_for = WaitsFor.from_text(record.waits)
            waits[record.id] = Waits(record.id, waits_for.locks, waits_for.children)
        for cycle in find_deadlocks(waits, {lock.name: lock.claims for lock in locks}):
            if cycle.claim is None:
                continue
            log.error("%s", cycle)
            failure = encode_failure(deadlock_failure(str(cycle)))
            claim = cycle.claim
            self._write([FailLockWait(claim.execution_id, claim.step, claim.name, now, failure)])

    def _check_schedules(self, now: float) -> float | None:
        wakes: list[float] = []
        for record in self._call_store("schedules"):
            try:
                wake = self._check_schedule(record, now)
            except RayflowError as error:  # the other schedules continue
                outage = self._outages.setdefault(
                    record.name, ThrottledWarning(log, f"schedule {record.name} cannot start its executions")
                )
                outage.failed(error)
                continue
            if (ended_outage := self._outages.pop(record.name, None)) is not None:
                ended_outage.recovered()
            if wake is not None:
                wakes.append(wake)
        return min(wakes, default=None)

    def _check_schedule(self, record: ScheduleRecord, now: float) -> float | None:
        state = decode_state(record)
        if state.paused or (record.wake is not None and record.wake > now and not state.queued_due):
            return record.wake
        if record.wake is None and not state.queued_due:
            return None
        plan = decode_plan(record)
        state = ended(state, self._ended(state.running))
        decision = decide(record.name, plan.schedule, state, now)
        try:
            self._fire(record, plan, decision, now)
        except SingletonConflict as taken:
            ours = taken.execution_id in {start.execution_id for start in decision.starts}
            decision = decide(record.name, plan.schedule, state, now, most=int(ours))
            self._fire(record, plan, decision, now)
        return decision.wake

    def _fire(self, record: ScheduleRecord, plan: ScheduleSpec, decision: Decision, now: float) -> None:
        """Write a decision with all its starts. Raises SingletonConflict if not all of them can be started."""
        if unchanged(record, decision.state, decision.wake):
            return
        definition: DefinitionRecord | None = None
        if decision.starts:
            definition = self._call_store("definition", plan.workflow_id, plan.version or None)
            if definition is None:
                raise WorkflowNotRegistered(plan.workflow_id, known=())
        operation = schedule_transaction(
            record, plan, definition, decision.state, starts=decision.starts, cancels=decision.cancels,
            wake=decision.wake, now=now, codec=self._codec,
        )  # fmt: skip
        self._write([operation])

    def _ended(self, running: Sequence[str]) -> list[str]:
        if not running:
            return []
        there: list[ExecutionRecord] = self._call_store("executions", Filter(ids=tuple(running), limit=len(running)))
        unfinished = {record.id for record in there if not ExecutionStatus(record.status).terminal}
        return [name for name in running if name not in unfinished]

    def _write(self, operations: Sequence[Operation]) -> None:
        answers: Sequence[Answer] = self._call_store("start", list(operations))
        touched = [name for answer in answers if isinstance(answer, Done) for name in answer.touched]
        for answer in answers:
            if isinstance(answer, Rejected) and isinstance(answer.error, SingletonConflict):
                raise answer.error
            if isinstance(answer, Rejected):
                log.info("a maintenance operation lost against a concurrent one: %s", answer.error)
        if touched:
            self._notify(touched)


class RetentionSweeper:
    """Deletes expired executions, one batch per call, and then reclaims their space."""

    def __init__(self, call_store: StoreCall) -> None:
        self._call_store = call_store
        self._after: tuple[float, str] | None = None
        self._deleted = 0
        self._reclaimable = False

    def sweep(self, now: float) -> bool:
        """Delete one batch, and return whether there is more to do. Raises RayflowError if the store fails."""
        found: PurgeBatch = self._call_store("collect", PurgeFilter(expired_by=now, after=self._after, limit=BATCH))
        self._after = found.after
        self._deleted += len(found.ids)
        self._reclaimable = self._reclaimable or bool(found.ids)
        if self._after is not None:
            return True
        if self._deleted:
            log.info("deleted %d executions whose retention had expired", self._deleted)
            self._deleted = 0
        self._reclaimable = self._reclaimable and bool(self._call_store("reclaim"))
        return self._reclaimable


class RetentionLoop:
    """Runs the retention sweeper: one batch at a time, so that commits go first.

    Args:
        send: sends to the store actor.
    """

    def __init__(self, mailbox: Mailbox, call_store: StoreCall, send: Callable[..., None]) -> None:
        self._mailbox = mailbox
        self._send = send
        self._sweeper = RetentionSweeper(call_store)
        self._busy = False

    def tick(self) -> None:
        """Start a sweep, unless one is under way."""
        if not self._busy:
            self._mailbox.submit(self._sweep)

    def _sweep(self) -> None:
        self._busy = False  # also if the store fails
        if self._sweeper.sweep(self._mailbox.now()):
            self._busy = True
            self._mailbox.submit_later(PAUSE, self._sweep)

    def purge_values(self) -> None:
        """Delete unreferenced large values, now and periodically."""
        # Sent, not called: it may take longer than this thread may wait.
        self._send("collect_values", GRACE, VALUE_BATCH, then=self._purged_values, group="values")
        self._mailbox.submit_later(VALUE_INTERVAL, self.purge_values)

    @staticmethod
    def _purged_values(reply: Reply) -> None:
        if reply.error is not None:
            log.info("cannot delete unreferenced large values, retrying in %g s: %s", VALUE_INTERVAL, reply.error)
        elif reply.value:
            log.info("deleted %d unreferenced large values", reply.value)
