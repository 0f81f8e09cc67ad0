"""Event loop on one thread, with a clock that the loop moves.

The loop owns the order of actions and the time. It runs only on a read or a wait: then all actions run that can run at
the current time, in order, while the clock stands still. A wait moves the clock to the next timer.

Real steps run on separate threads. A step that ends within the *patience* (one second of real time by default) takes no
virtual time, so that a slow machine changes nothing. While a step runs longer, the clock keeps pace with real time, in
jumps from one timer to the next.
"""

from __future__ import annotations

import math
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from typing import Protocol, TypeVar

from rayflow.core.pool.slots import Key
from rayflow.definition.api import step_context
from rayflow.errors import ClusterError
from rayflow.runtime.actors.clock import SystemClock

T = TypeVar("T")

#: Seconds of one wait of the thread, which is then repeated.
_LONGEST_WAIT = 3600.0

#: A timer at this time or later counts as never due: seconds since the epoch, in the year 2603.
NEVER = 2e10


class Part(Protocol):
    """Component with work in the loop."""

    def work(self) -> bool:
        """Run one action that can run at the current time; return whether there was one."""

    def next_due(self) -> float | None:
        """Return when the next action is due, in seconds since the epoch, after the current time; None for never."""

    def moved(self) -> None:
        """Note that the clock has moved."""


class RealSteps(Protocol):
    """Real steps that run on other threads."""

    def began(self) -> Sequence[float]:
        """Return when each step started, as of ``time.monotonic()``."""

    def suspend(self, key: Key) -> None:
        """Stop waiting for a step that itself waits for something in this test."""

    def resume(self, key: Key) -> None:
        """Wait for a suspended step again."""


class VirtualClock(SystemClock):
    """Clock that stands still until the loop moves it."""

    def __init__(self, loop: VirtualTimeLoop, now: float) -> None:
        self._loop = loop
        self._began = self._now = now

    def now(self) -> float:
        """Return seconds since the epoch, as executions see them."""
        return self._now

    def monotonic(self) -> float:
        """Return seconds since the start of the test."""
        return self._now - self._began

    def sleep(self, seconds: float) -> None:
        """Let virtual time pass; in a step, which the clock waits for, sleep in real time."""
        if in_step():
            time.sleep(seconds)
        else:
            self._loop.ask(lambda: self._loop.advance(self.now() + seconds))

    def move(self, moment: float) -> None:
        """Move forward to a time, on the thread only."""
        self._now = max(self._now, moment)


