"""What steps print, collected line by line for the person who watches.

``sys.stdout`` and ``sys.stderr`` of the process are wrapped once. Everything still goes where it went; what is
written inside a step is also collected. Threads that a step starts with ``threading.Thread`` do not inherit the
context and are not collected; ``asyncio.to_thread`` does.
"""

from __future__ import annotations

import contextlib
import sys
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from contextvars import ContextVar
from typing import Any, TextIO

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
def capture(lines: OutputLines) -> Iterator[None]:
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
