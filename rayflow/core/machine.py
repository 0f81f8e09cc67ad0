"""The machine: workflow code as a deterministic function from events to effects.

The machine owns the workflow's coroutine and the loop on which it runs, the numbering of its steps, and the
comparison of a replay with what the journal recorded. Its owner (:mod:`rayflow.core.execution`) owns time,
retries, statuses and the journal. One event is applied at a time; then the loop runs until nothing is ready;
what the code did meanwhile is the answer. Applying the same events in the same order gives the same effects, in
any process, on any day: that is all that recovery needs.
"""

from __future__ import annotations

import asyncio
import contextvars
import random
import traceback
import uuid
from collections.abc import Callable, Collection, Coroutine
from dataclasses import dataclass, field
from typing import Any, Protocol

from rayflow.core.events import (
    CancelRequested,
    DeadlinePassed,
    Entry,
    Event,
    StageNote,
    Started,
    StepCompleted,
    StepFailed,
    TimerFired,
)
from rayflow.core.loop import CALLBACK_BUDGET, DurableLoop, DurableTask, NeverSettles
from rayflow.definition.context import StepCall
from rayflow.errors import (
    Failure,
    NonDeterminismError,
    RayflowError,
    StepTimeout,
    class_name,
)
from rayflow.errors import StepFailed as StepFailedError
from rayflow.ids import ExecutionStatus


class Payloads(Protocol):
    """The codec, as the machine needs it (floor 3 has the real one)."""

    def encode(self, value: Any) -> bytes:
        """The value as bytes. Raises CodecError."""

    def decode(self, data: bytes, annotation: Any = None) -> Any:
        """The value of those bytes, rebuilt through the annotation. Raises CodecError."""


@dataclass(frozen=True, slots=True)
class Dispatch:
    """The code issued a step: it has to be run, and its outcome applied."""

    seq: int
    call: StepCall
    #: The encoded (args, kwargs); empty while replay knows that the answer is recorded already.
    payload: bytes


@dataclass(frozen=True, slots=True)
class Outcome:
    """How the workflow's code ended."""

    status: ExecutionStatus
    result: bytes | None = None
    failure: Failure | None = None


@dataclass(slots=True)
class Effects:
    """What the code did when one event was applied."""

    dispatches: list[Dispatch] = field(default_factory=list)
    dropped: list[int] = field(default_factory=list)
    state: dict[str, bytes] = field(default_factory=dict)
    stages: list[StageNote] = field(default_factory=list)
    outcome: Outcome | None = None


@dataclass(slots=True)
class _Open:
    call: StepCall
    future: asyncio.Future[Any]


