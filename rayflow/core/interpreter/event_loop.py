"""The deterministic event loop on which workflow code runs.

It is an ``asyncio`` loop without a selector, a clock or threads. ``call_soon`` runs in order; ``time()`` is the
time of the event being applied; ``call_at`` makes a numbered timer that only an event can fire. Everything that
could order things differently in another process is given a number: tasks and futures hash by theirs, so that
sets of them (``TaskGroup``, ``asyncio.wait``) iterate alike everywhere.

The loop owns the order in which callbacks run. Its owner (:mod:`rayflow.core.interpreter.machine`) owns what may be
issued to the outside, and calls :meth:`DurableLoop.drain` from a thread that runs no other loop: inside a running task
of another loop, the tasks of this one would never advance (Python 3.14).
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
from rayflow.core.interpreter.compensation import Generators, end_coroutine
from rayflow.core.interpreter.effects import ContinueAsNew
from rayflow.core.interpreter.sandbox import RestrictedEventLoop, refuse_as_completed
from rayflow.core.interpreter.source_lines import origin_of, place_of
from rayflow.errors import SideEffectError, WorkflowStalled

Ts = TypeVarTuple("Ts")

#: Callbacks that one event may cause. Ordinary fan-outs need about five a task; code that polls with
#: ``sleep(0)`` or swallows its cancellation needs more than any number.
CALLBACK_BUDGET = 2_000_000

#: Exceptions that are raised in finished code which still calls the loop. Code that swallows all of them, in a loop, is
#: made to wait instead, since another exception would keep it busy for ever.
REFUSALS = 100

#: Frames that each coroutine keeps of where it was made: enough to get from a step to the code that called it.
_ORIGINS = 4

_Before = tuple[asyncio.AbstractEventLoop | None, Any, int]

#: Finished tasks and cancelled timers that are kept at least before they are swept out.
_SWEEP = 64

#: Loops that are not evicted. A loop that its owner drops without eviction leaks. Otherwise the garbage collector, or
#: the interpreter's end, would run its clean-up outside every workflow.
_alive: set[DurableLoop] = set()


class DurableLoop(RestrictedEventLoop):
    """See the module's docstring.

    Args:
        execution: result of :func:`rayflow.definition.context.current_execution` on this loop.
        name: prefix of the tasks' names.
        budget: callbacks that one drain may run.
        on_unhandled: receives exceptions of tasks that were never awaited, as text.
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
        #: Why code could not use an object that another execution uses, if it could not.
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
        #: The tasks that are not done, by number. A finished one is not held, so that asyncio reports its failure at
        #: once if nothing else refers to the task.
        self._tasks: dict[int, DurableTask] = {}
        #: Whether the code has to end: its tasks are cancelled, and may only clean up.
        self.ending = False
        #: Cancelled tasks that ran in the newest drain.
        self._cancelled: dict[int, DurableTask] = {}
        self._generators = Generators()
        self._eager = False
        _alive.add(self)

    # --- driven by the machine ---------------------------------------------------------------------------
    def advance(self, now: float) -> None:
        """Set the loop's time, in seconds since the epoch; it never goes back."""
        self._now = max(self._now, now)

    def drain(self) -> None:
        """Run callbacks until none is ready.

        Raises:
            WorkflowStalled: the budget is used up; the loop should be evicted.
            RuntimeError: another loop runs in this thread, where tasks of this one would not advance.
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
                    # It must end the workflow, not the process that drives it. A task has recorded it as its outcome.
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
        """When the earliest live timer is due, and its number; ties go to the lower number."""
        heap = self._heap
        while heap:
            if heap[0][1] in self._timers:
                return heap[0]
            heapq.heappop(heap)
        return None

    def timer_alive(self, number: int) -> bool:
        """Whether that timer still waits."""
        return number in self._timers

    def fire(self, number: int) -> None:
        """Make a live timer's callback ready."""
        self._ready.append(self._timers.pop(number))

    def pending_tasks(self) -> list[DurableTask]:
        """Return the tasks that are not done, oldest first."""
        return [task for task in self._tasks.values() if not task.done()]

    def check_cancelled(self) -> None:
        """Raise WorkflowStalled if a task waits again where its cancellation has reached it."""
        ran, self._cancelled = self._cancelled, {}
        for task in ran.values():
            if task.swallowed():
                raise WorkflowStalled(
                    f"the workflow's code swallowed its cancellation and waits at {place_of(task)} again. Let "
                    "asyncio.CancelledError pass, or raise it again after the clean-up; a bare `except:` and `except "
                    "BaseException:` catch it"
                )

    def next_number(self) -> int:
        """Return a number for an object that may be put into a set."""
        self._number += 1
        return self._number

    # --- how it ends ---------------------------------------------------------------------------------------
    def close_generators(self) -> None:
        """Close async generators that the code left unfinished, oldest first."""
        with self._running():
            self._generators.close_all(self._tell)

    def _tell(self, message: str, error: BaseException | None) -> None:
        if not self.dead:  # in an eviction it is an echo
            self._report(message, error)

    def _report(self, message: str, error: BaseException | None) -> None:
        with sandbox.outside():  # the log may write a file
            self._on_unhandled(message, error)

    def evict(self, *, quiet: bool = False) -> None:
        """Drop everything without letting the code do anything more: clean-up code runs, commands raise.

        Args:
            quiet: do not report exceptions that were not awaited: the code may await them in its replay.
        """
        if self.dead:
            return
        self.dead, self._quiet = True, quiet
        self._ready.clear()
        self._timers.clear()
        self._heap.clear()
        with self._running():
            # In a separate context: values that clean-up code sets must not stay in the context of this thread.
            contextvars.Context().run(self._close_all)
        self._tasks.clear()
        _alive.discard(self)

    def _close_all(self) -> None:
        for task in self.pending_tasks():
            task._log_destroy_pending = False  # type: ignore[attr-defined]
            coroutine = task.get_coro()
            if coroutine is not None:
                # As if the task ran: a clean-up that found none would get errors that no live code gets, for
                # example of asyncio.timeout(), and might retry for ever.
                asyncio.tasks._enter_task(self, task)
                try:
                    end_coroutine(coroutine, self._report)
                finally:
                    asyncio.tasks._leave_task(self, task)
        self.close_generators()

    def refuse(self, message: str) -> None:
        """Raise, unless the code has evidently swallowed the earlier exceptions (see :data:`REFUSALS`).

        Raises:
            RuntimeError: with the message.
        """
        self._refusals += 1
        if self._refusals <= REFUSALS:
            raise RuntimeError(message)

    # --- what asyncio asks of a loop ---------------------------------------------------------------------
    def time(self) -> float:
        """Seconds since the epoch, as of the event being applied."""
        return self._now

    def call_soon(
        self, callback: Callable[[Unpack[Ts]], object], *args: *Ts, context: contextvars.Context | None = None
    ) -> asyncio.Handle:
        """Run the callback in this drain, after those that are ready already."""
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
        """Remove the timer; TimerHandle.cancel calls this method."""
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
        """Return a task that hashes by its number and has a name of this execution."""
        refuse_as_completed(coro)
        if self.dead:
            # It never runs. An error here would leave the other coroutines of a gather unawaited, with a warning
            # for each; tasks that wait for this one are ended while waiting.
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
        """Only eager tasks (3.12+) and the default can be repeated on replay."""
        eager = getattr(asyncio, "eager_task_factory", None)
        if factory is not None and factory is not eager:
            raise SideEffectError("setting a task factory of one's own")
        self._eager = factory is not None

    def get_task_factory(self) -> Any:
        """Return the factory that was set, or None."""
        return getattr(asyncio, "eager_task_factory", None) if self._eager else None

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """Report an exception that was never awaited."""
        error = context.get("exception")
        if not self._quiet and not isinstance(error, ContinueAsNew):
            message = str(context.get("message", "unhandled error in a workflow"))
            self._report(message.removeprefix("Durable"), error)  # classes of this module are asyncio's to the reader

    def report_unawaited(self, coro: Any) -> None:
        """Report a coroutine that was freed before it has begun: its ``await`` was forgotten."""
        if not self.dead:
            self._report(f"{coro.__qualname__!r} was called{origin_of(coro)} and never awaited: it did not run", None)

    def default_exception_handler(self, context: dict[str, Any]) -> None:
        """Do the same as :meth:`call_exception_handler`."""
        self.call_exception_handler(context)

    def get_debug(self) -> bool:
        """Return False always: debug mode adds callbacks and frames."""
        return False

    def set_debug(self, enabled: bool) -> None:  # noqa: FBT001 - as asyncio has it
        """Ignore the setting, for the same reason."""

    def is_running(self) -> bool:
        """Whether the loop runs in this thread."""
        return asyncio._get_running_loop() is self

    def is_closed(self) -> bool:
        """Whether the execution was evicted."""
        return self.dead


