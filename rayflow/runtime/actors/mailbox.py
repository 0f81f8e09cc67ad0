"""Mailbox: one thread that runs all actions of its owner, in order.

Other threads submit actions; the mailbox runs them one after another, together with timers and delayed actions. So the
owner needs no locks.
"""

from __future__ import annotations

import heapq
import logging
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

from rayflow.errors import ClusterError
from rayflow.runtime.actors.clock import REAL, SystemClock
from rayflow.runtime.logs import ThrottledWarning

T = TypeVar("T")
log = logging.getLogger(__name__)

#: Submitted actions per turn: delayed actions must not wait for an endless stream of submitted ones.
_ACTIONS_PER_TURN = 1_000

#: Seconds that `call` waits for its result.
_CALL_TIMEOUT = 60.0


class Mailbox:
    """One thread and its queue of actions.

    Each turn runs the submitted actions, then the delayed ones that are due, then ``after``. An exception ends the
    thread, because a defect must not continue with half of its work done; :meth:`check` raises it. The errors in
    ``tolerated`` are logged instead: the actions that raise them are repeated by their owner.

    Args:
        name: the thread's name.
        after: called at the end of each turn.
        next_wake: returns when ``after`` has work without a message, in seconds since the epoch; None for never.
        clock: the clock for delays.
        tolerated: errors that do not end the thread.
    """

    def __init__(
        self,
        name: str,
        after: Callable[[], None],
        next_wake: Callable[[], float | None],
        *,
        clock: SystemClock = REAL,
        tolerated: tuple[type[Exception], ...] = (),
    ) -> None:
        self._name = name
        self._after = after
        self._next_wake = next_wake
        self._clock = clock
        self._tolerated = tolerated
        self._queue: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._delayed: list[tuple[float, int, Callable[[], None]]] = []
        self._order = 0
        self._stopped = threading.Event()
        self._starting = threading.Lock()
        self._thread: threading.Thread | None = None
        self._failure: BaseException | None = None
        self._outages: dict[str, ThrottledWarning] = {}

    def start(self) -> None:
        """Start the thread. Further calls have no effect."""
        with self._starting:
            if self._thread is None:
                thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                thread.start()
                self._thread = thread

    def submit(self, action: Callable[[], None]) -> None:
        """Run the action in a turn. Any thread may call this."""
        self._queue.put(action)

    def call(self, question: Callable[[], T]) -> T:
        """Run the function in a turn and return its result. Only other threads may call this.

        Raises:
            TimeoutError: if the function returns no result within a minute.
            Exception: whatever the function raises.
        """
        answer: Future[T] = Future()

        def run() -> None:
            try:
                answer.set_result(question())
            except Exception as error:  # noqa: BLE001 - raised in the caller's thread
                answer.set_exception(error)

        self.submit(run)
        return answer.result(_CALL_TIMEOUT)

    def submit_later(self, seconds: float, action: Callable[[], None]) -> None:
        """Run the action in a turn after a delay. Only the mailbox's thread may call this, or any before the start."""
        self._order += 1
        heapq.heappush(self._delayed, (self.now() + seconds, self._order, action))

    def submit_every(self, seconds: float, action: Callable[[], None]) -> None:
        """Run the action periodically. For housekeeping only: nothing may depend on the exact moments."""

        def again() -> None:
            self.submit_later(seconds, again)
            action()

        self.submit_later(seconds, again)

    def retry(self, action: Callable[[Callable[[], None]], None], first: float, most: float | None = None) -> None:
        """Run ``action(again)`` now; each call of ``again``, on the mailbox's thread, repeats it after a pause.

        Args:
            action: the work; it calls ``again`` when it has failed and has to be repeated.
            first: seconds of the first pause. Each further pause is twice as long.
            most: seconds of the longest pause; None for pauses of equal length.
        """
        limit = first if most is None else most

        def attempt(pause: float) -> None:
            action(lambda: self.submit_later(pause, lambda: attempt(min(2 * pause, limit))))

        attempt(first)

    def now(self) -> float:
        """Return the current time, in seconds since the epoch."""
        return self._clock.now()

    def next_due(self) -> float | None:
        """Return when the next turn is due without a message. Only the mailbox's thread may call this."""
        wakes = [] if (wake := self._next_wake()) is None else [wake]
        if self._delayed:
            wakes.append(self._delayed[0][0])
        return min(wakes, default=None)

    def check(self) -> None:
        """Raise the exception that ended the thread, if there is one."""
        if self._failure is not None:
            raise self._failure

    def wait(self) -> None:
        """Block until the mailbox is stopped."""
        self._stopped.wait()

    def stop(self) -> None:
        """Stop the thread and wait for the end of its turn."""
        self._stopped.set()
        self._queue.put(lambda: None)
        with self._starting:  # another thread may be starting it right now
            thread = self._thread
        if thread is not None:
            thread.join(timeout=5)

    def _run(self) -> None:
        while not self._stopped.is_set():
            try:
                self._turn()
            except SystemExit as error:  # raised by user code, or because the actor was killed inside this process
                self._failure = ClusterError(f"thread {self._name!r} was told to exit: {error}")
                return
            except Exception as error:
                log.critical("thread %s ended because of a defect", self._name, exc_info=True)
                self._failure = error
                return

    def _turn(self) -> None:
        action = self._first()
        left = _ACTIONS_PER_TURN
        while action is not None:
            self._do(action)
            left -= 1
            action = self._ready() if left else None
        self._end_turn()

    def _end_turn(self) -> None:
        now = self.now()
        while self._delayed and self._delayed[0][0] <= now:
            self._do(heapq.heappop(self._delayed)[2])
        self._do(self._after)

    def _do(self, action: Callable[[], None]) -> None:
        try:
            action()
        except self._tolerated as error:
            kind = type(error).__name__
            if kind not in self._outages:
                self._outages[kind] = ThrottledWarning(log, f"an action of thread {self._name} failed")
            self._outages[kind].failed(error)

    def _first(self) -> Callable[[], None] | None:
        due = self.next_due()
        timeout = None if due is None else max(0.0, due - self.now())
        try:
            return self._queue.get(timeout=timeout)
        except queue.Empty:
            return None

    def _ready(self) -> Callable[[], None] | None:
        try:
            return self._queue.get_nowait()
        except queue.Empty:
            return None
