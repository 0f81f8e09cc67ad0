"""One execution, sans I/O: what happened goes in, journal entries and actions come out.

The execution owns statuses, what a failed attempt leads to, pausing and the numbering of the journal. It owns no
clock, no store and no worker: its shell (:mod:`rayflow.runtime.driver`) tells it what happened and when, writes
the entries, and performs the actions once the entries before them are durable.

    inputs                                             outputs, by take()
    begin, restore                                     entries   to append to the journal, in order
    completed, failed, lost, not_begun, sent, beat     actions   RunAttempt, StopAttempt
    inbox (pause, resume, cancel, carried results)     holds     outcomes to keep in the inbox while paused
    tick(now)                                          letters   steps that failed for good
                                                       next_wake()

While it is paused, outcomes are not applied: they become inbox rows and are applied, in their order, on resume.
Deadlines and cancellation pass a pause.
"""

from __future__ import annotations

from collections.abc import Sequence

from rayflow.core.actions import Action, InboxItem, Letter, LiveTask, RunAttempt, StopAttempt, Work
from rayflow.core.attempts import Attempts, Task, TaskState, timed_out
from rayflow.core.effects import Effects, Outcome
from rayflow.core.events import (
    AttemptFailed,
    CancelRequested,
    DeadlinePassed,
    Ended,
    Entry,
    Event,
    Paused,
    Resumed,
    Started,
    StepCompleted,
    StepFailed,
    TimerFired,
)
from rayflow.core.journal import applied, attempts_of, effective
from rayflow.core.machine import Machine
from rayflow.definition.options import ExecutionOptions
from rayflow.errors import Failure
from rayflow.ids import ExecutionStatus

__all__ = ["Action", "Execution", "InboxItem", "RunAttempt", "StopAttempt", "Work"]


#: Spelled once: an ``A | B`` in isinstance makes a new type each time.
_ANSWERS = (StepCompleted, StepFailed)
_ALWAYS_RECORDED = (Started, Paused, Resumed, Ended)


