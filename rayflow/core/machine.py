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
import uuid
from collections.abc import Callable, Collection, Coroutine, Sequence
from typing import Any

from rayflow.core.effects import Dispatch, Effects, Outcome, Payloads
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
from rayflow.core.failures import failure_of, overdue, step_error
from rayflow.core.loop import CALLBACK_BUDGET, DurableLoop, NeverSettles
from rayflow.definition.context import StepCall
from rayflow.errors import Failure, NonDeterminismError, RayflowError
from rayflow.ids import ExecutionStatus

__all__ = ["Dispatch", "Effects", "Machine", "Outcome", "Payloads", "failure_of"]


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
        self._open: dict[int, tuple[StepCall, asyncio.Future[Any]]] = {}
        self._issued = 0
        self._answered: Collection[int] = frozenset()
        self._root: asyncio.Task[Any] | None = None
        self._cancelled: CancelRequested | None = None
        self._overdue: DeadlinePassed | None = None
        self._closing = False
        self._told: set[asyncio.Task[Any]] = set()
        self._failed: dict[int, int] = {}
        self._unissued: RuntimeError | None = None
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

    def apply(self, event: Event) -> Effects:
        """Apply one event, run the code until it waits again, and answer what it did.

        Raises:
            NonDeterminismError: the event answers a step or timer that the code did not make.
        """
        effects = self._effects = Effects()
        if self.outcome is not None:
            return effects
        self._loop.advance(event.at)
        try:
            self._feed(event)
            self._loop.drain()
            if self._root is not None and self._root.done():
                self._finish(self._root)
        except NeverSettles as error:
            self._end(Outcome(ExecutionStatus.FAILED, failure=failure_of(error)))
        return effects

    def replay(self, entries: Sequence[Entry]) -> list[Dispatch]:
        """Apply recorded entries; answer the steps that are still unanswered, in the order they were issued.

        Raises:
            NonDeterminismError: the code did something else than what was recorded.
        """
        self._answered = {e.event.step for e in entries if isinstance(e.event, StepCompleted | StepFailed)}
        waiting: dict[int, Dispatch] = {}
        for entry in entries:
            if self.outcome is not None:
                raise NonDeterminismError(
                    expected=f"{describe(entry.event)} to be waited for",
                    seen=f"the workflow's end ({self.outcome.status})",
                    position=entry.seq,
                )
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
        if self._loop.dead or self._closing:
            self._refuse()
            await self._loop.create_future()  # for ever: this code swallows refusals
        seq = self._issue(call)
        future = self._loop.create_future()
        self._open[seq] = (call, future)
        try:
            return await future
        finally:
            if seq in self._open and not self._loop.dead:
                del self._open[seq]
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
        if self._loop.dead or self._closing:
            self._refuse()
            return
        self._effects.state[key] = self._payloads.encode(value)

    def stage(self, index: int, name: str, status: str, result: Any = None) -> None:
        """Record what happened to a declared step."""
        if self._loop.dead or self._closing:
            self._refuse()
            return
        encoded = None if result is None else self._payloads.encode(result)
        self._effects.stages.append(StageNote(index, name, status, encoded))

    # --- inside --------------------------------------------------------------------------------------------
    def _issue(self, call: StepCall) -> int:
        self._issued = seq = self._issued + 1
        payload = b""
        if seq not in self._answered:
            # Encoded now, not when it is sent: the code may change its arguments afterwards.
            try:
                payload = self._payloads.encode([list(call.args), dict(call.kwargs)])
            except BaseException:
                # Its number is used up all the same. Were it given to the next step, a replay that finds that one
                # answered would not encode these arguments, and so would not fail here.
                self._effects.dispatches.append(Dispatch(seq, call, b""))
                self._effects.dropped.append(seq)
                raise
        self._effects.dispatches.append(Dispatch(seq, call, payload))
        return seq

    def _refuse(self) -> None:
        if self._loop.dead:
            self._loop.refuse("this execution was set aside while its code ran; nothing more can be issued in it")
            return
        try:
            self._loop.refuse(
                "the clean-up of an async generator ran after the workflow's end, when nothing can be issued any more; "
                "use `async with contextlib.aclosing(...)` so that it is closed while the workflow runs"
            )
        except RuntimeError as refused:
            self._unissued = self._unissued or refused
            raise

    def _feed(self, event: Event) -> None:
        match event:
            case StepCompleted() | StepFailed():
                self._answer(event)
            case TimerFired():
                if not self._loop.timer_alive(event.timer):
                    raise NonDeterminismError(
                        expected=f"timer {event.timer} to be waiting", seen="no such timer", position=event.timer
                    )
                self._loop.fire(event.timer)
            case Started():
                self._root = self._loop.create_task(self._begin(), context=contextvars.Context())
            case CancelRequested():
                self._cancelled = self._cancelled or event
                self._cancel(event.reason or "the execution was cancelled")
            case DeadlinePassed():
                self._overdue = event
                self._cancel("the execution's time is up")
            case _:
                raise TypeError(f"{type(event).__name__} is not applied to workflow code")

    def _answer(self, event: StepCompleted | StepFailed) -> None:
        call, future = self._open.get(event.step, (None, None))
        if call is None or future is None or call.name != event.name:
            seen = "no such step waiting" if call is None else f"step {event.step} {call.name!r}"
            raise NonDeterminismError(expected=f"step {event.step} {event.name!r}", seen=seen, position=event.step)
        del self._open[event.step]
        if isinstance(event, StepCompleted):
            try:
                future.set_result(self._payloads.decode(event.result, call.returns))
                return
            except Exception as error:  # noqa: BLE001 - whatever a codec or a model raises becomes the step's failure
                failure = failure_of(error)
            event = StepFailed(event.at, event.step, event.name, event.attempt, failure, issued=self._issued)
        self._failed[event.step] = len(self._failed)
        future.set_exception(step_error(event))

    def _cancel(self, message: str) -> None:
        if self._root is None:
            return
        if self._root.done():  # what it left running is still cleaning up, and is asked once more
            for task in self._loop.pending_tasks():
                task.cancel(message)
        self._root.cancel(message)

    def _finish(self, root: asyncio.Task[Any]) -> None:
        # As asyncio.run does: what the workflow left running is cancelled, and may still clean up, durably.
        while untold := [task for task in self._loop.pending_tasks() if task not in self._told]:
            self._told.update(untold)
            for task in untold:
                task.cancel("the workflow ended")
            self._loop.drain()
        if self._loop.pending_tasks():
            return
        self._closing = True
        self._loop.close_generators()
        self._loop.drain()
        self._end(self._outcome(root))

    def _end(self, outcome: Outcome) -> None:
        self.outcome = self._effects.outcome = outcome
        self._effects.dropped.extend(self._open)
        self._open.clear()
        self.evict()

    def _outcome(self, root: asyncio.Task[Any]) -> Outcome:
        error = asyncio.CancelledError() if root.cancelled() else root.exception() or self._unissued
        if self._overdue is not None:
            return Outcome(ExecutionStatus.FAILED, failure=overdue(self._overdue))
        if self._cancelled is not None and (error is None or isinstance(error, asyncio.CancelledError)):
            reason = Failure(type="ExecutionCancelled", message=self._cancelled.reason, retryable=False)
            return Outcome(ExecutionStatus.CANCELLED, failure=reason)
        if error is not None:
            return Outcome(ExecutionStatus.FAILED, failure=failure_of(error, self._failed))
        try:
            return Outcome(ExecutionStatus.COMPLETED, result=self._payloads.encode(root.result()))
        except RayflowError as unwritable:
            return Outcome(ExecutionStatus.FAILED, failure=failure_of(unwritable))


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
    if tuple(effects.dropped) != entry.dropped:
        raise NonDeterminismError(
            expected=f"steps {list(entry.dropped)} to be given up", seen=f"{effects.dropped}", position=entry.seq
        )


def describe(event: Event) -> str:
    """An event in a message."""
    match event:
        case StepCompleted() | StepFailed():
            return f"step {event.step} {event.name!r}"
        case TimerFired():
            return f"timer {event.timer}"
        case _:
            return type(event).__name__
