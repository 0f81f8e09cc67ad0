"""Pool setup in one worker: run once, kept for the steps, ended when the worker stops.

A sync setup runs on the thread that calls :meth:`PoolSetup.begin`; an async one runs on the worker's event loop. One
task there enters and exits an async context manager, as task groups and cancel scopes require.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
import threading
from collections.abc import Callable
from typing import Any

from rayflow.definition.code import Fetch
from rayflow.definition.setup import load_setup
from rayflow.errors import ClusterError
from rayflow.runtime.worker.async_loop import LoopThread
from rayflow.runtime.worker.attempt import failure_from

log = logging.getLogger(__name__)

#: Seconds that the exit of an async context manager may take.
EXIT_TIMEOUT = 10.0


class PoolSetup:
    """The setup of one worker.

    Args:
        text: the setup, as :func:`~rayflow.definition.setup.load_setup` takes it; "" for none.
        allow_pickle: whether the setup may be stored by value.
    """

    def __init__(self, text: str, pool: str, fetch: Fetch, loop: LoopThread, *, allow_pickle: bool = True) -> None:
        self._text = text
        self._allow_pickle = allow_pickle
        self._pool = pool
        self._fetch = fetch
        self._loop = loop
        self._lock = threading.Lock()
        self._begun = False
        self._done = threading.Event()
        self._failed = ""
        self._value: Any = None
        self._exit: Callable[[], None] | None = None
        self._ended = False

    def begin(self) -> None:
        """Run the setup on the first call; on any call, wait until it has run.

        Raises:
            ClusterError: if it failed; the message names the setup, the pool and the exception.
        """
        if not self._text:
            return
        with self._lock:
            first, self._begun = not self._begun, True
        if first:
            try:
                self._run()
            except BaseException as error:  # noqa: BLE001 - also SystemExit: the pool receives it and starts another worker
                failure = failure_from(error)
                self._failed = f"{failure.type}: {failure.message}\n{failure.traceback}"
            self._done.set()
            if self._ended:  # the worker was stopped in the meantime
                self.end()
        self._done.wait()
        if self._failed:
            raise ClusterError(f"the setup {self._text} of pool {self._pool!r} failed: {self._failed}")

    def value(self) -> Any:
        """Return the setup's value for ``step_context().setup``.

        Raises:
            RuntimeError: if no setup has run here.
        """
        if not self._done.is_set() or self._failed:
            raise RuntimeError(
                "rf.step_context().setup: no setup has run in the process of this step. Either the step's pool has no "
                "setup (PoolConfig(setup=...)), or the step does not run on a worker of the pool: a local step runs in "
                "the coordinator, and a step with its own resources or runtime_env in its own process"
            )
        return self._value

    def end(self) -> None:
        """Exit the setup's context manager. A setup that still runs is ended when it has run."""
        self._ended = True
        if not self._done.is_set():
            return
        with self._lock:
            exit_context, self._exit = self._exit, None
        if exit_context is not None:
            try:
                exit_context()
            except BaseException:
                log.exception("the setup %s of pool %r failed to end", self._text, self._pool)

    def _run(self) -> None:
        answer = load_setup(self._text, self._fetch, allow_pickle=self._allow_pickle)()
        # Context managers before awaitables: connections are often both, and entering them awaits them.
        if not _is_manager(answer) and inspect.isawaitable(answer):
            answer = self._on_loop(_awaited(answer))
        if _is_async_manager(answer):
            context = _AsyncContext(answer)
            self._value = self._on_loop(context.enter())
            self._exit = lambda: self._on_loop(context.exit())
        elif _is_manager(answer):
            stack = contextlib.ExitStack()
            self._value = stack.enter_context(answer)
            self._exit = stack.close
        else:
            self._value = answer

    def _on_loop(self, coroutine: Any) -> Any:
        value, error = self._loop.run(coroutine)
        if error is not None:
            raise error
        return value


class _AsyncContext:
    """One task on the event loop that enters an async context manager, waits, and exits it."""

    def __init__(self, manager: Any) -> None:
        self._manager = manager
        self._exiting = asyncio.Event()
        self._entered = asyncio.Event()
        self._value: Any = None
        self._error: BaseException | None = None
        self._task: asyncio.Task[None] | None = None

    # Errors are returned, not raised: with asyncio, SystemExit would end the whole loop.
    async def enter(self) -> tuple[Any, BaseException | None]:
        self._task = asyncio.create_task(self._hold_open())
        await self._entered.wait()
        return self._value, self._error

    async def exit(self) -> tuple[Any, BaseException | None]:
        assert self._task is not None
        self._exiting.set()
        done, _ = await asyncio.wait({self._task}, timeout=EXIT_TIMEOUT)
        return None, self._error if done else TimeoutError(f"the exit takes longer than {EXIT_TIMEOUT:g} s")

    async def _hold_open(self) -> None:
        try:
            async with self._manager as self._value:
                self._entered.set()
                await self._exiting.wait()
        except BaseException as error:  # noqa: BLE001 - see above
            self._error = error
        self._entered.set()


async def _awaited(answer: Any) -> tuple[Any, BaseException | None]:
    try:
        return await answer, None
    except BaseException as error:  # noqa: BLE001 - see _AsyncContext
        return None, error


def _is_async_manager(value: object) -> bool:
    return hasattr(type(value), "__aenter__") and hasattr(type(value), "__aexit__")


def _is_manager(value: object) -> bool:
    return _is_async_manager(value) or (hasattr(type(value), "__enter__") and hasattr(type(value), "__exit__"))
