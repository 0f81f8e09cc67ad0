"""The steps that an execution has issued and nobody has answered: their attempts, retries and timeouts.

The table owns the numbers of attempts, what they have used up, when a retry is due and when an attempt has taken
too long. What that means for the execution is decided by its owner (:mod:`rayflow.core.execution.execution`).
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, auto

from rayflow.core.events import AttemptFailed
from rayflow.core.execution.actions import LiveTask, RunAttempt, StopAttempt
from rayflow.core.execution.journal import AttemptCount
from rayflow.core.execution.retry import MAX_LOST, SUSPICIONS_BEFORE_ALONE, is_suspicious, next_delay
from rayflow.core.interpreter.effects import Dispatch
from rayflow.definition.context import StepCall
from rayflow.definition.options import ExecutionOptions
from rayflow.errors import Failure


class TaskState(Enum):
    """Where an unanswered step is."""

    IDLE = auto()
    #: An attempt is under way.
    RUNNING = auto()
    #: For its retry, or for the moment before which it may not begin.
    WAITING = auto()
    #: Its answer came during a pause and is in the inbox.
    HELD = auto()


@dataclass(slots=True, eq=False)
class PendingStep:
    """One unanswered step.

    Args:
        seq: the step's number.
        call: what the code called.
        payload: its encoded arguments.
        name: its label in the journal.
        limit: seconds that an attempt may take; None for any.
        attempt: number of the newest attempt.
        failures: attempts that it failed itself.
        losses: attempts that were lost to infrastructure.
        suspicions: those of them that may have been its own doing: their workers died.
        state: where it is.
        sent_at: when the attempt under way went to a worker; None if it has not.
        beaten_at: when it last said that it is alive.
        due: when that attempt times out; tells its watch from those that are out of date.
        ran: whether its code is done, and what it answered is being kept.
    """

    seq: int
    call: StepCall
    payload: bytes
    name: str
    limit: float | None
    attempt: int = 0
    failures: int = 0
    losses: int = 0
    suspicions: int = 0
    state: TaskState = TaskState.IDLE
    sent_at: float | None = None
    beaten_at: float = 0.0
    due: float = 0.0
    ran: bool = False


class Attempts:
    """See the module's docstring.

    Args:
        options: the execution's options.
    """

    def __init__(self, options: ExecutionOptions) -> None:
        self._options = options
        self._tasks: dict[int, PendingStep] = {}
        self._former: Mapping[int, AttemptCount] = {}
        self._retries: list[tuple[float, int, int]] = []
        self._watch: list[tuple[float, int, int]] = []

    def __len__(self) -> int:
        return len(self._tasks)

    # --- the table -----------------------------------------------------------------------------------------
    def remember(self, former: Mapping[int, AttemptCount]) -> None:
        """What the journal knows of attempts, for the steps that are added from now on."""
        self._former = former

    def add(self, dispatch: Dispatch, now: float) -> PendingStep:
        """A step was issued."""
        call = dispatch.call
        assert isinstance(call, StepCall)
        limit = call.options.timeout
        if limit is None:
            limit = self._options.step_timeout
        task = self._tasks[dispatch.seq] = PendingStep(
            dispatch.seq, call, dispatch.payload, dispatch.label, None if limit == float("inf") else limit
        )
        former = self._former.get(dispatch.seq)
        if former is not None:
            task.attempt, task.failures = former.attempts, former.failures
            task.losses, task.suspicions = former.losses, former.suspicions
        first = call.options.not_before or 0.0
        begins = first if former is None else max(first, former.retry_at)
        if begins > now:
            self.wait(task, begins)
        return task

    def get(self, seq: int) -> PendingStep | None:
        """The task of that step, if it is unanswered."""
        return self._tasks.get(seq)

    def answered(self, seq: int) -> None:
        """The step needs no attempts any more."""
        self._tasks.pop(seq, None)

    def drop(self, seq: int) -> StopAttempt | None:
        """Nobody waits for the step any more; answers the attempt that is to be stopped."""
        task = self._tasks.pop(seq, None)
        return StopAttempt(seq, task.attempt) if task is not None and task.state is TaskState.RUNNING else None

    def current(self, seq: int, attempt: int) -> PendingStep | None:
        """The task whose attempt under way this is; None for any other attempt, whose answer does not count."""
        task = self._tasks.get(seq)
        return task if task is not None and task.attempt == attempt and task.state is TaskState.RUNNING else None

    def idle(self) -> list[PendingStep]:
        """Tasks without an attempt, a retry or an answer, in the order in which they were issued."""
        return [task for task in self._tasks.values() if task.state is TaskState.IDLE]

    @property
    def numbers(self) -> list[int]:
        """Numbers of all unanswered steps."""
        return list(self._tasks)

    @property
    def running(self) -> bool:
        """Whether any attempt is under way."""
        return any(task.state is TaskState.RUNNING for task in self._tasks.values())

    # --- attempts ------------------------------------------------------------------------------------------
    def start(self, task: PendingStep) -> RunAttempt:
        """Begin the next attempt of an idle task."""
        task.attempt += 1
        task.state, task.sent_at, task.ran = TaskState.RUNNING, None, False
        seq, call, payload = task.seq, task.call, task.payload
        local = not self._options.distributed if call.options.local is None else call.options.local
        return RunAttempt(
            seq, task.attempt, call, payload, task.limit, alone=task.suspicions >= SUSPICIONS_BEFORE_ALONE, local=local
        )

    def sent(self, task: PendingStep, now: float) -> None:
        """The attempt under way went to a worker: its timeouts begin."""
        task.sent_at = task.beaten_at = now
        self._watch_over(task)

    def beat(self, task: PendingStep, now: float) -> None:
        """The attempt under way says that it is alive."""
        if task.sent_at is not None:
            task.beaten_at = max(task.beaten_at, now)
            self._watch_over(task)

    def ran(self, task: PendingStep) -> None:
        """The code of the attempt under way is done: its time is not up any more, however long its result takes."""
        task.ran, task.due = True, 0.0

    def _watch_over(self, task: PendingStep) -> None:
        if task.ran:
            return
        silence = task.call.options.heartbeat_timeout
        assert task.sent_at is not None
        limits = ((task.sent_at, task.limit), (task.beaten_at, silence))
        ends = [begin + limit for begin, limit in limits if limit is not None]
        due = min(ends, default=0.0)
        if due != task.due:
            task.due = due
            heapq.heappush(self._watch, (due, task.seq, task.attempt))

    def take_back(self, task: PendingStep) -> None:
        """The attempt under way never began: it costs nothing, and its number is used again."""
        task.state, task.sent_at, task.due = TaskState.IDLE, None, 0.0
        task.attempt -= 1

    def withdraw_unsent(self) -> list[StopAttempt]:
        """Take back all attempts that have not gone to a worker."""
        stops = []
        for seq, task in self._tasks.items():
            if task.state is TaskState.RUNNING and task.sent_at is None:
                # Its number is not used again: whatever is still heard of it is nobody's.
                stops.append(StopAttempt(seq, task.attempt))
                task.state = TaskState.IDLE
        return stops

    def delay_after(self, task: PendingStep, event: AttemptFailed, execution_id: str) -> float | None:
        """Note a failed or lost attempt; answers the seconds until the next one, None if the step has failed."""
        if not event.counts:
            task.losses += 1
            task.suspicions += is_suspicious(event.failure)
            return 0.0 if task.losses <= MAX_LOST else None
        task.failures += 1
        rng = random.Random(f"{execution_id}/{event.step}/{event.attempt}")
        policy = task.call.options.retry or self._options.retry
        return next_delay(policy, event.failure, task.failures, rng)

    def wait(self, task: PendingStep, until: float) -> None:
        """The next attempt begins at that moment."""
        task.state = TaskState.WAITING
        heapq.heappush(self._retries, (until, task.seq, task.attempt))

    def live(self) -> list[LiveTask]:
        """The unanswered steps, as somebody who looks sees them."""
        found = []
        for seq, task in self._tasks.items():
            under_way = task.state in {TaskState.RUNNING, TaskState.HELD}
            began = task.sent_at if task.state is TaskState.RUNNING else None
            attempt = task.attempt if under_way else task.attempt + 1
            due = 0.0 if began is None else task.due
            found.append(LiveTask(seq, task.name, attempt, began, task.failures, task.losses, due))
        return found

    # --- time ----------------------------------------------------------------------------------------------
    def next_retry(self) -> tuple[float, PendingStep] | None:
        """The earliest retry, and whose it is."""
        while self._retries:
            when, seq, attempt = self._retries[0]
            task = self._tasks.get(seq)
            if task is not None and task.state is TaskState.WAITING and task.attempt == attempt:
                return when, task
            heapq.heappop(self._retries)
        return None

    def next_timeout(self) -> tuple[float, PendingStep] | None:
        """The earliest timeout of an attempt under way, and whose it is."""
        while self._watch:
            when, seq, attempt = self._watch[0]
            task = self.current(seq, attempt)
            if task is not None and task.sent_at is not None and task.due == when:
                return when, task
            heapq.heappop(self._watch)
        return None


def timed_out(task: PendingStep) -> Failure:
    """The failure of a task's attempt that took too long, or was silent for too long."""
    silence = task.call.options.heartbeat_timeout
    what = f"attempt {task.attempt} of step {task.name!r}"
    if silence is not None and task.due == task.beaten_at + silence:
        took = f"{what} sent no heartbeat for its heartbeat_timeout of {silence:g} s"
    else:
        took = f"{what} took longer than its timeout of {task.limit:g} s"
        if task.call.options.timeout is None:
            took += " (the execution's step_timeout; set another with @rf.step(timeout=…), float('inf') for none)"
    return Failure(
        type="rayflow.errors.StepTimeout",
        message=took,
        mro=("rayflow.errors.StepTimeout", "TimeoutError"),
    )
