"""The deterministic event loop on which workflow code runs.

It is an ``asyncio`` loop without a selector, a clock or threads. ``call_soon`` runs in order; ``time()`` is the
time of the event being applied; ``call_at`` makes a numbered timer that only an event can fire. Everything that
could order things differently in another process is given a number: tasks and futures hash by theirs, so that
sets of them (``TaskGroup``, ``asyncio.wait``) iterate alike everywhere.

The loop owns the order in which callbacks run. Its owner (:mod:`rayflow.core.machine`) owns what may be issued
to the outside, and calls :meth:`DurableLoop.drain` from a thread that runs no other loop: inside a running task
of another loop, the tasks of this one would never advance (Python 3.14).
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import heapq
import sys
from asyncio import events
from collections import deque
from collections.abc import Callable, Coroutine, Generator
from types import AsyncGeneratorType
from typing import Any, NoReturn, TypeVarTuple, Unpack

from rayflow.core import guard
from rayflow.errors import WorkflowSideEffect

Ts = TypeVarTuple("Ts")

#: Callbacks that one event may cause. Ordinary fan-outs need about five a task; code that polls with
#: ``sleep(0)`` or swallows its cancellation needs more than any number.
CALLBACK_BUDGET = 2_000_000


class NeverSettles(Exception):
    """One event caused more callbacks than the budget allows: the code polls, or refuses to be cancelled."""

    def __init__(self, budget: int) -> None:
        super().__init__(
            f"the workflow's code was still busy after {budget:,} callbacks for one event: it polls (for example with "
            "`await asyncio.sleep(0)`) or swallows its cancellation. Wait for a step, a timer or a signal instead"
        )


class DurableFuture(asyncio.Future[Any]):
    """A future that hashes by its number."""

    def __init__(self, number: int, *, loop: asyncio.AbstractEventLoop) -> None:
        self._number = number
        super().__init__(loop=loop)

    def __hash__(self) -> int:
        return self._number


class DurableTask(asyncio.Task[Any]):
    """A task that hashes by its number. The number is set first: Task.__init__ already hashes it."""

    def __init__(self, number: int, coro: Coroutine[Any, Any, Any], **kwargs: Any) -> None:
        self._number = number
        super().__init__(coro, **kwargs)

    def __hash__(self) -> int:
        return self._number


class DurableLoop(asyncio.AbstractEventLoop):
    """See the module's docstring.

    Args:
        execution: what :func:`rayflow.definition.context.current_execution` answers on this loop.
        name: prefix of the tasks' names.
        budget: callbacks that one drain may run.
        on_unhandled: told of exceptions that nobody awaited, as text.
    """

    def __init__(
        self,
        *,
        execution: object,
        name: str,
        budget: int = CALLBACK_BUDGET,
        on_unhandled: Callable[[str, BaseException | None], None],
    ) -> None:
        guard.install()
        self.execution = execution
        self.guarded = True
        self.dead = False
        self._name = name
        self._budget = budget
        self._on_unhandled = on_unhandled
        self._now = 0.0
        self._number = 0
        self._timer_number = 0
        self._ready: deque[asyncio.Handle] = deque()
        self._heap: list[tuple[float, int]] = []
        self._timers: dict[int, asyncio.TimerHandle] = {}
        self._tasks: dict[int, DurableTask] = {}
        self._generators: dict[int, AsyncGeneratorType[Any, Any]] = {}
        self._eager = False

    # --- driven by the machine ---------------------------------------------------------------------------
    def advance(self, now: float) -> None:
        """Set the loop's time, in seconds since the epoch; it never goes back."""
        self._now = max(self._now, now)

    def drain(self) -> None:
        """Run callbacks until none is ready.

        Raises:
            NeverSettles: the budget is used up; the loop should be evicted.
        """
        budget = self._budget
        with self._running():
            while self._ready:
                handle = self._ready.popleft()
                if handle.cancelled():
                    continue
                budget -= 1
                if budget < 0:
                    raise NeverSettles(self._budget)
                # sys.exit() in a task is recorded as its outcome and raised again here: it must end the
                # workflow, not the process that drives it.
                with contextlib.suppress(SystemExit, KeyboardInterrupt):
                    handle._run()

    @contextlib.contextmanager
    def _running(self) -> Generator[None]:
        hooks = sys.get_asyncgen_hooks()
        sys.set_asyncgen_hooks(firstiter=self._hold_generator, finalizer=self._finalize_generator)
        events._set_running_loop(self)
        try:
            yield
        finally:
            events._set_running_loop(None)
            sys.set_asyncgen_hooks(*hooks)

    def next_timer(self) -> tuple[float, int] | None:
        """When the earliest live timer is due, and its number; ties go to the lower number."""
        while self._heap:
            when, number = self._heap[0]
            handle = self._timers.get(number)
            if handle is not None and not handle.cancelled():
                return when, number
            heapq.heappop(self._heap)
            self._timers.pop(number, None)
        return None

    def timer_alive(self, number: int) -> bool:
        """Whether that timer still waits."""
        handle = self._timers.get(number)
        return handle is not None and not handle.cancelled()

    def fire(self, number: int) -> None:
        """Make a live timer's callback ready."""
        self._ready.append(self._timers.pop(number))

    def pending_tasks(self) -> list[DurableTask]:
        """The tasks that are not done, oldest first."""
        return list(self._tasks.values())

    def close_generators(self) -> None:
        """Close async generators that the code left unfinished, oldest first."""
        with self._running():
            for generator in list(self._generators.values()):
                self._close_generator(generator)
            self._generators.clear()

    def _close_generator(self, generator: AsyncGeneratorType[Any, Any]) -> None:
        closing = generator.aclose()
        try:
            closing.send(None)
        except StopIteration:
            return
        except BaseException as error:  # noqa: BLE001 - told, and the other generators still have to be closed
            self._on_unhandled(
                f"an async generator ({generator.__qualname__}) failed while it was closed at the workflow's end", error
            )
            return
        self._on_unhandled(
            f"the async generator {generator.__qualname__} waits for something in its clean-up after the workflow "
            "left it; use `async with contextlib.aclosing(...)` so that it is closed while the workflow runs",
            None,
        )

    def evict(self) -> None:
        """Drop everything without letting the code do anything more: clean-up code runs, commands raise."""
        self.dead = True
        self._ready.clear()
        self._timers.clear()
        self._heap.clear()
        with self._running():
            for task in self.pending_tasks():
                task._log_destroy_pending = False  # type: ignore[attr-defined]
                coroutine = task.get_coro()
                if coroutine is not None:
                    self._close_quietly(coroutine)
            for generator in self._generators.values():
                self._close_generator(generator)
        self._tasks.clear()
        self._generators.clear()

    def _close_quietly(self, coroutine: Any) -> None:
        # Whatever clean-up code raises here is the echo of an eviction, not an outcome: the journal decides
        # what happens to the execution, and nothing was issued (commands raise on a dead loop).
        with contextlib.suppress(BaseException):
            coroutine.close()

    def _hold_generator(self, generator: AsyncGeneratorType[Any, Any]) -> None:
        # Held, so that the garbage collector never decides when its clean-up runs.
        for number in [n for n, g in self._generators.items() if g.ag_frame is None][:8]:
            del self._generators[number]
        self._number += 1
        self._generators[self._number] = generator

    def _finalize_generator(self, generator: AsyncGeneratorType[Any, Any]) -> None:
        self._close_generator(generator)

    # --- what asyncio asks of a loop ---------------------------------------------------------------------
    def time(self) -> float:
        """Seconds since the epoch, as of the event being applied."""
        return self._now

    def call_soon(
        self, callback: Callable[[Unpack[Ts]], object], *args: Unpack[Ts], context: contextvars.Context | None = None
    ) -> asyncio.Handle:
        """Run the callback in this drain, after those that are ready already."""
        handle = asyncio.Handle(callback, args, self, context)
        if not self.dead:
            self._ready.append(handle)
        return handle

    def call_later(
        self, delay: float, callback: Callable[[Unpack[Ts]], object], *args: Unpack[Ts], context: contextvars.Context | None = None
    ) -> asyncio.TimerHandle:
        """Make a durable timer ``delay`` seconds from the loop's time."""
        return self.call_at(self._now + delay, callback, *args, context=context)

    def call_at(
        self, when: float, callback: Callable[[Unpack[Ts]], object], *args: Unpack[Ts], context: contextvars.Context | None = None
    ) -> asyncio.TimerHandle:
        """Make a durable timer for a moment on the loop's clock."""
        handle = asyncio.TimerHandle(when, callback, args, self, context)
        if not self.dead:
            self._timer_number += 1
            self._timers[self._timer_number] = handle
            heapq.heappush(self._heap, (when, self._timer_number))
        return handle

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """Called by TimerHandle.cancel; cancelled ones are dropped where the heap is read."""

    def create_future(self) -> DurableFuture:
        """A future that hashes by its number."""
        self._number += 1
        return DurableFuture(self._number, loop=self)

    def create_task(  # type: ignore[override]
        self,
        coro: Coroutine[Any, Any, Any],
        *,
        name: object = None,
        context: contextvars.Context | None = None,
        **kwargs: Any,
    ) -> DurableTask:
        """A task that hashes by its number and has a name of this execution's own."""
        if self.dead:
            coro.close()
            raise RuntimeError("this execution was set aside while its code ran; nothing more can be started in it")
        _refuse_as_completed()
        self._number += 1
        number = self._number
        if self._eager:
            kwargs.setdefault("eager_start", True)
        label = f"{self._name}/{number}" if name is None else str(name)
        task = DurableTask(number, coro, loop=self, name=label, context=context, **kwargs)
        if not task.done():
            self._tasks[number] = task
            task.add_done_callback(self._forget_task)
        return task

    def _forget_task(self, task: asyncio.Task[Any]) -> None:
        self._tasks.pop(hash(task), None)

    def set_task_factory(self, factory: Any) -> None:
        """Only eager tasks (3.12+) and the default can be repeated on replay."""
        eager = getattr(asyncio, "eager_task_factory", None)
        if factory is not None and factory is not eager:
            raise WorkflowSideEffect("setting a task factory of one's own")
        self._eager = factory is not None

    def get_task_factory(self) -> Any:
        """The factory that was set, or None."""
        return getattr(asyncio, "eager_task_factory", None) if self._eager else None

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """Pass on what nobody awaited."""
        self._on_unhandled(str(context.get("message", "unhandled error in a workflow")), context.get("exception"))

    def default_exception_handler(self, context: dict[str, Any]) -> None:
        """The same as :meth:`call_exception_handler`."""
        self.call_exception_handler(context)

    def get_debug(self) -> bool:
        """Always false: debug mode adds callbacks and frames of its own."""
        return False

    def set_debug(self, enabled: bool) -> None:
        """Ignored, for the same reason."""

    def is_running(self) -> bool:
        """Whether the loop runs in this thread."""
        return asyncio._get_running_loop() is self

    def is_closed(self) -> bool:
        """Whether the execution was evicted."""
        return self.dead


