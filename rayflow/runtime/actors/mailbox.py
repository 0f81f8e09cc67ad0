"""A thread that does everything that has an order: what arrives from other threads, and what is due."""

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

#: Posted actions that one turn takes, so that what is due is not kept waiting by what arrives.
_MOST = 1_000

#: Seconds that somebody waits for the answer to a question.
_PATIENCE = 60.0


class Mailbox:
    """One thread and its queue.

    Each turn runs what was posted, then what is due, then ``after``. An exception ends the thread: a defect must not
    go on with half of its work done, and whoever asks :meth:`check` learns of it. Only what is ``tolerated`` is logged
    instead: whoever names errors there tries again by itself.

    Args:
        name: the thread's name.
        after: called at the end of each turn.
        next_wake: when ``after`` wants to be called by itself, in seconds since the epoch; None for never.
        clock: what tells the time.
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
        self._later: list[tuple[float, int, Callable[[], None]]] = []
        self._order = 0
        self._stopped = threading.Event()
        self._starting = threading.Lock()
        self._thread: threading.Thread | None = None
        self._failure: BaseException | None = None
        self._outages: dict[str, ThrottledWarning] = {}

    def start(self) -> None:
        """Start the thread, once."""
        with self._starting:
            if self._thread is None:
                thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                thread.start()
                self._thread = thread

    def post(self, action: Callable[[], None]) -> None:
        """Run the action in a turn. From any thread."""
        self._queue.put(action)

    def ask(self, question: Callable[[], T]) -> T:
        """The answer to a question that is put in a turn. From another thread.

        Raises:
            TimeoutError: there is no answer for long.
            Exception: whatever the question raises.
        """
        answer: Future[T] = Future()

        def put() -> None:
            try:
                answer.set_result(question())
            except Exception as error:  # noqa: BLE001 - raised to who asks
                answer.set_exception(error)

        self.post(put)
        return answer.result(_PATIENCE)

    def later(self, seconds: float, action: Callable[[], None]) -> None:
        """Run the action in a turn, after a while. From the thread itself, or before it starts."""
        self._order += 1
        heapq.heappush(self._later, (self.now() + seconds, self._order, action))

    def every(self, seconds: float, action: Callable[[], None]) -> None:
        """Run the action in a turn, again and again. For housekeeping: nothing may depend on its moments."""

        def again() -> None:
            self.later(seconds, again)
            action()

        self.later(seconds, again)

    def now(self) -> float:
        """Seconds since the epoch."""
        return self._clock.now()

    def next_due(self) -> float | None:
        """When something is due by itself, in seconds since the epoch. From the thread itself."""
        wakes = [] if (wake := self._next_wake()) is None else [wake]
        if self._later:
            wakes.append(self._later[0][0])
        return min(wakes, default=None)

    def check(self) -> None:
        """Raise what ended the thread, if something did."""
        if self._failure is not None:
            raise self._failure

    def wait(self) -> None:
        """Block until the thread is stopped."""
        self._stopped.wait()

    def stop(self) -> None:
        """Stop the thread, and wait for its turn to end."""
        self._stopped.set()
        self._queue.put(lambda: None)
        with self._starting:  # whoever stops it may come while somebody else is starting it
            thread = self._thread
        if thread is not None:
            thread.join(timeout=5)

    def _run(self) -> None:
        while not self._stopped.is_set():
            try:
                self._turn()
            except SystemExit as error:  # somebody's code, or the death of an actor that is a part of this process
                self._failure = ClusterError(f"thread {self._name} was told to exit: {error}")
                return
            except Exception as error:
                log.critical("thread %s has ended by a defect", self._name, exc_info=True)
                self._failure = error
                return

    def _turn(self) -> None:
        action = self._first()
        left = _MOST
        while action is not None:
            self._do(action)
            left -= 1
            action = self._ready() if left else None
        self._end_turn()

    def _end_turn(self) -> None:
        now = self.now()
        while self._later and self._later[0][0] <= now:
            self._do(heapq.heappop(self._later)[2])
        self._do(self._after)

    def _do(self, action: Callable[[], None]) -> None:
        try:
            action()
        except self._tolerated as error:
            kind = type(error).__name__
            if kind not in self._outages:
                self._outages[kind] = ThrottledWarning(log, f"thread {self._name} cannot do something")
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
