"""One execution, sans I/O: what happened goes in, journal entries and actions come out.

The execution owns statuses, what a failed attempt leads to, pausing and the numbering of the journal. It owns no clock,
no store and no worker: its shell (:mod:`rayflow.runtime.coordinator.driver`) tells it what happened and when, writes
the entries, and performs the actions once the entries before them are durable.

    inputs                                             outputs, by take()
    begin, restore                                     entries   to append to the journal, in order
    completed, failed, lost, not_begun, sent, beat     actions   RunAttempt, StopAttempt
    inbox (pause, resume, cancel, signals, answers,    asks      what is asked of others, with these entries
           carried results)                            holds     outcomes to keep in the inbox while paused
    tick(now)                                          letters   steps that failed for good
                                                       next_wake()

While it is paused, outcomes are not applied: they become inbox rows and are applied, in their order, on resume, and so
are signals and answers. Deadlines and cancellation pass a pause.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from rayflow.core.events import (
    AttemptFailed,
    CancelRequested,
    DeadlinePassed,
    Entry,
    Event,
    Paused,
    RequestCompleted,
    Resumed,
    SignalReceived,
    Started,
    StepCompleted,
    StepFailed,
    TimerFired,
)
from rayflow.core.execution.actions import Action, InboxItem, LiveTask, Outcomes, Request, RunAttempt, StopAttempt, Work
from rayflow.core.execution.attempts import PendingStep, TaskState, timed_out
from rayflow.core.execution.journal import effective
from rayflow.core.execution.requests import WaitsFor, signals_text
from rayflow.core.execution.run import ExecutionRun
from rayflow.core.interpreter.effects import Outcome
from rayflow.core.interpreter.machine import Machine
from rayflow.definition.options import ExecutionOptions
from rayflow.errors import Failure
from rayflow.ids import ExecutionStatus

__all__ = ["Action", "Execution", "InboxItem", "RunAttempt", "StopAttempt", "Work"]


class Execution:
    """See the module's docstring.

    Args:
        machine: the workflow's code.
        options: the execution's options.
        deadline: when its time is up, in seconds since the epoch, or None.
    """

    def __init__(self, machine: Machine, options: ExecutionOptions, *, deadline: float | None) -> None:
        self._options = options
        self._deadline = deadline
        self._course = ExecutionRun(machine, options)
        self._journal = self._course.journal
        self._attempts = self._course.attempts
        self._held: list[tuple[int, Outcomes]] = []
        self._unrecorded: int | None = None
        self._reason: Failure | None = None
        self.inbox_seen = 0

    @property
    def paused(self) -> bool:
        """Whether nothing new is applied or begun."""
        return self._course.paused

    @property
    def outcome(self) -> Outcome | None:
        """How the code ended, if it has."""
        return self._course.outcome

    # --- how it begins -------------------------------------------------------------------------------------
    def begin(self, now: float) -> None:
        """Start the workflow's code."""
        self._course.apply(Started(self._journal.time(now)))

    def restore(
        self, entries: Sequence[Entry], inbox: Sequence[tuple[int, InboxItem]], now: float, *, seen: int = 0
    ) -> None:
        """Take the execution up where its journal ends.

        Args:
            entries: the whole journal.
            inbox: the inbox rows that are not applied, in order.
            now: seconds since the epoch.
            seen: the newest inbox row that is known to be applied.

        Raises:
            NonDeterminismError: the code did something else than what was recorded; nothing was performed.
        """
        self.inbox_seen = seen
        for entry in effective(entries):
            self._remember(entry.event)
        with self._course.holding():  # what the inbox answers at once need not begin
            self._course.restore(entries, now)
            for number, item in inbox:
                self.inbox(number, item, now)
            self._course.ask_again(now)
        self._course.run_idle()
        self.tick(now)

    def _remember(self, event: Event) -> None:
        if isinstance(event, Paused):
            self._course.paused = True
            self._reason = Failure(type="Paused", message=event.reason)
        elif isinstance(event, Resumed):
            self._course.paused = False
        elif isinstance(event, DeadlinePassed):
            self._deadline = None

    # --- what happened -------------------------------------------------------------------------------------
    def sent(self, seq: int, attempt: int, now: float) -> None:
        """The attempt went to a worker; its timeout begins."""
        if (task := self._attempts.current(seq, attempt)) is not None:
            self._attempts.sent(task, now)

    def beat(self, seq: int, attempt: int, now: float) -> bool:
        """The attempt says that it is alive. Answers whether it is the one that counts."""
        if (task := self._attempts.current(seq, attempt)) is not None:
            self._attempts.beat(task, now)
        return task is not None

    def ran(self, seq: int, attempt: int) -> None:
        """The attempt's code is done, and what it answered is being kept: it does not time out any more."""
        if (task := self._attempts.current(seq, attempt)) is not None:
            self._attempts.ran(task)

    def completed(self, seq: int, attempt: int, result: bytes, *, began: float, worker: str, now: float) -> bool:
        """An attempt succeeded. Answers whether it counts; a late one does not."""
        task = self._attempts.current(seq, attempt)
        if task is None:
            self._journal.count("late_results")
            return False
        self._settle(task, StepCompleted(self._journal.time(now), seq, task.name, attempt, result, began, worker))
        return True

    def failed(self, seq: int, attempt: int, failure: Failure, *, began: float, worker: str, now: float) -> bool:
        """An attempt failed by its own doing. Answers whether it counts."""
        task = self._attempts.current(seq, attempt)
        if task is None:
            self._journal.count("late_results")
            return False
        at = self._journal.time(now)
        self._settle(
            task, AttemptFailed(at, seq, task.name, attempt, failure, 0.0, counts=True, began=began, worker=worker)
        )
        return True

    def lost(self, seq: int, attempt: int, failure: Failure, *, alone: bool, worker: str, now: float) -> None:
        """An attempt was lost with its worker. Alone on it, the task is to blame; in company it is suspected."""
        task = self._attempts.current(seq, attempt)
        if task is not None:
            at = self._journal.time(now)
            self._settle(task, AttemptFailed(at, seq, task.name, attempt, failure, 0.0, counts=alone, worker=worker))

    def not_begun(self, seq: int, attempt: int) -> None:
        """A worker gave the attempt back without having begun it: it costs nothing and is sent again."""
        task = self._attempts.current(seq, attempt)
        if task is not None:
            self._attempts.take_back(task)
            self._course.run(task)

    def inbox(self, number: int, item: InboxItem, now: float) -> None:
        """Something arrived from outside. Rows come in the order of their numbers; known ones are passed over."""
        if number <= self.inbox_seen:
            return
        if self.outcome is not None:
            return  # it stays in the inbox: for the next run, or for those who look
        self.inbox_seen = number
        if self._options.checkpoints == "off" and self._unrecorded is None and not isinstance(item, Paused | Resumed):
            self._unrecorded = number  # it leaves no entry, so the inbox has to keep it until the end
        match item:
            case Paused():
                self._pause(item.reason, now)
            case Resumed():
                self._resume(now)
            case CancelRequested():
                self._interrupt(CancelRequested(self._journal.time(now), item.reason, item.by))
            case _ if self.paused:
                self._held.append((number, item))
            case _:
                self._take_item(number, item, now)

    def _take_item(self, number: int, item: Outcomes, now: float) -> None:
        match item:
            case SignalReceived():
                self._journal.count("signals_received")
                self._course.apply(SignalReceived(self._journal.time(now), item.name, item.payload, number))
            case RequestCompleted():
                self._course.answer(replace(item, at=self._journal.time(now)))
            case StepFailed():  # a fork begins with it
                self._course.apply(replace(item, at=self._journal.time(now)))
            case _:
                self._take_outcome(item, now)

    def tick(self, now: float) -> None:
        """Let everything happen that is due, earliest first."""
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
                self._course.apply(TimerFired(self._journal.time(now), number))
            elif (task := self._attempts.get(number)) is not None:
                if kind == "retry":
                    task.state = TaskState.IDLE
                    self._course.run(task)
                else:
                    self._time_out(task, now)

    def next_wake(self) -> float | None:
        """When :meth:`tick` has something to do, in seconds since the epoch; None for never."""
        due = self._next_due() if self.outcome is None else None
        return None if due is None else due[0]

    # --- what to do ----------------------------------------------------------------------------------------
    def take(self) -> Work:
        """What is to be written and done since the last call."""
        work = self._journal.take()
        work.status = self._status()
        work.outcome = None if self._course.continued else self.outcome
        work.reason = self._reason if self.paused else None
        work.inbox_done = self.inbox_seen
        if self._held:
            work.inbox_done = min(work.inbox_done, self._held[0][0] - 1)
        if self._unrecorded is not None and self.outcome is None:
            work.inbox_done = min(work.inbox_done, self._unrecorded - 1)
        return work

    def wants(self, seq: int, attempt: int) -> bool:
        """Whether this attempt is the one under way, and not one that was given up meanwhile."""
        return self._attempts.current(seq, attempt) is not None

    def live(self) -> list[LiveTask]:
        """The unanswered steps, with their attempts."""
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
        """Steps that the code has issued so far."""
        return self._course.machine.issued

    @property
    def unanswered(self) -> int:
        """Steps that were issued and are not over."""
        return len(self._attempts)

    @property
    def awaited_signals(self) -> tuple[tuple[str, str], ...]:
        """The signals that the code waits for, as :class:`~rayflow.core.execution.requests.WaitsFor` has them."""
        return signals_text(self._course.machine.awaited_signals)

    def waits(self, child: Callable[[Request], str]) -> WaitsFor:
        """What it waits for, apart from its steps and timers; ``child`` answers the id of a child that is asked for."""
        return self._course.waits(child)

    def before_apply(self, rehearsal: Callable[[Machine, Sequence[Entry]], Machine]) -> None:
        """Before each event, have the code put to the test. See :class:`~rayflow.core.execution.run.ExecutionRun`."""
        self._course.rehearsal = rehearsal

    def evict(self) -> None:
        """Drop the workflow's code."""
        self._course.machine.evict()

    def _status(self) -> ExecutionStatus:
        if self.outcome is not None:
            return self.outcome.status
        return ExecutionStatus.PAUSED if self.paused else ExecutionStatus.RUNNING

    # --- outcomes ------------------------------------------------------------------------------------------
    def _settle(self, task: PendingStep, event: StepCompleted | AttemptFailed) -> None:
        if self.paused:
            task.state = TaskState.HELD
            self._journal.work.holds.append(event)
        else:
            self._take_outcome(event, event.at)

    def _take_outcome(self, event: StepCompleted | AttemptFailed, now: float) -> None:
        task = self._attempts.get(event.step)
        if task is None:
            self._journal.count("late_results")
            return
        if event.began:
            self._journal.count("attempts_timed")
            # Whole microseconds, so that the sums do not depend on the order.
            self._journal.count("attempt_microseconds", int(max(0.0, event.at - event.began) * 1e6))
        at = self._journal.time(now)
        task.attempt = max(task.attempt, event.attempt)  # one that was kept during a pause may not be known
        if isinstance(event, AttemptFailed):
            self._take_failure(task, event, at)
            return
        self._journal.count("steps_completed")
        if event.at != at:
            event = StepCompleted(at, event.step, event.name, event.attempt, event.result, event.began, event.worker)
        self._course.apply(event)

    def _take_failure(self, task: PendingStep, event: AttemptFailed, at: float) -> None:
        step, name, attempt, failure = event.step, event.name, event.attempt, event.failure
        self._journal.count("attempts_failed" if event.counts else "attempts_lost")
        delay = self._attempts.delay_after(task, event, self._course.machine.execution_id)
        if delay is None:
            self._journal.count("steps_failed")
            self._journal.step_failed(event, at, task.payload)
            issued = self._course.machine.issued
            self._course.apply(StepFailed(at, step, name, attempt, failure, issued, event.began, event.worker))
            return
        retry_at = at + delay
        retry = AttemptFailed(at, step, name, attempt, failure, retry_at, event.counts, event.began, event.worker)
        self._journal.record(retry)
        self._attempts.wait(task, retry_at)

    def _time_out(self, task: PendingStep, now: float) -> None:
        seq, attempt = task.seq, task.attempt
        self._journal.work.actions.append(StopAttempt(seq, attempt))
        self.failed(seq, attempt, timed_out(task), began=task.sent_at or 0.0, worker="", now=now)

    # --- statuses ------------------------------------------------------------------------------------------
    def _pause(self, reason: str, now: float) -> None:
        if self.paused:
            return
        self._course.paused = True
        self._reason = Failure(type="Paused", message=reason)
        self._journal.record(Paused(self._journal.time(now), reason))
        self._journal.work.actions.extend(self._attempts.withdraw_unsent())

    def _resume(self, now: float) -> None:
        self._go_on(now)
        self._course.run_idle()

    def _interrupt(self, event: CancelRequested | DeadlinePassed) -> None:
        """Apply what passes a pause. Steps that it gives up are not started first."""
        self._go_on(event.at)
        self._course.apply(event)
        self._course.run_idle()

    def _go_on(self, now: float) -> None:
        if not self.paused:
            return
        self._course.paused = False
        self._reason = None
        self._journal.record(Resumed(self._journal.time(now)))
        held, self._held = self._held, []
        for number, item in held:
            self._take_item(number, item, now)

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
            timer = self._course.machine.next_timer()
            if timer is not None:
                due.append((timer[0], "timer", timer[1]))
        return min(due, default=None)
