"""One execution, sans I/O: what happened goes in, journal entries and actions come out.

The execution owns statuses, attempts, retries, timeouts, pausing and the numbering of the journal. It owns no
clock, no store and no worker: its shell (:mod:`rayflow.runtime.driver`) tells it what happened and when, writes
the entries, and performs the actions once the entries before them are durable.

    inputs                                             outputs, by take()
    begin, restore                                     entries   to append to the journal, in order
    completed, failed, lost, not_begun, sent           actions   RunAttempt, StopAttempt
    inbox (pause, resume, cancel, carried results)     holds     outcomes to keep in the inbox while paused
    tick(now)                                          next_wake()

While it is paused, outcomes are not applied: they become inbox rows and are applied, in their order, on resume.
Deadlines and cancellation pass a pause.
"""

from __future__ import annotations

import heapq
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

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
from rayflow.core.machine import Dispatch, Effects, Machine, Outcome
from rayflow.core.retry import MAX_LOST, SUSPICIONS_BEFORE_ALONE, next_delay
from rayflow.definition.context import StepCall
from rayflow.definition.options import ExecutionOptions
from rayflow.errors import Failure
from rayflow.ids import ExecutionStatus

#: What an inbox row can hold for an execution.
InboxItem = Paused | Resumed | CancelRequested | StepCompleted | AttemptFailed


@dataclass(frozen=True, slots=True)
class RunAttempt:
    """Run one attempt of a step."""

    seq: int
    attempt: int
    call: StepCall
    payload: bytes
    #: Seconds that the attempt may take, from when it is sent; None for any.
    timeout: float | None
    #: Run it with no other task on the same worker: it is suspected of killing workers.
    alone: bool
    local: bool


@dataclass(frozen=True, slots=True)
class StopAttempt:
    """Nobody waits for this attempt any more: withdraw it if it has not begun, else have it stopped."""

    seq: int
    attempt: int


Action = RunAttempt | StopAttempt


@dataclass(slots=True)
class Work:
    """What the shell has to do: append the entries, then perform the actions."""

    entries: list[Entry] = field(default_factory=list)
    actions: list[Action] = field(default_factory=list)
    holds: list[StepCompleted | AttemptFailed] = field(default_factory=list)
    status: ExecutionStatus = ExecutionStatus.RUNNING
    outcome: Outcome | None = None
    reason: Failure | None = None
    inbox_done: int = 0
    counts: Counter[str] = field(default_factory=Counter)

    def __bool__(self) -> bool:
        return bool(self.entries or self.actions or self.holds)


