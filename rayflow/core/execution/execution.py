"""State machine of one execution, sans I/O: events go in, journal entries and actions come out.

The execution owns statuses, pausing, the consequences of a failed attempt, and the numbering of the journal. It owns
no clock, no store and no worker. Its shell (:mod:`rayflow.runtime.coordinator.driver`) reports what happened and when,
writes the entries, and performs the actions once the entries before them are durable.

    inputs                                             outputs, by take()
    begin, restore                                     entries       to append to the journal, in order
    completed, failed, lost, not_begun, sent, beat     actions       RunAttempt, StopAttempt
    inbox (pause, resume, cancel, signals, answers,    requests      to send together with these entries
           carried results)                            deferred      outcomes to keep in the inbox during a pause
    tick(now)                                          dead_letters  of steps that failed permanently
                                                       next_wake()

While the execution is paused, outcomes, signals and answers become inbox rows. They are applied in order on resume.
Deadlines and cancellations take effect during a pause, too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from rayflow.core.events import (
    AttemptFailed,
    CancelRequested,
    DeadlinePassed,
    Entry,
    Paused,
    RequestCompleted,
    Resumed,
    SignalReceived,
    Started,
    StepCompleted,
    StepFailed,
    TimerFired,
)
from rayflow.core.execution.actions import (
    Action,
    InboxItem,
    InboxOutcome,
    LiveTask,
    Request,
    RunAttempt,
    StopAttempt,
    Work,
)
from rayflow.core.execution.attempts import PendingState, PendingStep, timed_out
from rayflow.core.execution.journal import effective
from rayflow.core.execution.requests import WaitsFor, describe_awaited
from rayflow.core.execution.run import ExecutionRun
from rayflow.core.interpreter.effects import Outcome
from rayflow.core.interpreter.machine import Machine
from rayflow.definition.options import ExecutionOptions
from rayflow.errors import Failure
from rayflow.ids import ExecutionStatus

__all__ = ["Action", "Execution", "InboxItem", "RunAttempt", "StopAttempt", "Work"]


class Execution:
    """State machine of one execution.

    Args:
        machine: interpreter of the workflow's code.
        options: the execution's options.
        deadline: when the execution times out, in seconds since the epoch; None for never.
    """

    def __init__(self, machine: Machine, options: ExecutionOptions, *, deadline: float | None) -> None:
        self._options = options
        self._deadline = deadline
        self._run = ExecutionRun(machine, options)
        self._journal = self._run.journal
        self._attempts = self._run.attempts
        #: Inbox rows that are deferred until the execution resumes.
        self._deferred: list[tuple[int, InboxOutcome]] = []
        self._unrecorded: int | None = None
        self._reason: Failure | None = None
        self.inbox_seen = 0

    @property
    def paused(self) -> bool:
        """Whether the execution is paused."""
        return self._run.paused

    @property
    def outcome(self) -> Outcome | None:
        """Result of the code, once it has ended."""
        return self._run.outcome

    def begin(self, now: float) -> None:
        """Start the workflow's code."""
        self._run.apply(Started(self._journal.time(now)))

    def restore(
        self, entries: Sequence[Entry], inbox: Sequence[tuple[int, InboxItem]], now: float, *, seen: int = 0
    ) -> None:
        """Replay the journal and continue after it.

        Args:
            entries: the whole journal.
            inbox: inbox rows that are not applied yet, in order.
            now: seconds since the epoch.
            seen: newest inbox row that is known to be applied.

        Raises:
            NonDeterminismError: the code did not do what the journal recorded; no action was emitted.
        """
        self.inbox_seen = seen
        for event in (entry.event for entry in effective(entries)):
            if isinstance(event, Paused):
                self._run.paused, self._reason = True, Failure(type="Paused", message=event.reason)
            elif isinstance(event, Resumed):
                self._run.paused = False
            elif isinstance(event, DeadlinePassed):
                self._deadline = None
        with self._run.restoring():  # a step whose result is in the inbox needs no attempt
            self._run.restore(entries, now)
            for number, item in inbox:
                self.inbox(number, item, now)
            self._run.reissue_requests(now)
        self._run.start_idle()
        self.tick(now)

    def sent(self, seq: int, attempt: int, now: float) -> None:
        """Start the timeouts of an attempt that was sent to a worker."""
        if (step := self._attempts.current(seq, attempt)) is not None:
            self._attempts.sent(step, now)

    def beat(self, seq: int, attempt: int, now: float) -> bool:
        """Note a heartbeat of an attempt; return whether the attempt is current."""
        if (step := self._attempts.current(seq, attempt)) is not None:
            self._attempts.beat(step, now)
        return step is not None

    def ran(self, seq: int, attempt: int) -> None:
        """End the timeouts of an attempt whose code has finished and whose result is being stored."""
        if (step := self._attempts.current(seq, attempt)) is not None:
            self._attempts.ran(step)

    def completed(self, seq: int, attempt: int, result: bytes, *, began: float, worker: str, now: float) -> bool:
        """Accept the result of an attempt; return whether it counts. A late result does not."""
        step = self._attempts.current(seq, attempt)
        if step is None:
            self._journal.count("late_results")
            return False
        at = self._journal.time(now)
        self._accept(step, StepCompleted(at, seq, step.name, attempt, result, began, worker))
        return True

    def failed(self, seq: int, attempt: int, failure: Failure, *, began: float, worker: str, now: float) -> bool:
        """Accept the step's own failure of an attempt; return whether it counts."""
        step = self._attempts.current(seq, attempt)
        if step is None:
            self._journal.count("late_results")
            return False
        at = self._journal.time(now)
        self._accept(
            step, AttemptFailed(at, seq, step.name, attempt, failure, 0.0, counts=True, began=began, worker=worker)
        )
        return True

    def lost(self, seq: int, attempt: int, failure: Failure, *, exclusive: bool, worker: str, now: float) -> None:
        """Accept the loss of an attempt with its worker; it counts as a failure if the attempt was alone there."""
        step = self._attempts.current(seq, attempt)
        if step is not None:
            at = self._journal.time(now)
            event = AttemptFailed(at, seq, step.name, attempt, failure, 0.0, counts=exclusive, worker=worker)
            self._accept(step, event)

    def not_begun(self, seq: int, attempt: int) -> None:
        """Send an attempt again that a worker returned without beginning it; the attempt does not count."""
        step = self._attempts.current(seq, attempt)
        if step is not None:
            self._attempts.take_back(step)
            self._run.start_attempt(step)

    def inbox(self, number: int, item: InboxItem, now: float) -> None:
        """Apply or defer an inbox row. Rows arrive in the order of their numbers; rows already seen are ignored."""
        if number <= self.inbox_seen:
            return
        if self.outcome is not None:
            return  # the row stays in the inbox, for the next run and for display
        self.inbox_seen = number
        if self._options.checkpoints == "off" and self._unrecorded is None and not isinstance(item, Paused | Resumed):
            self._unrecorded = number  # no entry records the row, so the inbox has to keep it until the end
        match item:
            case Paused():
                self._pause(item.reason, now)
            case Resumed():
                self._resume(now)
                self._run.start_idle()
            case CancelRequested():
                self._interrupt(CancelRequested(self._journal.time(now), item.reason, item.by))
            case _ if self.paused:
                self._deferred.append((number, item))
            case _:
                self._apply_item(number, item, now)

    def tick(self, now: float) -> None:
        """Apply everything that is due by now, earliest first."""
        while self.outcome is None:
            due = self._next_due()
            if due is None or due[0] > now:
                return
            _, kind, number = due
            if kind == "deadline":
                self._deadline = None
                limit = "timeout" if self._options.deadline is None else "deadline"
                self._interrupt(DeadlinePassed(self._journal.time(now), limit))
            elif kind == "timer":
                self._run.apply(TimerFired(self._journal.time(now), number))
            elif (step := self._attempts.get(number)) is not None:
                if kind == "retry":
                    step.state = PendingState.IDLE
                    self._run.start_attempt(step)
                else:
                    self._time_out(step, now)

    def next_wake(self) -> float | None:
        """Return when :meth:`tick` is next due, in seconds since the epoch; None for never."""
        due = self._next_due() if self.outcome is None else None
        return None if due is None else due[0]

    def take(self) -> Work:
        """Return the entries to write and the actions to perform since the last call."""
        work = self._journal.take()
        work.status = self._status()
        work.outcome = None if self._run.continued else self.outcome
        work.reason = self._reason if self.paused else None
        work.inbox_done = self.inbox_seen
        if self._deferred:
            work.inbox_done = min(work.inbox_done, self._deferred[0][0] - 1)
        if self._unrecorded is not None and self.outcome is None:
            work.inbox_done = min(work.inbox_done, self._unrecorded - 1)
        return work

    def is_current(self, seq: int, attempt: int) -> bool:
        """Return whether this attempt is under way and still wanted."""
        return self._attempts.current(seq, attempt) is not None

    def live(self) -> list[LiveTask]:
        """Return the pending steps with their attempts."""
        return self._attempts.live()

    @property
    def idle(self) -> bool:
        """Whether no attempt is under way."""
        return not self._attempts.running

    @property
    def recorded(self) -> bool:
        """Whether the journal has all that happened, so that the code may be dropped and brought back."""
        return self._journal.complete

    @property
    def issued(self) -> int:
        """Number of calls that the code has issued."""
        return self._run.machine.issued

    @property
    def unanswered(self) -> int:
        """Number of pending steps."""
        return len(self._attempts)

    @property
    def awaited_signals(self) -> tuple[tuple[str, str], ...]:
        """Signals that the code waits for, in the form of :attr:`WaitsFor.signals`."""
        return describe_awaited(self._run.machine.awaited_signals)

    def waits_for(self, child: Callable[[Request], str]) -> WaitsFor:
        """Return the waits apart from steps and timers; ``child`` returns a requested child's id."""
        return self._run.waits_for(child)

    def before_apply(self, hook: Callable[[Machine, Sequence[Entry]], Machine]) -> None:
        """Set the hook :attr:`ExecutionRun.before_apply`."""
        self._run.before_apply = hook

    def evict(self) -> None:
        """Drop the workflow's code."""
        self._run.machine.evict()

    def _status(self) -> ExecutionStatus:
        if self.outcome is not None:
            return self.outcome.status
        return ExecutionStatus.PAUSED if self.paused else ExecutionStatus.RUNNING

    def _accept(self, step: PendingStep, event: StepCompleted | AttemptFailed) -> None:
        if self.paused:
            step.state = PendingState.DEFERRED
            self._journal.work.deferred.append(event)
        else:
            self._apply_outcome(event, event.at)

    def _apply_item(self, number: int, item: InboxOutcome, now: float) -> None:
        match item:
            case SignalReceived():
                self._journal.count("signals_received")
                self._run.apply(SignalReceived(self._journal.time(now), item.name, item.payload, number))
            case RequestCompleted():
                self._run.complete_request(replace(item, at=self._journal.time(now)))
            case StepFailed():  # only in a fork: the event before the fork's first call
                self._run.apply(replace(item, at=self._journal.time(now)))
            case _:
                self._apply_outcome(item, now)

    def _apply_outcome(self, event: StepCompleted | AttemptFailed, now: float) -> None:
        step = self._attempts.get(event.step)
        if step is None:
            self._journal.count("late_results")
            return
        if event.began:
            self._journal.count("attempts_timed")
            # Whole microseconds, so that the sums do not depend on the order.
            self._journal.count("attempt_microseconds", int(max(0.0, event.at - event.began) * 1e6))
        at = self._journal.time(now)
        step.attempt = max(step.attempt, event.attempt)  # no entry records the attempt of a deferred outcome
        if isinstance(event, AttemptFailed):
            self._apply_failure(step, event, at)
            return
        self._journal.count("steps_completed")
        self._run.apply(event if event.at == at else replace(event, at=at))

    def _apply_failure(self, step: PendingStep, event: AttemptFailed, at: float) -> None:
        seq, name, attempt, failure = event.step, event.name, event.attempt, event.failure
        self._journal.count("attempts_failed" if event.counts else "attempts_lost")
        delay = self._attempts.delay_after(step, event, self._run.machine.execution_id)
        if delay is None:
            self._journal.count("steps_failed")
            self._journal.step_failed(event, at, step.payload)
            self._run.apply(
                StepFailed(at, seq, name, attempt, failure, self._run.machine.issued, event.began, event.worker)
            )
            return
        self._journal.record(replace(event, at=at, retry_at=at + delay))
        self._attempts.wait(step, at + delay)

    def _time_out(self, step: PendingStep, now: float) -> None:
        seq, attempt = step.seq, step.attempt
        self._journal.work.actions.append(StopAttempt(seq, attempt))
        self.failed(seq, attempt, timed_out(step), began=step.sent_at or 0.0, worker="", now=now)

    def _pause(self, reason: str, now: float) -> None:
        if self.paused:
            return
        self._run.paused = True
        self._reason = Failure(type="Paused", message=reason)
        self._journal.record(Paused(self._journal.time(now), reason))
        self._journal.work.actions.extend(self._attempts.withdraw_unsent())

    def _resume(self, now: float) -> None:
        """Resume without starting idle steps, because the next event may drop them."""
        if not self.paused:
            return
        self._run.paused = False
        self._reason = None
        self._journal.record(Resumed(self._journal.time(now)))
        deferred, self._deferred = self._deferred, []
        for number, item in deferred:
            self._apply_item(number, item, now)

    def _interrupt(self, event: CancelRequested | DeadlinePassed) -> None:
        """Apply an event that takes effect during a pause, too, then start the steps that it does not drop."""
        self._resume(event.at)
        self._run.apply(event)
        self._run.start_idle()

    def _next_due(self) -> tuple[float, str, int] | None:
        due: list[tuple[float, str, int]] = []
        if self._deadline is not None:
            due.append((self._deadline, "deadline", 0))
        timeout = self._attempts.next_timeout()
        if timeout is not None:
            due.append((timeout[0], "watch", timeout[1].seq))
        if not self.paused:
            retry = self._attempts.next_retry()
            if retry is not None:
                due.append((retry[0], "retry", retry[1].seq))
            timer = self._run.machine.next_timer()
            if timer is not None:
                due.append((timer[0], "timer", timer[1]))
        return min(due, default=None)