class VirtualTimeLoop:
    """Event loop on one thread, with virtual time.

    Args:
        now: the initial time, in seconds since the epoch.
        patience: seconds of real time that a real step may run without taking virtual time, and that a read waits
            for a step.

    Attributes:
        clock: the clock.
        steps: the running real steps; None before the coordinator exists.
    """

    def __init__(self, now: float, patience: float) -> None:
        self.clock = VirtualClock(self, now)
        self.patience = patience
        self.steps: RealSteps | None = None
        self._parts: list[Part] = []
        self._sent: deque[Callable[[], None]] = deque()
        self._inbox: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._closed = False
        self._last: Callable[[], None] = lambda: None
        self._failure: Exception | None = None
        self._moved_at = 0.0
        self._done = 0
        self._thread = threading.Thread(target=self._serve, name="virtual-time", daemon=True)
        self._thread.start()

    @property
    def here(self) -> bool:
        """Whether the caller runs on the thread of the loop."""
        return threading.current_thread() is self._thread

    def post(self, action: Callable[[], None]) -> None:
        """Run an action on the thread later; it must not raise."""
        self._inbox.put(action)

    def ask(self, question: Callable[[], T]) -> T:
        """Run a function on the thread and return its result; immediately if the caller is on the thread.

        Raises:
            ClusterError: if the loop is closed.
            Exception: whatever the function raises.
        """
        return question() if self.here else self.later(question).result()

    def later(self, question: Callable[[], T], answer: Future[T] | None = None) -> Future[T]:
        """Run a function on the thread, and return the future of its result, which the caller may cancel.

        Args:
            question: the function.
            answer: the future to use; None for a new one.
        """
        answer = Future() if answer is None else answer

        def put() -> None:
            try:
                found = question()
            except BaseException as error:  # noqa: BLE001 - raised to the caller
                with suppress(InvalidStateError):
                    answer.set_exception(error)
            else:
                with suppress(InvalidStateError):
                    answer.set_result(found)

        if self._closed and not self.here:
            raise ClusterError("this engine is closed; open another one")
        self._inbox.put(put)
        return answer

    def wake(self) -> None:
        """Let the loop notice that a wait was cancelled."""
        self.post(lambda: None)

    def close(self, last: Callable[[], None] = lambda: None) -> None:
        """End the thread after a last action; pending waits raise ClusterError."""
        self._last = last
        self._closed = True
        self.wake()
        self._thread.join(timeout=5)

    def add(self, part: Part) -> None:
        """Add a part; parts that were added first run first."""
        self._parts.append(part)

    @property
    def done(self) -> int:
        """Number of actions that have run."""
        return self._done

    def settle(self, patience: float = math.inf, *, cancelled: Callable[[], bool] = lambda: False) -> None:
        """Run everything that can run at the current time.

        Args:
            patience: seconds of real time to wait for each real step.
            cancelled: whether the caller has stopped waiting.

        Raises:
            ClusterError: if the engine is closed or has failed.
            Exception: for a defect.
        """
        while not cancelled() and self._work(patience):
            pass

    def next_due(self) -> float | None:
        """Return when the next timer is due, in seconds since the epoch; None for never."""
        now = self.clock.now()
        dues = [due for part in self._parts if (due := part.next_due()) is not None and now < due < NEVER]
        return min(dues, default=None)

    @property
    def is_idle(self) -> bool:
        """Whether no real step is running and no timer is due, so that nothing more will happen."""
        return not self._began() and self.next_due() is None

    @property
    def waiting(self) -> int:
        """Number of sent messages that have not run."""
        return len(self._sent)

    def skip(self) -> float | None:
        """Move the clock to the next timer, and return its time; None without one."""
        due = self.next_due()
        if due is not None:
            self._move(due)
        return due

    def wait_for_step(self) -> bool:
        """Wait until a real step ends or a timer is due; return whether a step is running."""
        self._check()
        return self._wait(math.inf)

    def advance(self, moment: float) -> None:
        """Move the clock to a time, and run everything that is due on the way."""
        self.settle(self.patience)
        while (due := self.next_due()) is not None and due <= moment:
            self._move(due)
            self.settle(self.patience)
        self._move(moment)
        self.settle(self.patience)

    def _serve(self) -> None:
        while not self._closed:
            self._inbox.get()()
            self._done += 1
        while (left := self._posted()) is not None:
            left()  # its caller waits for the result
        self._last()

    def _check(self) -> None:
        if self._closed:
            raise ClusterError("the engine was closed during this wait")
        if self._failure is not None:
            raise ClusterError(
                f"this engine failed because of a defect, see the cause of this error: {self._failure}"
            ) from (self._failure)

    def _work(self, patience: float) -> bool:
        self._check()
        try:
            if (action := self._posted()) is not None:
                action()
            elif self._sent:
                self._sent.popleft()()
            elif not any(part.work() for part in self._parts):
                return self._wait(patience)
        except Exception as error:
            self._failure = error
            raise
        self._done += 1
        return True

    def _began(self) -> Sequence[float]:
        return () if self.steps is None else self.steps.began()

    def _posted(self) -> Callable[[], None] | None:
        with suppress(queue.Empty):
            return self._inbox.get_nowait()
        return None

    def _wait(self, patience: float) -> bool:
        """Wait for real steps while the clock keeps pace; return whether there was a step to wait for."""
        began, real = self._began(), time.monotonic()
        until = max((begin + patience for begin in began), default=0.0)
        if until <= real:
            return False
        due = self.next_due()
        # The clock keeps pace since its last move, but not with a step younger than the patience.
        since = max(self._moved_at, min(began) + self.patience)
        ahead = math.inf if due is None else max(0.0, due - self.clock.now() + since - real)
        try:
            action = self._inbox.get(timeout=min(ahead, until - real, _LONGEST_WAIT))
        except queue.Empty:
            if due is not None and time.monotonic() - real >= ahead:
                self._move(due)
            return True
        action()
        self._done += 1
        return True

    def _move(self, moment: float) -> None:
        self.clock.move(moment)
        self._moved_at = time.monotonic()
        for part in self._parts:
            part.moved()


def in_step() -> Key | None:
    """Return the attempt whose code is the caller; None if the caller is not a step."""
    try:
        context = step_context()
    except RuntimeError:
        return None
    return context.execution_id, context.seq, context.attempt
