"""Deterministic event loop of workflow code.

The loop is an ``asyncio`` loop without selector, clock and threads. ``call_soon`` runs callbacks in order; ``time()``
is the time of the event being applied; ``call_at`` makes a numbered timer, which only an event fires. Tasks and futures
hash by their number, so that sets of them (``TaskGroup``, ``asyncio.wait``) iterate alike in every process.

The loop owns the order of callbacks. The machine (:mod:`rayflow.core.interpreter.machine`) owns what the code may
issue, and calls :meth:`DurableLoop.drain` from a thread that runs no other loop: inside a running task of another loop,
the tasks of this loop would not advance (Python 3.14).
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import contextvars
import heapq
import sys
from asyncio import events
from collections import deque
from collections.abc import Callable, Coroutine, Generator
from typing import Any, TypeVarTuple, Unpack

from rayflow.core.interpreter import sandbox
from rayflow.core.interpreter.cancellation import Position, position_of
from rayflow.core.interpreter.coroutine_cleanup import Generators, end_coroutine
from rayflow.core.interpreter.effects import ContinueAsNew
from rayflow.core.interpreter.sandbox import RestrictedEventLoop, refuse_as_completed
from rayflow.core.interpreter.source_lines import origin_of, place_of
from rayflow.errors import SideEffectError, WorkflowStalled

Ts = TypeVarTuple("Ts")

#: Maximum number of callbacks for one event. An ordinary fan-out needs about five for each task; code that polls with
#: ``sleep(0)`` exceeds any number.
CALLBACK_BUDGET = 2_000_000

#: Number of exceptions that code gets which issues calls after its end. Code that swallows them in a loop waits from
#: then on instead, since an exception would keep it busy.
REFUSALS = 100

#: Frames that each coroutine keeps of where it was made: enough to lead from a step to its caller. Each one takes 2 µs.
_ORIGINS = 2

_Before = tuple[asyncio.AbstractEventLoop | None, Any, int]

#: Minimum number of cancelled timers before they are removed from the heap.
_SWEEP = 64

#: Loops that are not evicted. A loop that is dropped without eviction stays here, so that neither the garbage collector
#: nor the interpreter's end runs its clean-up outside of the workflow.
_alive: set[DurableLoop] = set()


class DurableLoop(RestrictedEventLoop):
    """Event loop of one execution.

    Args:
        execution: what :func:`rayflow.definition.context.current_execution` returns on this loop.
        name: prefix of the tasks' names: the execution's id.
        budget: maximum number of callbacks in one drain.
        on_unhandled: receives a message and the exception, for everything that the code does not handle.
    """

    def __init__(
        self,
        *,
        execution: object,
        name: str,
        budget: int = CALLBACK_BUDGET,
        on_unhandled: Callable[[str, BaseException | None], None],
    ) -> None:
        sandbox.install()
        self.execution = execution
        self.guarded = True
        self.dead = self._quiet = False
        self.name = name
        #: Refusal of an asyncio object that another execution uses; None if there was none.
        self.conflict: Exception | None = None
        self._budget = budget
        self._on_unhandled = on_unhandled
        self._now = 0.0
        self._number = 0
        self._timer_number = 0
        self._refusals = 0
        self._ready: deque[asyncio.Handle] = deque()
        self._heap: list[tuple[float, int]] = []
        self._timers: dict[int, DurableTimer] = {}
        #: Tasks that are not done, by number. A finished task is not held, so that asyncio reports its failure at once
        #: if nothing else refers to the task.
        self._tasks: dict[int, DurableTask] = {}
        #: Whether the code has to end: its tasks are cancelled, and may clean up.
        self.ending = False
        #: Cancelled tasks that ran in the newest drain.
        self._cancelled: dict[int, DurableTask] = {}
        self._generators = Generators()
        self._eager = False
        _alive.add(self)

    def advance(self, now: float) -> None:
        """Set the loop's time, in seconds since the epoch. Time does not go back."""
        self._now = max(self._now, now)

    def drain(self) -> None:
        """Run callbacks until none is ready.

        Raises:
            WorkflowStalled: if the budget is used up; the loop must be evicted.
            RuntimeError: if another loop runs in this thread, where tasks of this loop would not advance.
        """
        if asyncio._get_running_loop() is not None:
            raise RuntimeError("a workflow's code cannot run inside another event loop: run it in a separate thread")
        budget = self._budget
        ready, tasks = self._ready, self._tasks
        before = self._enter()
        try:
            while ready:
                handle = ready.popleft()
                if handle._cancelled:
                    continue
                budget -= 1
                if budget < 0:
                    raise WorkflowStalled(
                        f"the workflow's code was still busy after {self._budget:,} callbacks for one event: it polls "
                        "(for example with `await asyncio.sleep(0)`) or swallows its cancellation. Wait for a step, a "
                        "timer or a signal instead"
                    )
                try:
                    handle._run()
                except (SystemExit, KeyboardInterrupt) as stop:
                    # It ends the workflow, not the coordinator's process: a task has it as its outcome by now.
                    callback = handle._callback  # type: ignore[attr-defined]
                    if not isinstance(getattr(callback, "__self__", None), asyncio.Task):
                        self._report(f"{type(stop).__name__} in a callback of a workflow", stop)
                task = getattr(handle._callback, "__self__", None)  # type: ignore[attr-defined]
                if task.__class__ is DurableTask:
                    if task.done():
                        tasks.pop(task.number, None)
                    elif task.interrupted:
                        self._cancelled[task.number] = task
                del task, handle
        finally:
            self._leave(before)

    def _enter(self) -> _Before:
        origins = sys.get_coroutine_origin_tracking_depth()
        before = asyncio._get_running_loop(), sys.get_asyncgen_hooks(), origins
        sys.set_coroutine_origin_tracking_depth(_ORIGINS)
        sys.set_asyncgen_hooks(self._generators.hold, None)
        events._set_running_loop(self)
        return before

    def _leave(self, before: _Before) -> None:
        sys.set_coroutine_origin_tracking_depth(before[2])
        events._set_running_loop(before[0])
        sys.set_asyncgen_hooks(*before[1])

    @contextlib.contextmanager
    def _running(self) -> Generator[None]:
        before = self._enter()
        try:
            yield
        finally:
            self._leave(before)

    def next_timer(self) -> tuple[float, int] | None:
        """Return when the earliest live timer is due, and its number; of equal times, the lower number."""
        heap = self._heap
        while heap:
            if heap[0][1] in self._timers:
                return heap[0]
            heapq.heappop(heap)
        return None

    def timer_alive(self, number: int) -> bool:
        """Return whether that timer is neither fired nor cancelled."""
        return number in self._timers

    def fire(self, number: int) -> None:
        """Make the callback of a live timer ready."""
        self._ready.append(self._timers.pop(number))

    def pending_tasks(self) -> list[DurableTask]:
        """Return the tasks that are not done, oldest first."""
        return [task for task in self._tasks.values() if not task.done()]

    def check_cancelled(self) -> None:
        """Raise WorkflowStalled if a task waits again where its cancellation reached it."""
        ran, self._cancelled = self._cancelled, {}
        for task in ran.values():
            if task.swallowed():
                raise WorkflowStalled(
                    f"the workflow's code swallowed its cancellation and waits at {place_of(task)} again. Let "
                    "asyncio.CancelledError pass, or raise it again after the clean-up; a bare `except:` and `except "
                    "BaseException:` catch it"
                )

    def next_number(self) -> int:
        """Return the number of an object that may be put into a set."""
        self._number += 1
        return self._number

    def close_generators(self) -> None:
        """Close async generators that the code left unfinished, oldest first."""
        with self._running():
            self._generators.close_all(self._report_cleanup)

    def _report_cleanup(self, message: str, error: BaseException | None) -> None:
        if not self.dead:  # during an eviction it has no meaning
            self._report(message, error)

    def _report(self, message: str, error: BaseException | None) -> None:
        with sandbox.outside():  # the log may write a file
            self._on_unhandled(message, error)

    def evict(self, *, quiet: bool = False) -> None:
        """Drop the code: its clean-up runs, and the calls that it issues are refused.

        Args:
            quiet: do not report exceptions that the code has not awaited, since it may await them after a replay.
        """
        if self.dead:
            return
        self.dead, self._quiet = True, quiet
        self._ready.clear()
        self._timers.clear()
        self._heap.clear()
        with self._running():
            # In a separate context: the variables that clean-up code sets must not stay in this thread's context.
            contextvars.Context().run(self._close_all)
        self._tasks.clear()
        _alive.discard(self)

    def _close_all(self) -> None:
        for task in self.pending_tasks():
            task._log_destroy_pending = False  # type: ignore[attr-defined]
            coroutine = task.get_coro()
            if coroutine is not None:
                # As if the task ran: without a running task, asyncio.timeout() and the like raise errors that live
                # code never gets, and clean-up might retry for ever.
                asyncio.tasks._enter_task(self, task)
                try:
                    end_coroutine(coroutine, self._report)
                finally:
                    asyncio.tasks._leave_task(self, task)
        self.close_generators()

    def refuse(self, message: str) -> None:
        """Raise RuntimeError with the message, unless the code has swallowed that too many times."""
        self._refusals += 1
        if self._refusals <= REFUSALS:
            raise RuntimeError(message)

    def time(self) -> float:
        """Seconds since the epoch, as of the event being applied."""
        return self._now

    def call_soon(
        self, callback: Callable[[Unpack[Ts]], object], *args: *Ts, context: contextvars.Context | None = None
    ) -> asyncio.Handle:
        """Run the callback in this drain, after those that are ready."""
        handle = DurableHandle(callback, args, self, context)
        if not self.dead:
            self._ready.append(handle)
        return handle

    def call_later(
        self,
        delay: float,
        callback: Callable[[Unpack[Ts]], object],
        *args: *Ts,
        context: contextvars.Context | None = None,
    ) -> asyncio.TimerHandle:
        """Make a durable timer ``delay`` seconds from the loop's time."""
        return self.call_at(self._now + delay, callback, *args, context=context)

    def call_at(
        self,
        when: float,
        callback: Callable[[Unpack[Ts]], object],
        *args: *Ts,
        context: contextvars.Context | None = None,
    ) -> asyncio.TimerHandle:
        """Make a durable timer for a moment on the loop's clock."""
        handle = DurableTimer(when, callback, args, self, context)
        handle.number = self._timer_number = self._timer_number + 1
        if not self.dead:
            self._timers[handle.number] = handle
            heapq.heappush(self._heap, (when, handle.number))
        return handle

    def _timer_handle_cancelled(self, handle: DurableTimer) -> None:
        """Remove a cancelled timer; called by ``TimerHandle.cancel``."""
        self._timers.pop(handle.number, None)
        if len(self._heap) > 2 * len(self._timers) + _SWEEP:
            self._heap = [(timer.when(), number) for number, timer in self._timers.items()]
            heapq.heapify(self._heap)

    def create_future(self) -> DurableFuture:
        """Return a future that hashes by its number."""
        future = DurableFuture(loop=self)
        future.number = self._number = self._number + 1
        return future

    def create_task(  # type: ignore[override]
        self,
        coro: Coroutine[Any, Any, Any],
        *,
        name: object = None,
        context: contextvars.Context | None = None,
        **kwargs: Any,
    ) -> DurableTask:
        """Return a task that hashes by its number, and whose name begins with the execution's id."""
        refuse_as_completed(coro)
        if self.dead:
            # The task never runs. An error here would leave the other coroutines of a gather unawaited, with a
            # warning for each; the code that waits for this task is ended while it waits.
            coro.close()
        self._number += 1
        number = self._number
        if self._eager and not self.dead:
            kwargs.setdefault("eager_start", True)
        label = f"{self.name}/{number}" if name is None else str(name)
        task = DurableTask(number, coro, loop=self, name=label, context=context, **kwargs)
        if self.dead:
            task._log_destroy_pending = False  # type: ignore[attr-defined]
        elif not task.done():
            self._tasks[number] = task
        return task

    def set_task_factory(self, factory: Any) -> None:
        """Set eager tasks (3.12+) or the default; other factories would not repeat their order."""
        eager = getattr(asyncio, "eager_task_factory", None)
        if factory is not None and factory is not eager:
            raise SideEffectError(
                "setting a task factory", instead="Use asyncio.eager_task_factory, or None for the default"
            )
        self._eager = factory is not None

    def get_task_factory(self) -> Any:
        """Return the task factory, or None for the default."""
        return getattr(asyncio, "eager_task_factory", None) if self._eager else None

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """Report an exception that the code does not handle."""
        error = context.get("exception")
        if not self._quiet and not isinstance(error, ContinueAsNew):
            message = str(context.get("message", "unhandled error in a workflow"))
            self._report(message.removeprefix("Durable"), error)  # classes of this module are asyncio's to the reader

    def report_unawaited(self, coro: Any) -> None:
        """Report a coroutine that was freed before it has begun: its ``await`` was forgotten."""
        if not self.dead:
            self._report(f"{coro.__qualname__!r} was called{origin_of(coro)} and never awaited: it did not run", None)

    def default_exception_handler(self, context: dict[str, Any]) -> None:
        """Report an exception that the code does not handle."""
        self.call_exception_handler(context)

    def get_debug(self) -> bool:
        """Return False: debug mode adds callbacks and frames."""
        return False

    def set_debug(self, enabled: bool) -> None:  # noqa: FBT001 - as asyncio has it
        """Ignore the setting: debug mode adds callbacks and frames."""

    def is_running(self) -> bool:
        """Return whether the loop runs in this thread."""
        return asyncio._get_running_loop() is self

    def is_closed(self) -> bool:
        """Return whether the loop is evicted."""
        return self.dead


