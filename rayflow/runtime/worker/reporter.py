"""Brings what steps say while they run to their coordinators: the lines that they print, and their heartbeats.

It owns one thread. Steps never wait for it, so one that beats in an event loop does not hold up the others there.
"""

from __future__ import annotations

import contextlib
import logging
import math
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextvars import ContextVar
from typing import Any, NamedTuple, TextIO

from rayflow.runtime.actors.base import ActorLost, ActorSystem
from rayflow.runtime.worker.attempt import Attempt

log = logging.getLogger(__name__)

#: Seconds after which a step's lines are sent ahead of its outcome, and between two times that they are.
LINES_AFTER = 0.5


class News:
    """See the module's docstring.

    Args:
        system: where coordinators are found.
        attempts: answers the attempts under way.
    """

    def __init__(self, system: ActorSystem, attempts: Callable[[], list[Attempt]]) -> None:
        self._system = system
        self._attempts = attempts
        self._working = threading.Event()
        self._woken = threading.Event()
        self._ended = False

    def start(self, name: str) -> None:
        """Start the thread, of that name."""
        threading.Thread(target=self._serve, name=name, daemon=True).start()

    def work(self) -> None:
        """There are attempts under way."""
        self._working.set()

    def rest(self) -> None:
        """There are none."""
        if not self._ended:
            self._working.clear()

    def wake(self) -> None:
        """A step beats."""
        self._woken.set()

    def stop(self) -> None:
        """End the thread. Not to be called at the same time as :meth:`rest`."""
        self._ended = True
        self._working.set()
        self._woken.set()

    def _serve(self) -> None:
        lines_at = time.monotonic() + LINES_AFTER
        wake_at = lines_at
        while True:
            self._working.wait()
            self._woken.wait(max(0.0, wake_at - time.monotonic()))
            self._woken.clear()
            if self._ended:
                return
            now = time.monotonic()
            attempts = self._attempts()
            for attempt in attempts:
                self._bring_beat(attempt, now)
            if now >= lines_at:
                for attempt in attempts:
                    if now - attempt.since >= LINES_AFTER:
                        self._bring_lines(attempt)
                lines_at = now + LINES_AFTER
            wake_at = min([lines_at, *(attempt.beats.due for attempt in attempts)])

    def _bring_beat(self, attempt: Attempt, now: float) -> None:
        beat = attempt.beats.take(now)
        if beat is not None:
            task = attempt.task
            self._tell(attempt, "beat", (task.execution_id, task.seq, task.attempt), task.epoch, tuple(beat))

    def _bring_lines(self, attempt: Attempt) -> None:
        lines = attempt.lines.take()
        if lines:
            task = attempt.task
            self._tell(attempt, "output", task.execution_id, task.seq, task.step, lines)

    def _tell(self, attempt: Attempt, method: str, *args: Any) -> None:
        task = attempt.task
        try:
            self._system.find(attempt.coordinator).send(method, *args)
        except ActorLost as error:
            log.info("nobody watches step %s of %s any more: %s", task.step, task.execution_id, error)
        except Exception:
            # Whatever it is, the other steps' heartbeats must go on: without them they count as hung.
            log.exception("cannot tell %s of step %s of %s", attempt.coordinator, task.step, task.execution_id)


class Heartbeat(NamedTuple):
    """One heartbeat: the encoded progress, or None if it says nothing of that; and whether the step's code is done."""

    progress: bytes | None
    ran: bool = False


class HeartbeatRecorder:
    """See the module's docstring. Safe to use from several threads.

    Args:
        every: seconds between two beats that are taken, at least.
        encode: writes a progress.
        wake: called when there is something to be taken, now or soon; it must be quick.

    Example:
        >>> beats = Beats(10.0, lambda value: str(value).encode(), lambda: None)
        >>> beats.beat("half")
        >>> beats.take(1.0)
        Beat(progress=b'half')
        >>> beats.beat("most")
        >>> beats.take(2.0), beats.due
        (None, 11.0)
    """

    def __init__(self, every: float, encode: Callable[[Any], bytes], wake: Callable[[], None]) -> None:
        self._every = every
        self._encode = encode
        self._wake = wake
        self._lock = threading.Lock()
        self._held: Heartbeat | None = None
        self._next = -math.inf
        self._ran = False

    def beat(self, progress: Any = None) -> None:
        """The step is alive.

        Args:
            progress: how far it is; None leaves what was said last.

        Raises:
            CodecError: the progress cannot be written.
        """
        # Written at once: the step may change the object, and must see that it cannot be written.
        beat = Heartbeat(None if progress is None else self._encode(progress))
        with self._lock:
            first = self._held is None
            if first or beat.progress is not None:
                self._held = Heartbeat(beat.progress, self._ran)
        if first:
            self._wake()

    def ran(self) -> None:
        """The step's code is done, which is said at once, and with all that follows; its result takes longer."""
        with self._lock:
            if self._ran:
                return
            self._ran = True
            self._held = Heartbeat(None if self._held is None else self._held.progress, ran=True)
            self._next = -math.inf
        self._wake()

    @property
    def due(self) -> float:
        """When there is a beat to take, by the clock of :meth:`take`; infinity if the step said nothing new."""
        return math.inf if self._held is None else self._next

    def take(self, now: float) -> Heartbeat | None:
        """The newest beat, if one may go out.

        Args:
            now: seconds of a clock that never goes back.
        """
        with self._lock:
            if now < self.due:
                return None
            taken, self._held = self._held, None
            self._next = now + self._every
            return taken


