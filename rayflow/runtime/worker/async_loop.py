"""Event loop thread: one asyncio loop with its own thread, for the async steps of a worker."""

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
    """An asyncio loop on the thread ``name``, which is started when it is first needed."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._open: set[concurrent.futures.Future[Any]] = set()
        self._stopped = False

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the loop, in a copy of the caller's context, and wait for it.

        Raises:
            concurrent.futures.CancelledError: if the loop was stopped.
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
        """Call a function on the loop soon; do nothing if the loop does not run."""
        with self._lock:
            if self._loop is not None and not self._stopped:
                self._loop.call_soon_threadsafe(callback)

    def stop(self, grace: float) -> None:
        """Cancel all tasks, let them clean up, and end the thread.

        Args:
            grace: seconds for the clean-up. Tasks that do not end by then are abandoned.
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
                # gets the exception too, and the other steps of this loop must continue.
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
            future.cancel()  # its caller must not wait for a step that cannot be stopped
        loop.stop()