@atexit.register
def _evict_all() -> None:
    for loop in list(_alive):
        loop.evict()


class DurableFuture(asyncio.Future[Any]):
    """A future that hashes by its number, which its loop sets as soon as it is made."""

    number: int

    def __hash__(self) -> int:
        return self.number


class DurableTask(asyncio.Task[Any]):
    """A task that hashes by its number. The number is set first: Task.__init__ already hashes it."""

    def __init__(self, number: int, coro: Coroutine[Any, Any, Any], **kwargs: Any) -> None:
        self.number = number
        #: Where cancellations reached it while its workflow was ending, each with the number that it was.
        self.interrupted: list[tuple[int, Position]] = []
        super().__init__(coro, **kwargs)

    def __hash__(self) -> int:
        return self.number

    def cancel(self, msg: Any = None) -> bool:
        """As asyncio's; while the workflow is ending, the place is kept."""
        ending = getattr(self.get_loop(), "ending", False)
        position = position_of(self) if ending and not self.done() else None
        accepted = super().cancel(msg)
        if accepted and position is not None:
            self.interrupted.append((self.cancelling(), position))
        return accepted

    def swallowed(self) -> bool:
        """Whether it waits where a cancellation reached it. One that was taken back (uncancel) does not count."""
        if self.done():
            return False
        position = position_of(self)
        return any(level <= self.cancelling() and position == place for level, place in self.interrupted)


class DurableHandle(asyncio.Handle):
    """A callback that is ready. The same as its base without a question about debug mode, asked 40,000 times."""

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
    """A timer with a number, under which its loop finds it again."""

    __slots__ = ("number",)
    number: int