#: Lines that one attempt keeps between two times that they are taken, and how long one may be.
LINES = 200
WIDTH = 2_000


class OutputLines:
    r"""The last lines of what was written, complete ones only until the end.

    A carriage return begins the line again, as on a terminal, so that a progress bar is one line.

    Args:
        limit: lines to keep; of more, the last ones.
        width: characters of a line to keep; of more, the first ones.

    Example:
        >>> lines = Lines()
        >>> lines.feed("stdout", "one\ntwo")
        >>> lines.take(), lines.take(end=True)
        (('one',), ('two',))
    """

    def __init__(self, limit: int = LINES, width: int = WIDTH) -> None:
        self._width = width
        self._lock = threading.Lock()
        self._lines: deque[str] = deque(maxlen=limit)
        self._dropped = 0
        self._partial: dict[str, str] = {}

    def feed(self, stream: str, text: str) -> None:
        """Add what was written to a stream."""
        with self._lock:
            *whole, rest = (self._partial.get(stream, "") + text).split("\n")
            for line in whole:
                self._add(line)
            # One character more than fits shows that the line was longer.
            self._partial[stream] = _visible(rest)[: self._width + 1] + ("\r" if rest.endswith("\r") else "")

    def take(self, *, end: bool = False) -> tuple[str, ...]:
        """The lines since the last time; a first line says how many were dropped.

        Args:
            end: nothing follows: the last lines are taken too, complete or not.
        """
        with self._lock:
            if end:
                for rest in self._partial.values():
                    if rest:
                        self._add(rest)
                self._partial.clear()
            dropped = (f"… {self._dropped} earlier lines were dropped",) if self._dropped else ()
            taken = (*dropped, *self._lines)
            self._lines.clear()
            self._dropped = 0
            return taken

    def _add(self, line: str) -> None:
        line = _visible(line)
        self._dropped += len(self._lines) == self._lines.maxlen
        self._lines.append(line if len(line) <= self._width else line[: self._width] + "…")


def _visible(line: str) -> str:
    return line.rstrip("\r").rpartition("\r")[2]


_LINES: ContextVar[OutputLines | None] = ContextVar("rayflow_lines", default=None)


@contextlib.contextmanager
def collecting(lines: OutputLines) -> Iterator[None]:
    """Collect what is written inside this block, in this context and those copied from it."""
    token = _LINES.set(lines)
    try:
        yield
    finally:
        _LINES.reset(token)


class Tee:
    """A text stream that passes everything on, and collects what is written inside a step.

    Args:
        original: the stream behind it; everything but writing is its own.
        name: "stdout" or "stderr".
    """

    def __init__(self, original: TextIO, name: str) -> None:
        self._original = original
        self._name = name

    def write(self, text: str) -> int:
        """Write to the original stream, and collect."""
        lines = _LINES.get()
        if lines is None:
            return self._original.write(text)
        # Somebody may have put a stream of their own around a Tee, and then a Tee around that: collected once.
        token = _LINES.set(None)
        try:
            written = self._original.write(text)
        finally:
            _LINES.reset(token)
        lines.feed(self._name, text)
        return written

    def writelines(self, lines: Iterable[str]) -> None:
        """Write each of them."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        if name == "_original":  # only while it is being copied or unpickled
            raise AttributeError(name)
        return getattr(self._original, name)


def install() -> None:
    """Wrap the process's output streams, unless they are wrapped. It is cheap, and may be called again at any time."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is not None and not isinstance(stream, Tee):
            setattr(sys, name, Tee(stream, name))