class Machine:
    """One execution's code. See the module's docstring for who owns what.

    Args:
        begin: makes the workflow's coroutine; called when ``Started`` is applied.
        execution_id: seeds the execution's random numbers and names its tasks.
        workflow_id: for the code to see.
        payloads: the codec.
        budget: callbacks that one event may cause.
        on_unhandled: told of exceptions that nobody awaited.
    """

    def __init__(
        self,
        begin: Callable[[], Coroutine[Any, Any, Any]],
        *,
        execution_id: str,
        workflow_id: str,
        payloads: Payloads,
        budget: int = CALLBACK_BUDGET,
        on_unhandled: Callable[[str, BaseException | None], None] = lambda message, error: None,
    ) -> None:
        self.execution_id = execution_id
        self.workflow_id = workflow_id
        self._begin = begin
        self._payloads = payloads
        self._loop = DurableLoop(execution=self, name=execution_id, budget=budget, on_unhandled=on_unhandled)  # type: ignore[abstract]
        self._random = random.Random(execution_id)
        self._effects = Effects()
        self._open: dict[int, _Open] = {}
        self._issued = 0
        self._answered: Collection[int] = frozenset()
        self._root: asyncio.Task[Any] | None = None
        self._cancelled: CancelRequested | None = None
        self._overdue: DeadlinePassed | None = None
        self._closing = False
        self._told: set[asyncio.Task[Any]] = set()
        self.outcome: Outcome | None = None

    # --- what its owner calls ------------------------------------------------------------------------------
    @property
    def issued(self) -> int:
        """The number of steps issued so far; the newest step has this number."""
        return self._issued

    def is_open(self, seq: int) -> bool:
        """Whether the code still waits for that step."""
        return seq in self._open

    def next_timer(self) -> tuple[float, int] | None:
        """When the earliest timer is due, and its number."""
        return None if self.outcome else self._loop.next_timer()

    def timer_alive(self, number: int) -> bool:
        """Whether that timer still waits; the firing of a dead one is not an event."""
        return self._loop.timer_alive(number)

    def apply(self, event: Event) -> Effects:
        """Apply one event, run the code until it waits again, and answer what it did.

        Raises:
            NonDeterminismError: the event answers a step or timer that the code did not make.
        """
        self._effects = Effects()
        if self.outcome is not None:
            return self._effects
        self._loop.advance(event.at)
        try:
            self._feed(event)
            self._loop.drain()
            self._finish()
        except NeverSettles as error:
            self._end(Outcome(ExecutionStatus.FAILED, failure=failure_of(error)))
            self.evict()
        effects, self._effects = self._effects, Effects()
        return effects

    def replay(self, entries: list[Entry]) -> list[Dispatch]:
        """Apply recorded entries; answer the steps that are still unanswered, in the order they were issued.

        Raises:
            NonDeterminismError: the code did something else than what was recorded.
        """
        self._answered = {e.event.step for e in entries if isinstance(e.event, StepCompleted | StepFailed)}
        waiting: dict[int, Dispatch] = {}
        for entry in entries:
            effects = self.apply(entry.event)
            _compare(entry, effects)
            waiting.update((d.seq, d) for d in effects.dispatches)
        self._answered = frozenset()
        return [dispatch for seq, dispatch in waiting.items() if seq in self._open]

    def evict(self) -> None:
        """Drop the code: its clean-up runs, but nothing that it issues happens."""
        self._loop.evict()

    # --- what the code calls, through rayflow.definition.context --------------------------------------------
    async def call(self, call: StepCall) -> Any:
        """Issue a step and wait for its recorded outcome."""
        seq = self._issue(call)
        future = self._loop.create_future()
        self._open[seq] = _Open(call, future)
        try:
            return await future
        finally:
            if self._open.pop(seq, None) is not None and not self._loop.dead:
                self._effects.dropped.append(seq)

    def now(self) -> float:
        """Seconds since the epoch, as of the event being applied."""
        return self._loop.time()

    @property
    def random(self) -> random.Random:
        """The execution's own random numbers."""
        return self._random

    def uuid4(self) -> uuid.UUID:
        """A random UUID from the execution's own random numbers."""
        return uuid.UUID(int=self._random.getrandbits(128), version=4)

    def publish(self, key: str, value: Any) -> None:
        """Make a value visible in the snapshot's state."""
        self._refuse_when_over()
        self._effects.state[key] = self._payloads.encode(value)

    def stage(self, index: int, name: str, status: str, result: Any = None) -> None:
        """Record what happened to a declared step."""
        self._refuse_when_over()
        encoded = None if result is None else self._payloads.encode(result)
        self._effects.stages.append(StageNote(index, name, status, encoded))

    # --- inside --------------------------------------------------------------------------------------------
    def _issue(self, call: StepCall) -> int:
        self._refuse_when_over()
        seq = self._issued + 1
        # Encoded now, not when it is sent: the code may change its arguments afterwards.
        payload = b"" if seq in self._answered else self._payloads.encode((call.args, dict(call.kwargs)))
        self._issued = seq
        self._effects.dispatches.append(Dispatch(seq, call, payload))
        return seq

    def _refuse_when_over(self) -> None:
        if self._loop.dead:
            raise RuntimeError("this execution was set aside while its code ran; nothing more can be issued in it")
        if self._closing:
            raise RuntimeError(
                "the clean-up of an async generator ran after the workflow's end, when nothing can be issued any more; "
                "use `async with contextlib.aclosing(...)` so that it is closed while the workflow runs"
            )

    def _feed(self, event: Event) -> None:
        match event:
            case Started():
                self._root = self._loop.create_task(self._begin(), context=contextvars.Context())
            case StepCompleted() | StepFailed():
                self._answer(event)
            case TimerFired():
                if not self._loop.timer_alive(event.timer):
                    raise NonDeterminismError(
                        expected=f"timer {event.timer} to be waiting", seen="no such timer", position=event.timer
                    )
                self._loop.fire(event.timer)
            case CancelRequested():
                self._cancelled = self._cancelled or event
                self._cancel(event.reason or "the execution was cancelled")
            case DeadlinePassed():
                self._overdue = event
                self._cancel("the execution's time is up")
            case _:
                raise TypeError(f"{type(event).__name__} is not applied to workflow code")

    def _answer(self, event: StepCompleted | StepFailed) -> None:
        waiting = self._open.get(event.step)
        if waiting is None or waiting.call.name != event.name:
            seen = "no such step waiting" if waiting is None else f"step {event.step} {waiting.call.name!r}"
            raise NonDeterminismError(expected=f"step {event.step} {event.name!r}", seen=seen, position=event.step)
        del self._open[event.step]
        if waiting.future.done():
            return  # cancelled in this very drain; its `finally` already gave the step up
        if isinstance(event, StepFailed):
            waiting.future.set_exception(step_error(event))
            return
        try:
            value = self._payloads.decode(event.result, waiting.call.returns)
        except Exception as error:  # noqa: BLE001 - whatever a codec or a model raises becomes the step's failure
            failed = StepFailed(event.at, event.step, event.name, event.attempt, failure_of(error), issued=self._issued)
            waiting.future.set_exception(step_error(failed))
        else:
            waiting.future.set_result(value)

    def _cancel(self, message: str) -> None:
        if self._root is not None:
            self._root.cancel(message)

    def _finish(self) -> None:
        if self._root is None or not self._root.done():
            return
        # As asyncio.run does: what the workflow left running is cancelled, and may still clean up, durably.
        left = self._loop.pending_tasks()
        if left and not self._cancel_left(left):
            return
        self._closing = True
        self._loop.close_generators()
        self._loop.drain()
        self._end(self._outcome(self._root))

    def _cancel_left(self, left: list[DurableTask]) -> bool:
        for task in left:
            if task not in self._told:
                self._told.add(task)
                task.cancel("the workflow ended")
        self._loop.drain()
        return not self._loop.pending_tasks()

    def _end(self, outcome: Outcome) -> None:
        self.outcome = self._effects.outcome = outcome
        self._effects.dropped.extend(self._open)
        self._open.clear()

    def _outcome(self, root: asyncio.Task[Any]) -> Outcome:
        error = asyncio.CancelledError() if root.cancelled() else root.exception()
        if self._overdue is not None:
            return Outcome(ExecutionStatus.FAILED, failure=_overdue(self._overdue))
        if self._cancelled is not None and (error is None or isinstance(error, asyncio.CancelledError)):
            reason = Failure(type="ExecutionCancelled", message=self._cancelled.reason, retryable=False)
            return Outcome(ExecutionStatus.CANCELLED, failure=reason)
        if error is not None:
            return Outcome(ExecutionStatus.FAILED, failure=failure_of(error))
        try:
            return Outcome(ExecutionStatus.COMPLETED, result=self._payloads.encode(root.result()))
        except RayflowError as unwritable:
            return Outcome(ExecutionStatus.FAILED, failure=failure_of(unwritable))


