"""What goes to stdout, what to stderr, and the line that shows progress.

A program that reads stdout gets one document and nothing else: with ``--json``, and with ``--quiet``, whatever the
user's code prints is led away from it, also by processes that the steps start.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from rayflow.display import Style
from rayflow.display.tables import clip

_ERASE = "\r\x1b[K"


class Screen:
    """Where a command writes.

    Args:
        as_json: stdout gets one JSON document, everything else goes to stderr.
        quiet: stdout gets only the result; what steps print is dropped, and nothing is told on the way.

    Attributes:
        told: whether an error was told.
    """

    def __init__(self, *, as_json: bool = False, quiet: bool = False) -> None:
        self.as_json = as_json
        self.quiet = quiet
        self.told = False
        self._final: str | None = None

    def say(self, text: str) -> None:
        """Tell the person something on stderr, unless it is to be quiet."""
        if not self.quiet:
            _write(sys.stderr, text + "\n")

    def error(self, text: str) -> None:
        """Tell what went wrong, on stderr."""
        self.told = True
        _write(sys.stderr, f"rayflow: {text}\n")

    def line(self, text: str) -> None:
        """A line that a step printed."""
        _write(sys.stdout, text + "\n")

    def answer(self, text: str, document: Any) -> None:
        """What the command answers: the text for a person, the document with ``--json``; written at its end."""
        self._final = json.dumps(document, indent=2) if self.as_json else text

    def style(self, now: float | None = None) -> Style:
        """How text is shown on this terminal."""
        plain = "NO_COLOR" in os.environ or os.environ.get("TERM") == "dumb"
        return Style(width=_columns(), colour=_is_terminal(sys.stdout) and not plain, now=now)

    @contextlib.contextmanager
    def guarded(self) -> Iterator[None]:
        """Keep stdout free for the answer while user code may run, then write the answer."""
        if self.as_json or self.quiet:
            with Path(os.devnull).open("w") as nowhere, _led_to(nowhere if self.quiet else sys.stderr):
                yield
        else:
            yield
        if self._final is not None:
            _write(sys.stdout, self._final + "\n")
            sys.stdout.flush()


@contextlib.contextmanager
def _led_to(target: TextIO) -> Iterator[None]:
    """Lead stdout elsewhere: the stream, and the descriptor that child processes inherit."""
    stream, saved = sys.stdout, None
    stream.flush()
    if _descriptor(stream) == 1 and _descriptor(target) is not None:
        saved = os.dup(1)
        os.dup2(target.fileno(), 1)
    try:
        with contextlib.redirect_stdout(target):
            yield
    finally:
        if saved is not None:
            os.dup2(saved, 1)
            os.close(saved)


def _descriptor(stream: TextIO) -> int | None:
    try:
        return stream.fileno()
    except (OSError, ValueError):  # a stream in memory, or a closed one
        return None


def _write(stream: TextIO, text: str) -> None:
    try:
        stream.write(text)
    except UnicodeEncodeError:  # the terminal's encoding has no such characters
        encoding = stream.encoding or "ascii"
        stream.write(text.encode(encoding, "backslashreplace").decode(encoding))


def _is_terminal(stream: TextIO) -> bool:
    return not stream.closed and stream.isatty()


def _columns() -> int:
    return max(40, shutil.get_terminal_size((100, 24)).columns)


# --- the line that shows progress -----------------------------------------------------------------------------
class LiveLine:
    """One line at the bottom of a terminal, rewritten in place. Where stderr is no terminal it does nothing.

    Args:
        wanted: whether it is to be shown at all.
    """

    def __init__(self, *, wanted: bool = True) -> None:
        self._stream = sys.stderr
        self.active = wanted and _is_terminal(self._stream)
        self._lock = threading.RLock()
        self._shown = False
        self._at_start = True

    def show(self, text: str) -> None:
        """Show this now."""
        with self._lock:
            if self.active and self._at_start:  # never over a line that somebody has not ended yet
                self._stream.write(_ERASE + clip(text, _columns() - 1))
                self._stream.flush()
                self._shown = True

    def clear(self) -> None:
        """Take it away, until it is shown again."""
        with self._lock:
            if self._shown:
                self._stream.write(_ERASE)
                self._stream.flush()
                self._shown = False

    def pass_on(self, stream: TextIO, text: str) -> int:
        """Write somebody's text above the line."""
        with self._lock:
            self.clear()
            written = stream.write(text)
            stream.flush()
            if text:
                self._at_start = text.endswith("\n")
            return written

    @contextlib.contextmanager
    def above(self) -> Iterator[None]:
        """Whatever is printed inside this block goes above the line."""
        if not self.active:
            yield
            return
        streams = sys.stdout, sys.stderr
        sys.stdout, sys.stderr = (_Above(stream, self) for stream in streams)
        try:
            yield
        finally:
            self.clear()
            sys.stdout, sys.stderr = streams


class _Above:
    """A stream that makes room for the live line; all but writing is the original's."""

    def __init__(self, stream: TextIO, live: LiveLine) -> None:
        self._stream = stream
        self._live = live

    def write(self, text: str) -> int:
        return self._live.pass_on(self._stream, text)

    def writelines(self, lines: list[str]) -> None:
        self.write("".join(lines))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