class Execution:
    """See the module's docstring.

    Args:
        machine: the workflow's code.
        options: the execution's options.
        deadline: when its time is up, in seconds since the epoch, or None.
    """

    def __init__(self, machine: Machine, options: ExecutionOptions, *, deadline: float | None) -> None:
        self._machine = machine
        self._options = options
        self._deadline = deadline
        self._seq = 0
        self._at = 0.0
        self._attempts = Attempts(options)
        self._held: list[tuple[int, StepCompleted | AttemptFailed]] = []
        self._unrecorded: int | None = None
        self._reason: Failure | None = None
        self._work = Work()
        self.paused = False
        self.inbox_seen = 0
        self.outcome: Outcome | None = None

    # --- how it begins -------------------------------------------------------------------------------------
    def begin(self, now: float) -> None:
        """Start the workflow's code."""
        self._apply(Started(self._time(now)))

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
        self._seq, self._at = entries[-1].seq, entries[-1].event.at
        self._attempts.remember(attempts_of(entries))
        live = applied(entries)
        if live:
            for dispatch in self._machine.replay(live):
                self._attempts.add(dispatch, now)
            for entry in effective(entries):
                self._remember(entry.event)
        else:  # rewound to before its start
            self.begin(now)
        if self._machine.outcome is not None and self.outcome is None:
            self._end(self._machine.outcome, now)
        for number, item in inbox:
            self.inbox(number, item, now)
        self._run_idle()
        self.tick(now)

    def _remember(self, event: Event) -> None:
        if isinstance(event, Paused):
            self.paused = True
            self._reason = Failure(type="Paused", message=event.reason)
        elif isinstance(event, Resumed):
            self.paused = False
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

    def completed(self, seq: int, attempt: int, result: bytes, *, began: float, worker: str, now: float) -> bool:
        """An attempt succeeded. Answers whether it counts; a late one does not."""
        task = self._attempts.current(seq, attempt)
        if task is None:
            self._work.counts["late_results"] += 1
            return False
        self._settle(task, StepCompleted(self._time(now), seq, task.name, attempt, result, began, worker))
        return True

    def failed(self, seq: int, attempt: int, failure: Failure, *, began: float, worker: str, now: float) -> bool:
        """An attempt failed by its own doing. Answers whether it counts."""
        task = self._attempts.current(seq, attempt)
        if task is None:
            self._work.counts["late_results"] += 1
            return False
        at = self._time(now)
        self._settle(
            task, AttemptFailed(at, seq, task.name, attempt, failure, 0.0, counts=True, began=began, worker=worker)
        )
        return True

    def lost(self, seq: int, attempt: int, failure: Failure, *, alone: bool, worker: str, now: float) -> None:
        """An attempt was lost with its worker. Alone on it, the task is to blame; in company it is suspected."""
        task = self._attempts.current(seq, attempt)
        if task is not None:
            at = self._time(now)
            self._settle(task, AttemptFailed(at, seq, task.name, attempt, failure, 0.0, counts=alone, worker=worker))

    def not_begun(self, seq: int, attempt: int) -> None:
        """A worker gave the attempt back without having begun it: it costs nothing and is sent again."""
        task = self._attempts.current(seq, attempt)
        if task is not None:
            self._attempts.take_back(task)
            self._run(task)

    def inbox(self, number: int, item: InboxItem, now: float) -> None:
        """Something arrived from outside. Rows come in the order of their numbers; known ones are passed over."""
        if number <= self.inbox_seen:
            return
        self.inbox_seen = number
        if self.outcome is not None:
            return
        match item:
            case Paused():
                self._pause(item.reason, now)
            case Resumed():
                self._resume(now)
            case CancelRequested():
                if self._options.checkpoints == "off" and self._unrecorded is None:
                    self._unrecorded = number  # it leaves no entry, so the inbox has to keep it until the end
                self._interrupt(CancelRequested(self._time(now), item.reason))
            case StepCompleted() | AttemptFailed() if self.paused:
                self._held.append((number, item))
            case StepCompleted() | AttemptFailed():
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
                self._interrupt(DeadlinePassed(self._time(now), limit))
            elif kind == "timer":
                self._apply(TimerFired(self._time(now), number))
            elif (task := self._attempts.get(number)) is not None:
                if kind == "retry":
                    task.state = TaskState.IDLE
                    self._run(task)
                else:
                    self._time_out(task, now)

    def next_wake(self) -> float | None:
        """When :meth:`tick` has something to do, in seconds since the epoch; None for never."""
        due = self._next_due() if self.outcome is None else None
        return None if due is None else due[0]

    # --- what to do ----------------------------------------------------------------------------------------
    def take(self) -> Work:
        """What is to be written and done since the last call."""
        work, self._work = self._work, Work()
        work.status = self._status()
        work.outcome = self.outcome
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
    def issued(self) -> int:
        """Steps that the code has issued so far."""
        return self._machine.issued

    @property
    def unanswered(self) -> int:
        """Steps that were issued and are not over."""
        return len(self._attempts)

    def evict(self) -> None:
        """Drop the workflow's code."""
        self._machine.evict()

    def _status(self) -> ExecutionStatus:
        if self.outcome is not None:
            return self.outcome.status
        return ExecutionStatus.PAUSED if self.paused else ExecutionStatus.RUNNING

    # --- outcomes ------------------------------------------------------------------------------------------
    def _time(self, now: float) -> float:
        self._at = max(self._at, now)
        return self._at

    def _settle(self, task: Task, event: StepCompleted | AttemptFailed) -> None:
        if self.paused:
            task.state = TaskState.HELD
            self._work.holds.append(event)
        else:
            self._take_outcome(event, event.at)

    def _take_outcome(self, event: StepCompleted | AttemptFailed, now: float) -> None:
        task = self._attempts.get(event.step)
        if task is None:
            self._work.counts["late_results"] += 1
            return
        if event.began:
            self._work.counts["attempts_timed"] += 1
            # Whole microseconds, so that the sums do not depend on the order.
            self._work.counts["attempt_microseconds"] += int(max(0.0, event.at - event.began) * 1e6)
        at = self._time(now)
        task.attempt = max(task.attempt, event.attempt)  # one that was kept during a pause may not be known
        if isinstance(event, AttemptFailed):
            self._take_failure(task, event, at)
            return
        self._work.counts["steps_completed"] += 1
        if event.at != at:
            event = StepCompleted(at, event.step, event.name, event.attempt, event.result, event.began, event.worker)
        self._apply(event)

    def _take_failure(self, task: Task, event: AttemptFailed, at: float) -> None:
        step, name, attempt, failure = event.step, event.name, event.attempt, event.failure
        self._work.counts["attempts_failed" if event.counts else "attempts_lost"] += 1
        delay = self._attempts.delay_after(task, event, self._machine.execution_id)
        if delay is None:
            self._work.counts["steps_failed"] += 1
            began, worker, issued = event.began, event.worker, self._machine.issued
            self._work.letters.append(
                Letter(self._seq + 1, step, name, attempt, at, began, worker, failure, task.dispatch.payload)
            )
            self._apply(StepFailed(at, step, name, attempt, failure, issued, began, worker))
            return
        retry_at = at + delay
        retry = AttemptFailed(at, step, name, attempt, failure, retry_at, event.counts, event.began, event.worker)
        self._record(retry, Effects())
        self._attempts.wait(task, retry_at)

    def _time_out(self, task: Task, now: float) -> None:
        seq, attempt = task.dispatch.seq, task.attempt
        self._work.actions.append(StopAttempt(seq, attempt))
        self.failed(seq, attempt, timed_out(task), began=task.sent_at or 0.0, worker="", now=now)

    def _run(self, task: Task) -> None:
        if not self.paused and task.state is TaskState.IDLE:
            self._work.counts["attempts_started"] += 1
            self._work.actions.append(self._attempts.start(task))

    def _run_idle(self) -> None:
        for task in self._attempts.idle():
            self._run(task)

    # --- statuses ------------------------------------------------------------------------------------------
    def _pause(self, reason: str, now: float) -> None:
        if self.paused:
            return
        self.paused = True
        self._reason = Failure(type="Paused", message=reason)
        self._record(Paused(self._time(now), reason), Effects())
        self._work.actions.extend(self._attempts.withdraw_unsent())

    def _resume(self, now: float) -> None:
        self._go_on(now)
        self._run_idle()

    def _interrupt(self, event: CancelRequested | DeadlinePassed) -> None:
        """Apply what passes a pause. Steps that it gives up are not started first."""
        self._go_on(event.at)
        self._apply(event)
        self._run_idle()

    def _go_on(self, now: float) -> None:
        if not self.paused:
            return
        self.paused = False
        self._reason = None
        self._record(Resumed(self._time(now)), Effects())
        held, self._held = self._held, []
        for _, outcome in held:
            self._take_outcome(outcome, now)

    # --- the journal ---------------------------------------------------------------------------------------
    def _apply(self, event: Event) -> None:
        if self.outcome is not None:
            return
        if isinstance(event, _ANSWERS):
            self._attempts.answered(event.step)
        effects = self._machine.apply(event)
        self._record(event, effects)
        for seq in effects.dropped:
            stop = self._attempts.drop(seq)
            if stop is not None:
                self._work.actions.append(stop)
        for dispatch in effects.dispatches:
            if self._machine.is_open(dispatch.seq):
                self._run(self._attempts.add(dispatch, event.at))
        if effects.outcome is not None:
            self._end(effects.outcome, event.at)

    def _end(self, outcome: Outcome, now: float) -> None:
        stops = [self._attempts.drop(seq) for seq in self._attempts.numbers]
        self._work.actions.extend(stop for stop in stops if stop is not None)
        self.outcome = outcome
        self._record(Ended(self._time(now), outcome.status, outcome.result, outcome.failure), Effects())

    def _record(self, event: Event, effects: Effects) -> None:
        if self._options.checkpoints == "off" and not isinstance(event, _ALWAYS_RECORDED):
            return
        self._seq += 1
        issued = tuple([dispatch.call.name for dispatch in effects.dispatches])
        self._work.entries.append(
            Entry(self._seq, event, issued, tuple(effects.dropped), effects.state, tuple(effects.stages))
        )

    def _next_due(self) -> tuple[float, str, int] | None:
        due: list[tuple[float, str, int]] = []
        if self._deadline is not None:
            due.append((self._deadline, "deadline", 0))
        timeout = self._attempts.next_timeout()
        if timeout is not None:
            due.append((timeout[0], "watch", timeout[1].dispatch.seq))
        if not self.paused:
            retry = self._attempts.next_retry()
            if retry is not None:
                due.append((retry[0], "retry", retry[1].dispatch.seq))
            timer = self._machine.next_timer()
            if timer is not None:
                due.append((timer[0], "timer", timer[1]))
        return min(due, default=None)
