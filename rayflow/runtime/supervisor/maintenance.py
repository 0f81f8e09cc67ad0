"""What has to be done from time to time across executions: schedules, leases of locks, deadlocks.

It owns nothing: all of it is read from the store, and decided by pure functions; each change is one transaction with
a compare-and-set, so that two of these, or one that dies half way, do no harm.
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

Ask = Callable[..., Any]


class MaintenanceLoop:
    """See the module's docstring.

    Args:
        ask: calls a method of the store's actor.
        nudge: has executions driven that were started, or have something new in their inboxes.
        codec: reads and writes inputs.
    """

    def __init__(self, ask: Ask, nudge: Callable[[Sequence[str]], None], codec: MsgpackCodec) -> None:
        self._ask = ask
        self._nudge = nudge
        self._codec = codec
        self._outages: dict[str, ThrottledWarning] = {}

    def look(self, now: float) -> float | None:
        """Do what is due; answers when a schedule is due next.

        Raises:
            RayflowError: the store cannot be asked now.
        """
        self._look_at_locks(now)
        return self._look_at_schedules(now)

    # --- locks ---------------------------------------------------------------------------------------------
    def _look_at_locks(self, now: float) -> None:
        locks: list[Lock] = self._ask("locks", None)
        contended = [lock for lock in locks if lock.waiting]
        if any(claim.expired(now) for lock in contended for claim in lock.claims):
            self._write([ExpireLeases(now)])
        if any(claim.execution_id for lock in contended for claim in lock.waiting):
            self._break_deadlocks(contended, now)

    def _break_deadlocks(self, locks: Sequence[Lock], now: float) -> None:
        stuck: list[ExecutionRecord] = self._ask("executions", Filter(stuck=True, limit=100_000))
        waits = {}
        for record in stuck:
            said = WaitsFor.from_text(record.waits)
            waits[record.id] = Waits(record.id, said.locks, said.children)
        for cycle in find_deadlocks(waits, {lock.name: lock.claims for lock in locks}):
            if cycle.claim is None:
                continue
            log.error("%s", cycle)
            failure = encode_failure(deadlock_failure(str(cycle)))
            claim = cycle.claim
            self._write([FailLockWait(claim.execution_id, claim.step, claim.name, now, failure)])

    # --- schedules -----------------------------------------------------------------------------------------
    def _look_at_schedules(self, now: float) -> float | None:
        wakes: list[float] = []
        for record in self._ask("schedules"):
            try:
                wake = self._look_at_schedule(record, now)
            except RayflowError as error:  # one that cannot be started holds up no other
                known = self._outages.setdefault(
                    record.name, ThrottledWarning(log, f"schedule {record.name} cannot go on")
                )
                known.failed(error)
                continue
            if (trouble := self._outages.pop(record.name, None)) is not None:
                trouble.over()
            if wake is not None:
                wakes.append(wake)
        return min(wakes, default=None)

    def _look_at_schedule(self, record: ScheduleRecord, now: float) -> float | None:
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
        """Start what is decided and note it. Raises SingletonConflict if not all of it can be started."""
        if unchanged(record, decision.state, decision.wake):
            return
        definition: DefinitionRecord | None = None
        if decision.starts:
            definition = self._ask("definition", plan.workflow_id, plan.version or None)
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
        there: list[ExecutionRecord] = self._ask("executions", Filter(ids=tuple(running), limit=len(running)))
        unfinished = {record.id for record in there if not ExecutionStatus(record.status).terminal}
        return [name for name in running if name not in unfinished]

    def _write(self, operations: Sequence[Operation]) -> None:
        answers: Sequence[Answer] = self._ask("start", list(operations))
        touched = [name for answer in answers if isinstance(answer, Done) for name in answer.touched]
        for answer in answers:
            if isinstance(answer, Rejected) and isinstance(answer.error, SingletonConflict):
                raise answer.error
            if isinstance(answer, Rejected):
                log.info("somebody else was faster: %s", answer.error)
        if touched:
            self._nudge(touched)


#: Executions that one transaction looks at, and seconds between two of them, so that commits go first.
BATCH, PAUSE = 100, 0.02

#: Large values that are deleted at a time, and seconds between two looks for some to which nothing refers.
VALUES, VALUES_PAUSE = 20, 30.0


class RetentionSweeper:
    """See the module's docstring.

    Args:
        ask: calls a method of the store's actor.
    """

    def __init__(self, ask: Ask) -> None:
        self._ask = ask
        self._after: tuple[float, str] | None = None
        self._deleted = 0
        self._spare = False

    def look(self, now: float) -> bool:
        """Do one short piece of work; answers whether there is more to do at once.

        Args:
            now: seconds since the epoch.

        Raises:
            RayflowError: the store cannot be asked now.
        """
        found: PurgeBatch = self._ask("collect", PurgeFilter(expired_by=now, after=self._after, limit=BATCH))
        self._after = found.after
        self._deleted += len(found.ids)
        self._spare = self._spare or bool(found.ids)
        if self._after is not None:
            return True
        if self._deleted:
            log.info("%d executions were deleted, whose time to live was over", self._deleted)
            self._deleted = 0
        self._spare = self._spare and bool(self._ask("reclaim"))
        return self._spare


class Collecting:
    """When the supervisor collects: it goes on in a moment where there is more, and nobody waits for it.

    Args:
        turns: the supervisor's.
        ask: calls a method of the store's actor.
        send: sends to the store's actor.
    """

    def __init__(self, turns: Mailbox, ask: Ask, send: Callable[..., None]) -> None:
        self._turns = turns
        self._send = send
        self._collector = RetentionSweeper(ask)
        self._busy = False

    def tick(self) -> None:
        """Delete what has expired, unless it is at it."""
        if not self._busy:
            self._turns.post(self._look)

    def _look(self) -> None:
        self._busy = False  # also where the store cannot be asked
        if self._collector.look(self._turns.now()):
            self._busy = True
            self._turns.later(PAUSE, self._look)

    def look_for_values(self) -> None:
        """Have large values of nobody deleted, now and from time to time."""
        # Not asked, but sent: it may take longer than this thread may wait.
        self._send("collect_values", GRACE, VALUES, then=self._told, group="values")
        self._turns.later(VALUES_PAUSE, self.look_for_values)

    @staticmethod
    def _told(reply: Reply) -> None:
        if reply.error is not None:
            log.info("large values cannot be collected now: %s", reply.error)
        elif reply.value:
            log.info("%d large values were deleted, to which nothing refers any more", reply.value)
