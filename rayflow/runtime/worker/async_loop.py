"""One asyncio loop on a thread of its own, for a worker's async steps."""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

log = logging.getLogger(__name__)
T = TypeVar("T")


class LoopThread:
    """See the module's docstring. The thread is started when it is first needed.

    Args:
        name: the thread's name.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._open: set[concurrent.futures.Future[Any]] = set()
        self._stopped = False

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the loop, in a copy of the caller's context, and wait for it.

        Raises:
            concurrent.futures.CancelledError: the loop was stopped.
        """
        with self._lock:
            if self._stopped:
                coroutine.close()
                raise concurrent.futures.CancelledError
            future = asyncio.run_coroutine_threadsafe(coroutine, self._started())
            self._open.add(future)
        try:
            return future.result()
        finally:
            with self._lock:
                self._open.discard(future)

    def call(self, callback: Callable[[], object]) -> None:
        """Call something on the loop, soon; nothing happens if the loop is not running."""
        with self._lock:
            if self._loop is not None and not self._stopped:
                self._loop.call_soon_threadsafe(callback)

    def stop(self, grace: float) -> None:
        """Cancel all that runs there, let it clean up, and end the thread.

        Args:
            grace: seconds for the clean-up. What does not end by then is given up.
        """
        with self._lock:
            loop = self._loop
            if loop is None or self._stopped:
                self._stopped = True
                return
            self._stopped = True
            asyncio.run_coroutine_threadsafe(self._shut(loop, grace), loop)

    def _started(self) -> asyncio.AbstractEventLoop:
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            threading.Thread(target=self._serve, args=(self._loop,), name=self._name, daemon=True).start()
        return self._loop

    def _serve(self, loop: asyncio.AbstractEventLoop) -> None:
        while True:
            try:
                loop.run_forever()
            except (SystemExit, KeyboardInterrupt) as error:
                # asyncio lets these end the loop when a task of a step raises them. The step that awaits the task
                # gets the exception too; the other steps of this loop have nothing to do with it.
                log.warning("a task of a step raised %s", type(error).__name__)
            else:
                break
        loop.close()

    async def _shut(self, loop: asyncio.AbstractEventLoop, grace: float) -> None:
        tasks = asyncio.all_tasks(loop) - {asyncio.current_task(loop)}
        for task in tasks:
            task.cancel("the worker stops")
        if tasks:
            await asyncio.wait(tasks, timeout=grace)
        with self._lock:
            left = list(self._open)
        for future in left:
            future.cancel()  # whoever waits for a step that cannot be ended is let go
        loop.stop()