def _refuse_as_completed() -> None:
    # as_completed over bare coroutines makes tasks in the order of a set of coroutines, which hash by address.
    frame = sys._getframe(2)
    for _ in range(4):
        if frame is None:
            return
        if frame.f_code.co_qualname in {"as_completed", "_AsCompletedIterator.__init__"}:
            raise WorkflowSideEffect(
                "asyncio.as_completed() over bare coroutines (their order differs from run to run; make tasks first, "
                "`[asyncio.create_task(c) for c in coros]`)"
            )
        frame = frame.f_back  # type: ignore[assignment]


def _refusal(name: str, what: str) -> Callable[..., NoReturn]:
    def refuse(self: DurableLoop, *args: Any, **kwargs: Any) -> NoReturn:
        raise WorkflowSideEffect(what)

    refuse.__name__ = name
    refuse.__doc__ = f"Refused: {what}."
    return refuse


_REFUSED = {
    "running a function in a thread": ("run_in_executor", "call_soon_threadsafe", "set_default_executor"),
    "opening a connection": (
        "create_connection", "create_server", "create_datagram_endpoint", "create_unix_connection",
        "create_unix_server", "connect_accepted_socket", "start_tls", "sendfile", "getaddrinfo", "getnameinfo",
        "sock_recv", "sock_recv_into", "sock_recvfrom", "sock_recvfrom_into", "sock_sendto", "sock_sendall",
        "sock_connect", "sock_accept", "sock_sendfile", "connect_read_pipe", "connect_write_pipe",
        "add_reader", "remove_reader", "add_writer", "remove_writer",
    ),
    "starting a process": ("subprocess_shell", "subprocess_exec"),
    "handling a signal of the operating system": ("add_signal_handler", "remove_signal_handler"),
    "running or closing the loop": (
        "run_forever", "run_until_complete", "stop", "close", "shutdown_asyncgens", "shutdown_default_executor",
        "set_exception_handler", "get_exception_handler",
    ),
}  # fmt: skip
for _what, _names in _REFUSED.items():
    for _name in _names:
        setattr(DurableLoop, _name, _refusal(_name, _what))
