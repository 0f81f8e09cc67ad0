"""Attempts at the open steps of one execution: numbers, retries and timeouts.

The table owns the numbers of attempts, the counts of failures and losses, when a retry is due, and when an attempt
times out. The meaning for the execution is decided in :mod:`rayflow.core.execution.execution`.
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
from rayflow.core.execution.retry import MAX_LOST_ATTEMPTS, SUSPICIONS_BEFORE_ISOLATION, is_suspicious, next_delay
from rayflow.core.interpreter.effects import Dispatch
from rayflow.definition.context import StepCall
from rayflow.definition.options import ExecutionOptions
from rayflow.errors import Failure


class PendingState(Enum):
    """State of a pending step."""

    IDLE = auto()
    #: An attempt is under way.
    RUNNING = auto()
    #: The next attempt waits for its retry time, or for the step's ``not_before``.
    WAITING = auto()
    #: The outcome arrived during a pause and is kept in the inbox.
    DEFERRED = auto()


@dataclass(slots=True, eq=False)
class PendingStep:
    """A step that was issued and has no applied outcome.

    Args:
        seq: number of the step.
        call: the code's call.
        payload: encoded arguments.
        name: label in the journal.
        limit: seconds that an attempt may take; None for no limit.
        attempt: number of the newest attempt.
        failures: the step's own failed attempts.
        losses: attempts lost to infrastructure.
        suspicions: lost attempts whose worker died, so that the step may be the cause.
        state: what the step waits for.
        sent_at: when the running attempt was sent to a worker; None before that.
        beaten_at: time of its newest heartbeat.
        due: when the running attempt times out; tells its current timeout from outdated ones.
        ran: whether the attempt's code has finished, and its result is being stored.
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
    state: PendingState = PendingState.IDLE
    sent_at: float | None = None
    beaten_at: float = 0.0
    due: float = 0.0
    ran: bool = False


