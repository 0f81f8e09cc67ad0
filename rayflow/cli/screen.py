"""Output of a command: stdout, stderr, and the progress line.

A program that reads stdout gets one document and nothing else. With ``--json`` and ``--quiet``, stdout of the user's
code is redirected, including that of processes that steps start.
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
from rayflow.display.formatting import clip

_ERASE = "\r\x1b[K"


class Screen:
    """Output of one command.

    Args:
        as_json: stdout gets one JSON document, everything else goes to stderr.
        quiet: stdout gets only the result; output of steps and progress messages are dropped.

    Attributes:
        has_error: whether an error was printed.
    """

    def __init__(self, *, as_json: bool = False, quiet: bool = False) -> None:
        self.as_json = as_json
        self.quiet = quiet
        self.has_error = False
        self._result: str | None = None

    def note(self, text: str) -> None:
        """Print a message on stderr, unless the command is quiet."""
        if not self.quiet:
            _write(sys.stderr, text + "\n")

    def error(self, text: str) -> None:
        """Print an error on stderr."""
        self.has_error = True
        _write(sys.stderr, f"rayflow: {text}\n")

    def line(self, text: str) -> None:
        """Print a line of a step's output."""
        _write(sys.stdout, text + "\n")

    def result(self, text: str, document: Any) -> None:
        """Set the command's result, as text and as a document for ``--json``; it is printed at the end."""
        self._result = json.dumps(document, indent=2) if self.as_json else text

    def style(self, now: float | None = None) -> Style:
        """Return the style of text on this terminal."""
        plain = "NO_COLOR" in os.environ or os.environ.get("TERM") == "dumb"
        return Style(width=_columns(), colour=_is_terminal(sys.stdout) and not plain, now=now)

    @contextlib.contextmanager
    def protected_stdout(self) -> Iterator[None]:
        """Keep stdout free for the result while user code may run, then print the result."""
        if self.as_json or self.quiet:
            with Path(os.devnull).open("w") as nowhere, _redirected(nowhere if self.quiet else sys.stderr):
                yield
        else:
            yield
        if self._result is not None:
            _write(sys.stdout, self._result + "\n")
            sys.stdout.flush()


@contextlib.contextmanager
def _redirected(target: TextIO) -> Iterator[None]:
    """Redirect stdout: the stream, and the descriptor that child processes inherit."""
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
    except UnicodeEncodeError:  # the terminal's encoding lacks some of the characters
        encoding = stream.encoding or "ascii"
        stream.write(text.encode(encoding, "backslashreplace").decode(encoding))


def _is_terminal(stream: TextIO) -> bool:
    return not stream.closed and stream.isatty()


def _columns() -> int:
    return max(40, shutil.get_terminal_size((100, 24)).columns)


class ProgressLine:
    """One line at the bottom of a terminal, rewritten in place; does nothing if stderr is not a terminal."""

    def __init__(self, *, enabled: bool = True) -> None:
        self._stream = sys.stderr
        self.active = enabled and _is_terminal(self._stream)
        self._lock = threading.RLock()
        self._shown = False
        self._at_start = True

    def show(self, text: str) -> None:
        """Show a text in place of the previous one."""
        with self._lock:
            if self.active and self._at_start:  # never over a line of output that is not finished
                self._stream.write(_ERASE + clip(text, _columns() - 1))
                self._stream.flush()
                self._shown = True

    def clear(self) -> None:
        """Remove the line until the next text."""
        with self._lock:
            if self._shown:
                self._stream.write(_ERASE)
                self._stream.flush()
                self._shown = False

    def write_above(self, stream: TextIO, text: str) -> int:
        """Write output above the line."""
        with self._lock:
            self.clear()
            written = stream.write(text)
            stream.flush()
            if text:
                self._at_start = text.endswith("\n")
            return written

    @contextlib.contextmanager
    def above(self) -> Iterator[None]:
        """Print all output of the block above the line."""
        if not self.active:
            yield
            return
        streams = sys.stdout, sys.stderr
        sys.stdout, sys.stderr = (_StreamAbove(stream, self) for stream in streams)
        try:
            yield
        finally:
            self.clear()
            sys.stdout, sys.stderr = streams


class _StreamAbove:
    """Stream that writes above the progress line; everything else is delegated to the original stream."""

    def __init__(self, stream: TextIO, progress: ProgressLine) -> None:
        self._stream = stream
        self._progress = progress

    def write(self, text: str) -> int:
        return self._progress.write_above(self._stream, text)

    def writelines(self, lines: list[str]) -> None:
        self.write("".join(lines))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
