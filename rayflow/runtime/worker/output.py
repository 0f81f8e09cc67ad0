"""Output capture: collects line by line what steps print.

``sys.stdout`` and ``sys.stderr`` of the process are wrapped once. Output still goes to the original stream; what a step
writes is also collected. Threads that a step starts with ``threading.Thread`` do not inherit the context and are not
captured; ``asyncio.to_thread`` does.
"""

from __future__ import annotations

import contextlib
import sys
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from contextvars import ContextVar
from typing import Any, TextIO

#: Lines of one attempt that are kept until they are sent, and characters of one line.
LINES = 200
WIDTH = 2_000


class OutputLines:
    r"""The last lines that an attempt has written; incomplete lines appear only at the end.

    A carriage return begins the line again, as on a terminal, so a progress bar is one line.

    Args:
        limit: number of lines to keep: the last ones.
        width: characters of a line to keep: the first ones.

    Example:
        >>> lines = OutputLines()
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
        """Add text that was written to a stream."""
        with self._lock:
            *whole, rest = (self._partial.get(stream, "") + text).split("\n")
            for line in whole:
                self._add(line)
            # One more character than fits shows that the line was longer.
            self._partial[stream] = _visible(rest)[: self._width + 1] + ("\r" if rest.endswith("\r") else "")

    def take(self, *, end: bool = False) -> tuple[str, ...]:
        """Return the lines since the last call; if lines were dropped, the first one says how many.

        Args:
            end: whether nothing follows, so that incomplete lines are returned too.
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
    """Collect what this context, and those copied from it, write inside of this block."""
    token = _LINES.set(lines)
    try:
        yield
    finally:
        _LINES.reset(token)


class Tee:
    """A text stream that writes to another one, and collects what a step writes.

    Args:
        original: the other stream.
        name: "stdout" or "stderr".
    """

    def __init__(self, original: TextIO, name: str) -> None:
        self._original = original
        self._name = name

    def write(self, text: str) -> int:
        """Write to the original stream, and collect the text."""
        lines = _LINES.get()
        if lines is None:
            return self._original.write(text)
        # User code may wrap a Tee in its own stream, which is then wrapped in another Tee: the text is collected once.
        token = _LINES.set(None)
        try:
            written = self._original.write(text)
        finally:
            _LINES.reset(token)
        lines.feed(self._name, text)
        return written

    def writelines(self, lines: Iterable[str]) -> None:
        """Write several lines."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        if name == "_original":  # only while this object is copied or unpickled
            raise AttributeError(name)
        return getattr(self._original, name)


def install() -> None:
    """Wrap the process's output streams, unless they are wrapped already. Cheap; may be called at any time."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is not None and not isinstance(stream, Tee):
            setattr(sys, name, Tee(stream, name))
