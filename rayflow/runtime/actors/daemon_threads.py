"""Pool of daemon threads: unlike those of an executor, they do not keep the interpreter from exiting."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable


class DaemonThreadPool:
    """Up to ``limit`` daemon threads, each started when it is first needed.

    Args:
        name: prefix of the threads' names.
        limit: jobs that run at the same time.
    """

    def __init__(self, name: str, limit: int) -> None:
        self._name = name
        self._limit = limit
        self._jobs: deque[Callable[[], None]] = deque()
        self._threads: list[threading.Thread] = []
        self._idle = 0
        self._closed = False
        self._change = threading.Condition()

    def submit(self, job: Callable[[], None]) -> bool:
        """Run the job, which must not raise, on one of the threads. Return False if the pool is closed."""
        with self._change:
            if self._closed:
                return False
            if len(self._jobs) >= self._idle and len(self._threads) < self._limit:
                name = f"{self._name}-{len(self._threads)}"
                thread = threading.Thread(target=self._serve, name=name, daemon=True)
                thread.start()  # first: a thread that cannot start must leave neither a job nor a thread to join
                self._threads.append(thread)
                self._jobs.append(job)
            else:
                self._jobs.append(job)
                self._change.notify()
            return True

    def close(self) -> None:
        """Accept no more jobs; the threads end when all submitted jobs are done."""
        with self._change:
            self._closed = True
            self._change.notify_all()

    def join(self, deadline: float) -> list[str]:
        """Wait for the threads until ``deadline`` (monotonic). Return the names of those that still run."""
        me = threading.current_thread()
        others = [thread for thread in self._threads if thread is not me]
        for thread in others:
            thread.join(max(0.0, deadline - time.monotonic()))
        return [thread.name for thread in others if thread.is_alive()]

    def _serve(self) -> None:
        while (job := self._next()) is not None:
            job()

    def _next(self) -> Callable[[], None] | None:
        with self._change:
            self._idle += 1
            self._change.wait_for(lambda: self._jobs or self._closed)
            self._idle -= 1
            return self._jobs.popleft() if self._jobs else None