class Attempts:
    """Table of the pending steps of one execution."""

    def __init__(self, options: ExecutionOptions) -> None:
        self._options = options
        self._steps: dict[int, PendingStep] = {}
        self._recorded: Mapping[int, AttemptCount] = {}
        self._retries: list[tuple[float, int, int]] = []
        self._timeouts: list[tuple[float, int, int]] = []

    def __len__(self) -> int:
        return len(self._steps)

    def remember(self, recorded: Mapping[int, AttemptCount]) -> None:
        """Use the journal's counts for the steps that are added from now on."""
        self._recorded = recorded

    def add(self, dispatch: Dispatch, now: float) -> PendingStep:
        """Add a step that the code issued."""
        call = dispatch.call
        assert isinstance(call, StepCall)
        limit = call.options.timeout
        if limit is None:
            limit = self._options.step_timeout
        step = self._steps[dispatch.seq] = PendingStep(
            dispatch.seq, call, dispatch.payload, dispatch.label, None if limit == float("inf") else limit
        )
        recorded = self._recorded.get(dispatch.seq)
        if recorded is not None:
            step.attempt, step.failures = recorded.attempts, recorded.failures
            step.losses, step.suspicions = recorded.losses, recorded.suspicions
        first = call.options.not_before or 0.0
        begins = first if recorded is None else max(first, recorded.retry_at)
        if begins > now:
            self.wait(step, begins)
        return step

    def get(self, seq: int) -> PendingStep | None:
        """Return the pending step of that number."""
        return self._steps.get(seq)

    def remove(self, seq: int) -> None:
        """Remove a step whose outcome is applied."""
        self._steps.pop(seq, None)

    def drop(self, seq: int) -> StopAttempt | None:
        """Remove a step that the code no longer waits for, and return the command to stop its attempt."""
        step = self._steps.pop(seq, None)
        return StopAttempt(seq, step.attempt) if step is not None and step.state is PendingState.RUNNING else None

    def current(self, seq: int, attempt: int) -> PendingStep | None:
        """Return the step if this is its running attempt; the outcome of any other attempt does not count."""
        step = self._steps.get(seq)
        return step if step is not None and step.attempt == attempt and step.state is PendingState.RUNNING else None

    def idle(self) -> list[PendingStep]:
        """Return the steps that are ready for an attempt, in the order in which they were issued."""
        return [step for step in self._steps.values() if step.state is PendingState.IDLE]

    @property
    def numbers(self) -> list[int]:
        """Numbers of all pending steps."""
        return list(self._steps)

    @property
    def running(self) -> bool:
        """Whether any attempt is under way."""
        return any(step.state is PendingState.RUNNING for step in self._steps.values())

    def live(self) -> list[LiveTask]:
        """Return the pending steps for display."""
        found = []
        for seq, step in self._steps.items():
            under_way = step.state in {PendingState.RUNNING, PendingState.DEFERRED}
            began = step.sent_at if step.state is PendingState.RUNNING else None
            attempt = step.attempt if under_way else step.attempt + 1
            due = 0.0 if began is None else step.due
            found.append(LiveTask(seq, step.name, attempt, began, step.failures, step.losses, due))
        return found

    def start(self, step: PendingStep) -> RunAttempt:
        """Begin the next attempt of an idle step."""
        step.attempt += 1
        step.state, step.sent_at, step.ran = PendingState.RUNNING, None, False
        local = not self._options.distributed if step.call.options.local is None else step.call.options.local
        exclusive = step.suspicions >= SUSPICIONS_BEFORE_ISOLATION
        return RunAttempt(step.seq, step.attempt, step.call, step.payload, step.limit, exclusive=exclusive, local=local)

    def sent(self, step: PendingStep, now: float) -> None:
        """Start the timeouts of an attempt that was sent to a worker."""
        step.sent_at = step.beaten_at = now
        self._set_timeout(step)

    def beat(self, step: PendingStep, now: float) -> None:
        """Note a heartbeat of the running attempt."""
        if step.sent_at is not None:
            step.beaten_at = max(step.beaten_at, now)
            self._set_timeout(step)

    def ran(self, step: PendingStep) -> None:
        """End the timeouts of an attempt whose code has finished, however long its result takes to store."""
        step.ran, step.due = True, 0.0

    def _set_timeout(self, step: PendingStep) -> None:
        if step.ran:
            return
        assert step.sent_at is not None
        limits = ((step.sent_at, step.limit), (step.beaten_at, step.call.options.heartbeat_timeout))
        ends = [begin + limit for begin, limit in limits if limit is not None]
        due = min(ends, default=0.0)
        if due != step.due:
            step.due = due
            heapq.heappush(self._timeouts, (due, step.seq, step.attempt))

    def take_back(self, step: PendingStep) -> None:
        """Return an attempt that never began: it does not count, and its number is used again."""
        step.state, step.sent_at, step.due = PendingState.IDLE, None, 0.0
        step.attempt -= 1

    def withdraw_unsent(self) -> list[StopAttempt]:
        """Take back all attempts that were not sent to a worker."""
        stops = []
        for seq, step in self._steps.items():
            if step.state is PendingState.RUNNING and step.sent_at is None:
                # The number is not used again, so a late report of this attempt does not count.
                stops.append(StopAttempt(seq, step.attempt))
                step.state = PendingState.IDLE
        return stops

    def delay_after(self, step: PendingStep, event: AttemptFailed, execution_id: str) -> float | None:
        """Count a failed or lost attempt; return the seconds until the next one, None if the step has failed."""
        if not event.counts:
            step.losses += 1
            step.suspicions += is_suspicious(event.failure)
            return 0.0 if step.losses <= MAX_LOST_ATTEMPTS else None
        step.failures += 1
        rng = random.Random(f"{execution_id}/{event.step}/{event.attempt}")
        policy = step.call.options.retry or self._options.retry
        return next_delay(policy, event.failure, step.failures, rng)

    def wait(self, step: PendingStep, until: float) -> None:
        """Schedule the next attempt."""
        step.state = PendingState.WAITING
        heapq.heappush(self._retries, (until, step.seq, step.attempt))

    def next_retry(self) -> tuple[float, PendingStep] | None:
        """Return the earliest scheduled attempt: its time and its step."""
        while self._retries:
            when, seq, attempt = self._retries[0]
            step = self._steps.get(seq)
            if step is not None and step.state is PendingState.WAITING and step.attempt == attempt:
                return when, step
            heapq.heappop(self._retries)
        return None

    def next_timeout(self) -> tuple[float, PendingStep] | None:
        """Return the earliest timeout of a running attempt: its time and its step."""
        while self._timeouts:
            when, seq, attempt = self._timeouts[0]
            step = self.current(seq, attempt)
            if step is not None and step.sent_at is not None and step.due == when:
                return when, step
            heapq.heappop(self._timeouts)
        return None


def timed_out(step: PendingStep) -> Failure:
    """Return the failure of an attempt that exceeded its timeout or its heartbeat timeout."""
    silence = step.call.options.heartbeat_timeout
    attempt = f"attempt {step.attempt} of step {step.name!r}"
    if silence is not None and step.due == step.beaten_at + silence:
        message = f"{attempt} sent no heartbeat for its heartbeat_timeout of {silence:g} s"
    else:
        message = f"{attempt} took longer than its timeout of {step.limit:g} s"
        if step.call.options.timeout is None:
            message += " (the execution's step_timeout; set another with @rf.step(timeout=…), float('inf') for none)"
    return Failure(
        type="rayflow.errors.StepTimeout",
        message=message,
        mro=("rayflow.errors.StepTimeout", "TimeoutError"),
    )