def _overdue(event: DeadlinePassed) -> Failure:
    return Failure(
        type="rayflow.errors.ExecutionTimeout",
        message=f"the execution's {event.limit or 'time'} is up",
        retryable=False,
        mro=("rayflow.errors.ExecutionTimeout", "TimeoutError"),
    )


def _compare(entry: Entry, effects: Effects) -> None:
    issued = tuple(d.call.name for d in effects.dispatches)
    for position, (expected, seen) in enumerate(zip(entry.issued, issued, strict=False)):
        if expected != seen:
            raise NonDeterminismError(
                expected=f"step {expected!r} (number {position + 1} of this entry)",
                seen=f"{seen!r}",
                position=entry.seq,
            )
    if len(issued) != len(entry.issued):
        shorter = min(len(issued), len(entry.issued))
        expected = repr(entry.issued[shorter]) if len(entry.issued) > shorter else "no further step"
        seen = repr(issued[shorter]) if len(issued) > shorter else "no further step"
        raise NonDeterminismError(expected=expected, seen=seen, position=entry.seq)
    if tuple(effects.dropped) != entry.dropped and effects.outcome is None:
        raise NonDeterminismError(
            expected=f"steps {list(entry.dropped)} to be given up", seen=f"{effects.dropped}", position=entry.seq
        )


def step_error(event: StepFailed) -> StepFailedError:
    """The exception that the workflow's code sees for a recorded failure."""
    timed_out = event.failure.matches("rayflow.errors.StepTimeout")
    cls = StepTimeout if timed_out else StepFailedError
    return cls(event.name, event.failure, attempts=event.attempt, seq=event.step)


def failure_of(error: BaseException) -> Failure:
    """An exception as data, with the step whose failure caused it, if one's did."""
    cause = _step_failure_in(error)
    return Failure(
        type=class_name(type(error)),
        message=str(error),
        traceback="".join(traceback.format_exception(error)),
        retryable=getattr(error, "retryable", True),
        mro=tuple(class_name(c) for c in type(error).__mro__[:-1]),
        step=None if cause is None else cause.seq,
    )


def _step_failure_in(error: BaseException | None, depth: int = 0) -> StepFailedError | None:
    if error is None or depth > 20:
        return None
    if isinstance(error, StepFailedError):
        return error
    if isinstance(error, BaseExceptionGroup):
        found = (_step_failure_in(member, depth + 1) for member in error.exceptions)
        return next((f for f in found if f is not None), None)
    return _step_failure_in(error.__cause__ or error.__context__, depth + 1)
