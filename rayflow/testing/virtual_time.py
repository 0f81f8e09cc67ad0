"""One thread that does one thing after another, under a clock that is moved by hand.

It owns the order in which things happen, and the time. Nothing is done before somebody wants to know something: then
everything happens that can happen at this moment, in order, and the clock stands still meanwhile. It is moved to the
next due moment when somebody waits, and on demand.

Real steps run on threads of their own. One that ends within a second of real time (the *patience*) has taken no virtual
time at all, so that a slow machine changes nothing. While one takes longer, the clock goes as fast as the real one, but
only in jumps from one due moment to the next.
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

#: Seconds that the thread waits at once; then it waits again.
_LONGEST_WAIT = 3600.0

#: What is due so late is never due, in seconds since the epoch: in the year 2603.
NEVER = 2e10


class Part(Protocol):
    """Something that has work of its own."""

    def work(self) -> bool:
        """Do one thing that can be done at this moment. Answers whether there was one."""

    def next_due(self) -> float | None:
        """When there will be something to do, in seconds since the epoch, after this moment; None for never."""

    def moved(self) -> None:
        """The clock was moved."""


class RealSteps(Protocol):
    """The real steps that are under way, on other threads."""

    def began(self) -> Sequence[float]:
        """When each of them began, as of ``time.monotonic()``."""

    def suspend(self, key: Key) -> None:
        """One of them waits for something else that happens here: it is not to be waited for."""

    def resume(self, key: Key) -> None:
        """It goes on."""


class VirtualClock(SystemClock):
    """A clock that stands still until it is moved.

    Args:
        timeline: what moves it.
        now: what it shows at first, in seconds since the epoch.
    """

    def __init__(self, timeline: VirtualTimeLoop, now: float) -> None:
        self._timeline = timeline
        self._began = self._now = now

    def now(self) -> float:
        """Seconds since the epoch, as executions see them."""
        return self._now

    def monotonic(self) -> float:
        """Seconds since it was made."""
        return self._now - self._began

    def sleep(self, seconds: float) -> None:
        """Let so much virtual time pass; in a step, which the clock waits for, real time."""
        if in_step():
            time.sleep(seconds)
        else:
            self._timeline.ask(lambda: self._timeline.advance(self.now() + seconds))

    def move(self, moment: float) -> None:
        """Show that moment, unless it has passed. On the thread only."""
        self._now = max(self._now, moment)


class VirtualTimeLoop:
    """See the module's docstring.

    Args:
        now: what the clock shows at first, in seconds since the epoch.
        patience: seconds of real time that a real step may take without taking virtual time; and for which whoever
            only looks waits for it.

    Attributes:
        clock: the clock.
        steps: the real steps that are under way; None before there can be any.
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
        self._thread = threading.Thread(target=self._serve, name="stage", daemon=True)
        self._thread.start()

    # --- from other threads --------------------------------------------------------------------------------
    @property
    def here(self) -> bool:
        """Whether the caller is on the thread."""
        return threading.current_thread() is self._thread

    def post(self, action: Callable[[], None]) -> None:
        """Have something done on the thread, between two other things. It must not raise."""
        self._inbox.put(action)

    def ask(self, question: Callable[[], T]) -> T:
        """The answer to a question that is put on the thread; at once where that is the caller's own thread.

        Raises:
            ClusterError: it is closed.
            Exception: whatever the question raises.
        """
        return question() if self.here else self.later(question).result()

    def later(self, question: Callable[[], T], answer: Future[T] | None = None) -> Future[T]:
        """The same, without waiting for it. The answer may be cancelled at any time: then nobody wants it any more.

        Args:
            question: the question.
            answer: where the answer is put; None for a new one.
        """
        answer = Future() if answer is None else answer

        def put() -> None:
            try:
                found = question()
            except BaseException as error:  # noqa: BLE001 - raised to who asks
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
        """Somebody does not want any more what the stage may be waiting for."""
        self.post(lambda: None)

    def close(self, last: Callable[[], None] = lambda: None) -> None:
        """End the thread, after a last thing that is done on it. Whoever still waits is told."""
        self._last = last
        self._closed = True
        self.wake()
        self._thread.join(timeout=5)

    # --- what happens, on the thread ------------------------------------------------------------------------
    def add(self, part: Part) -> None:
        """Have a part work. Those that were added first come first."""
        self._parts.append(part)

    @property
    def done(self) -> int:
        """How many things have been done so far."""
        return self._done

    def settle(self, patience: float = math.inf, *, given_up: Callable[[], bool] = lambda: False) -> None:
        """Do everything that can be done at this moment.

        Args:
            patience: seconds of real time that each real step is waited for.
            given_up: whether nobody wants it any more.

        Raises:
            ClusterError: the engine was closed meanwhile, or broke down earlier.
            Exception: a defect.
        """
        while not given_up() and self._work(patience):
            pass

    def next_due(self) -> float | None:
        """When there will be something to do, in seconds since the epoch; None for never."""
        now = self.clock.now()
        dues = [due for part in self._parts if (due := part.next_due()) is not None and now < due < NEVER]
        return min(dues, default=None)

    @property
    def at_rest(self) -> bool:
        """Whether nothing is under way, and nothing is due any more: nothing will happen by itself."""
        return not self._began() and self.next_due() is None

    @property
    def waiting(self) -> int:
        """How many things are sent and not done."""
        return len(self._sent)

    def skip(self) -> float | None:
        """Move the clock to the next due moment, and answer it; None if there is none."""
        due = self.next_due()
        if due is not None:
            self._move(due)
        return due

    def wait_for_step(self) -> bool:
        """Wait until a real step ends, or something is due meanwhile. Answers whether any step is under way."""
        self._check()
        return self._wait(math.inf)

    def advance(self, moment: float) -> None:
        """Move the clock to a moment, by way of all that is due until then. Real steps are waited for with patience."""
        self.settle(self.patience)
        while (due := self.next_due()) is not None and due <= moment:
            self._move(due)
            self.settle(self.patience)
        self._move(moment)
        self.settle(self.patience)

    # --- inside --------------------------------------------------------------------------------------------
    def _serve(self) -> None:
        while not self._closed:
            self._inbox.get()()
            self._done += 1
        while (left := self._posted()) is not None:
            left()  # whoever put it waits for an answer
        self._last()

    def _check(self) -> None:
        if self._closed:
            raise ClusterError("the engine was closed while this waited")
        if self._failure is not None:
            raise ClusterError(f"this engine has broken down by a defect, see its cause: {self._failure}") from (
                self._failure
            )

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
        """Wait for real steps, and let the clock keep pace. Answers whether there was any to wait for."""
        began, real = self._began(), time.monotonic()
        until = max((begin + patience for begin in began), default=0.0)
        if until <= real:
            return False
        due = self.next_due()
        # Since when the clock keeps pace: since it was moved, but not with what has just begun.
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
    """The attempt that the caller is the code of, for which the timeline may be waiting; None if it is not a step's."""
    try:
        context = step_context()
    except RuntimeError:
        return None
    return context.execution_id, context.seq, context.attempt