@atexit.register
def _evict_all() -> None:
    for loop in list(_alive):
        loop.evict()


class DurableFuture(asyncio.Future[Any]):
    """Future that hashes by its number, which the loop sets at once."""

    number: int

    def __hash__(self) -> int:
        return self.number


class DurableTask(asyncio.Task[Any]):
    """Task that hashes by its number, which is set first: ``Task.__init__`` hashes the task."""

    def __init__(self, number: int, coro: Coroutine[Any, Any, Any], **kwargs: Any) -> None:
        self.number = number
        #: Positions at which cancellations reached the task while its workflow was ending, each with the value of
        #: ``cancelling()`` after it.
        self.interrupted: list[tuple[int, Position]] = []
        super().__init__(coro, **kwargs)

    def __hash__(self) -> int:
        return self.number

    def cancel(self, msg: Any = None) -> bool:
        """Cancel the task, and keep its position if the workflow is ending."""
        ending = getattr(self.get_loop(), "ending", False)
        position = position_of(self) if ending and not self.done() else None
        accepted = super().cancel(msg)
        if accepted and position is not None:
            self.interrupted.append((self.cancelling(), position))
        return accepted

    def swallowed(self) -> bool:
        """Return whether the task waits where a cancellation reached it that was not taken back (``uncancel``)."""
        if self.done():
            return False
        position = position_of(self)
        return any(level <= self.cancelling() and position == place for level, place in self.interrupted)


class DurableHandle(asyncio.Handle):
    """Callback that is ready: the base class without its check of debug mode, which takes time for each callback."""

    __slots__ = ()

    def __init__(
        self,
        callback: Callable[..., object],
        args: tuple[Any, ...],
        loop: asyncio.AbstractEventLoop,
        context: contextvars.Context | None,
    ) -> None:
        self._context = contextvars.copy_context() if context is None else context
        self._loop = loop
        self._callback = callback
        self._args = args
        self._cancelled = False
        self._repr = None
        self._source_traceback = None


class DurableTimer(asyncio.TimerHandle):
    """Timer with a number, by which events refer to it."""

    __slots__ = ("number",)
    number: int