@dataclass(slots=True)
class _Task:
    """A step that was issued and is not answered."""

    dispatch: Dispatch
    attempt: int = 0
    failures: int = 0
    losses: int = 0
    #: "idle", "running" (an attempt is under way), "waiting" (for its retry) or "held" (answered while paused).
    state: str = "idle"
    sent: bool = False
    #: When the attempt under way times out; tells its watch from those of attempts that were given back.
    due: float = 0.0

    @property
    def name(self) -> str:
        return self.dispatch.call.name


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
        self._tasks: dict[int, _Task] = {}
        self._retries: list[tuple[float, int, int]] = []
        self._watch: list[tuple[float, int, int]] = []
        self._held: list[tuple[int, StepCompleted | AttemptFailed]] = []
        self._reason: Failure | None = None
        self._work = Work()
        self.paused = False
        self.inbox_seen = 0
        self.outcome: Outcome | None = None

    # --- how it begins -------------------------------------------------------------------------------------
    def begin(self, now: float) -> None:
        """Start the workflow's code."""
        self._apply(Started(self._time(now)))

    def restore(self, entries: Sequence[Entry], inbox: Sequence[tuple[int, InboxItem]], now: float) -> None:
        """Take the execution up where its journal ends.

        Args:
            entries: the whole journal.
            inbox: the inbox rows that are not applied, in order.
            now: seconds since the epoch.

        Raises:
            NonDeterminismError: the code did something else than what was recorded; nothing was performed.
        """
        live = applied(entries)
        self._seq = entries[-1].seq
        self._at = entries[-1].event.at
        if not live:  # rewound to before its start
            self.begin(now)
        waiting = self._machine.replay(live)
        for entry in effective(entries):
            self._remember(entry.event)
        counts = attempts_of(entries)
        for dispatch in waiting:
            task = self._tasks[dispatch.seq] = _Task(dispatch)
            count = counts.get(dispatch.seq)
            if count is not None:
                task.attempt, task.failures, task.losses = count.attempts, count.failures, count.losses
                if count.retry_at > now:
                    self._wait(task, count.retry_at)
        if self._machine.outcome is not None:
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
        task = self._current(seq, attempt)
        if task is None:
            return
        task.sent = True
        limit = self._timeout(task.dispatch.call)
        if limit is not None:
            task.due = now + limit
            heapq.heappush(self._watch, (task.due, seq, attempt))

    def completed(self, seq: int, attempt: int, result: bytes, *, began: float, worker: str, now: float) -> bool:
        """An attempt succeeded. Answers whether it counts; a late one does not."""
        task = self._current(seq, attempt)
        if task is None:
            self._work.counts["late_results"] += 1
            return False
        event = StepCompleted(self._time(now), seq, task.name, attempt, result, began, worker)
        self._settle(task, event)
        return True

    def failed(self, seq: int, attempt: int, failure: Failure, *, began: float, worker: str, now: float) -> bool:
        """An attempt failed by its own doing. Answers whether it counts."""
        task = self._current(seq, attempt)
        if task is None:
            self._work.counts["late_results"] += 1
            return False
        event = AttemptFailed(self._time(now), seq, task.name, attempt, failure, 0.0, True, began, worker)
        self._settle(task, event)
        return True

    def lost(self, seq: int, attempt: int, failure: Failure, *, alone: bool, worker: str, now: float) -> None:
        """An attempt was lost with its worker. Alone on it, the task is to blame; in company it is suspected."""
        task = self._current(seq, attempt)
        if task is None:
            return
        event = AttemptFailed(self._time(now), seq, task.name, attempt, failure, 0.0, alone, 0.0, worker)
        self._settle(task, event)

    def not_begun(self, seq: int, attempt: int) -> None:
        """A worker gave the attempt back without having begun it: it costs nothing and is sent again."""
        task = self._current(seq, attempt)
        if task is None:
            return
        task.state, task.sent = "idle", False
        task.attempt -= 1
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
                self._resume(now)
                self._apply(CancelRequested(self._time(now), item.reason))
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
            _, kind, number, attempt = due
            if kind == "deadline":
                self._deadline = None
                self._resume(now)
                limit = "timeout" if self._options.deadline is None else "deadline"
                self._apply(DeadlinePassed(self._time(now), limit))
            elif kind == "timer":
                self._apply(TimerFired(self._time(now), number))
            elif kind == "retry":
                heapq.heappop(self._retries)
                self._tasks[number].state = "idle"
                self._run(self._tasks[number])
            else:
                heapq.heappop(self._watch)
                self._time_out(number, attempt, now)

    def next_wake(self) -> float | None:
        """When :meth:`tick` has something to do, in seconds since the epoch; None for never."""
        due = self._next_due() if self.outcome is None else None
        return None if due is None else due[0]

    def pause_for(self, failure: Failure, now: float) -> None:
        """Pause it because of a problem that a person has to solve."""
        if not self.paused:
            self._pause(str(failure), now)
        self._reason = failure

    # --- what to do ----------------------------------------------------------------------------------------
    def take(self) -> Work:
        """What is to be written and done since the last call."""
        work, self._work = self._work, Work()
        work.status = self._status()
        work.outcome = self.outcome
        work.reason = self._reason if self.paused else None
        work.inbox_done = min([self.inbox_seen, *(number - 1 for number, _ in self._held)])
        return work

    @property
    def idle(self) -> bool:
        """Whether no attempt is under way."""
        return not any(task.state == "running" for task in self._tasks.values())

    def evict(self) -> None:
        """Drop the workflow's code."""
        self._machine.evict()

    def _status(self) -> ExecutionStatus:
        if self.outcome is not None:
            return self.outcome.status
        return ExecutionStatus.PAUSED if self.paused else ExecutionStatus.RUNNING

    # --- inside --------------------------------------------------------------------------------------------
    def _time(self, now: float) -> float:
        self._at = max(self._at, now)
        return self._at

    def _current(self, seq: int, attempt: int) -> _Task | None:
        task = self._tasks.get(seq)
        return task if task is not None and task.attempt == attempt and task.state == "running" else None

    def _settle(self, task: _Task, event: StepCompleted | AttemptFailed) -> None:
        if self.paused:
            task.state = "held"
            self._work.holds.append(event)
        else:
            self._take_outcome(event, event.at)

    def _take_outcome(self, event: StepCompleted | AttemptFailed, now: float) -> None:
        task = self._tasks.get(event.step)
        if task is None:
            self._work.counts["late_results"] += 1
        elif isinstance(event, StepCompleted):
            self._work.counts["steps_completed"] += 1
            self._count_seconds(event)
            at = self._time(now)
            self._apply(
                StepCompleted(at, event.step, event.name, event.attempt, event.result, event.began, event.worker)
            )
        else:
            self._take_failure(task, event, now)

    def _take_failure(self, task: _Task, event: AttemptFailed, now: float) -> None:
        at = self._time(now)
        self._count_seconds(event)
        if event.counts:
            task.failures += 1
            self._work.counts["attempts_failed"] += 1
            rng = random.Random(f"{self._machine.execution_id}/{event.step}/{event.attempt}")
            policy = task.dispatch.call.options.retry or self._options.retry
            delay = next_delay(policy, event.failure, task.failures, rng)
        else:
            task.losses += 1
            self._work.counts["attempts_lost"] += 1
            delay = 0.0 if task.losses <= MAX_LOST else None
        if delay is None:
            self._work.counts["steps_failed"] += 1
            failed = StepFailed(
                at,
                event.step,
                event.name,
                event.attempt,
                event.failure,
                self._machine.issued,
                event.began,
                event.worker,
            )
            self._apply(failed)
            return
        retry = AttemptFailed(
            at,
            event.step,
            event.name,
            event.attempt,
            event.failure,
            at + delay,
            event.counts,
            event.began,
            event.worker,
        )
        self._record(retry, Effects())
        self._wait(task, retry.retry_at)

    def _count_seconds(self, event: StepCompleted | AttemptFailed) -> None:
        if event.began:
            self._work.counts["attempts_timed"] += 1
            # Counters are whole numbers of microseconds, so that their sums do not depend on the order.
            self._work.counts["attempt_microseconds"] += int(max(0.0, event.at - event.began) * 1e6)

    def _time_out(self, seq: int, attempt: int, now: float) -> None:
        task = self._current(seq, attempt)
        if task is None:
            return
        own = task.dispatch.call.options.timeout
        limit = self._timeout(task.dispatch.call)
        advice = (
            ""
            if own is not None
            else (" (the execution's step_timeout; set another with @rf.step(timeout=…), float('inf') for none)")
        )
        failure = Failure(
            type="rayflow.errors.StepTimeout",
            message=f"attempt {attempt} of step {task.name!r} took longer than its timeout of {limit:g} s{advice}",
            mro=("rayflow.errors.StepTimeout", "TimeoutError"),
        )
        self._work.actions.append(StopAttempt(seq, attempt))
        self.failed(seq, attempt, failure, began=now - (limit or 0.0), worker="", now=now)

    def _timeout(self, call: StepCall) -> float | None:
        limit = self._options.step_timeout if call.options.timeout is None else call.options.timeout
        return None if limit is None or limit == float("inf") else limit

    def _wait(self, task: _Task, until: float) -> None:
        task.state = "waiting"
        heapq.heappush(self._retries, (until, task.dispatch.seq, task.attempt))

    def _run(self, task: _Task) -> None:
        if self.paused or task.state != "idle":
            return
        task.attempt += 1
        task.state, task.sent = "running", False
        call = task.dispatch.call
        local = call.options.local if call.options.local is not None else not self._options.distributed
        self._work.counts["attempts_started"] += 1
        self._work.actions.append(
            RunAttempt(
                seq=task.dispatch.seq,
                attempt=task.attempt,
                call=call,
                payload=task.dispatch.payload,
                timeout=self._timeout(call),
                alone=task.losses >= SUSPICIONS_BEFORE_ALONE,
                local=local,
            )
        )

    def _run_idle(self) -> None:
        for task in self._tasks.values():
            self._run(task)

    def _pause(self, reason: str, now: float) -> None:
        if self.paused:
            return
        self.paused = True
        self._reason = Failure(type="Paused", message=reason)
        self._record(Paused(self._time(now), reason), Effects())
        for task in self._tasks.values():
            if task.state == "running" and not task.sent:
                self._work.actions.append(StopAttempt(task.dispatch.seq, task.attempt))
                task.state = "idle"
                task.attempt -= 1

    def _resume(self, now: float) -> None:
        if not self.paused:
            return
        self.paused = False
        self._reason = None
        self._record(Resumed(self._time(now)), Effects())
        held, self._held = self._held, []
        for _, outcome in held:
            self._take_outcome(outcome, now)
        self._run_idle()

    def _apply(self, event: Event) -> None:
        if self.outcome is not None:
            return
        if isinstance(event, StepCompleted | StepFailed):
            self._tasks.pop(event.step, None)
        effects = self._machine.apply(event)
        self._record(event, effects)
        for seq in effects.dropped:
            self._drop(seq)
        for dispatch in effects.dispatches:
            if self._machine.is_open(dispatch.seq):
                task = self._tasks[dispatch.seq] = _Task(dispatch)
                self._run(task)
        if effects.outcome is not None:
            self._end(effects.outcome, event.at)

    def _drop(self, seq: int) -> None:
        task = self._tasks.pop(seq, None)
        if task is not None and task.state == "running":
            self._work.actions.append(StopAttempt(seq, task.attempt))

    def _end(self, outcome: Outcome, now: float) -> None:
        for seq in list(self._tasks):
            self._drop(seq)
        self.outcome = outcome
        self._record(Ended(self._time(now), outcome.status, outcome.result, outcome.failure), Effects())

    def _record(self, event: Event, effects: Effects) -> None:
        if self._options.checkpoints == "off" and not isinstance(event, Started | Paused | Resumed | Ended):
            return
        off = self._options.checkpoints == "off"
        self._seq += 1
        self._work.entries.append(
            Entry(
                seq=self._seq,
                event=event,
                issued=() if off and not isinstance(event, Started) else tuple(d.call.name for d in effects.dispatches),
                dropped=tuple(effects.dropped),
                state=effects.state,
                stages=tuple(effects.stages),
            )
        )

    def _next_due(self) -> tuple[float, str, int, int] | None:
        due: list[tuple[float, str, int, int]] = []
        if self._deadline is not None:
            due.append((self._deadline, "deadline", 0, 0))
        while self._watch and not self._still_watched(*self._watch[0]):
            heapq.heappop(self._watch)
        if self._watch:
            when, seq, attempt = self._watch[0]
            due.append((when, "watch", seq, attempt))
        while self._retries and not self._still_waiting(*self._retries[0][1:]):
            heapq.heappop(self._retries)
        if not self.paused:
            if self._retries:
                when, seq, attempt = self._retries[0]
                due.append((when, "retry", seq, attempt))
            timer = self._machine.next_timer()
            if timer is not None:
                due.append((timer[0], "timer", timer[1], 0))
        return min(due, default=None)

    def _still_watched(self, when: float, seq: int, attempt: int) -> bool:
        task = self._current(seq, attempt)
        return task is not None and task.sent and task.due == when

    def _still_waiting(self, seq: int, attempt: int) -> bool:
        task = self._tasks.get(seq)
        return task is not None and task.state == "waiting" and task.attempt == attempt
