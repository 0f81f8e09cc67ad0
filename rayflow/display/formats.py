"""Words that texts, pages and lists share: times, durations, failures."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass

from rayflow.core.execution.snapshot import ExecutionSnapshot, StepSnapshot
from rayflow.display.tables import visible
from rayflow.errors import Failure


@dataclass(frozen=True, slots=True)
class Style:
    """How text is shown.

    Args:
        width: columns of the screen.
        colour: whether ANSI colours may be used.
        now: seconds since the epoch, for how long something has been running; None leaves that out.
        tz: time zone of the times; None for the local one.
    """

    width: int = 100
    colour: bool = False
    now: float | None = None
    tz: dt.tzinfo | None = None


#: How it is shown where nobody says otherwise.
PLAIN = Style()

_COLOURS = {
    "completed": "32", "running": "36", "pending": "2", "paused": "33", "failed": "31", "cancelled": "35",
    "dropped": "2", "skipped": "2", "waiting": "33", "lost": "33",
}  # fmt: skip


def painted(text: str, word: str, style: Style) -> str:
    """The text in the colour of a status, where colours are wanted and the word is one."""
    code = _COLOURS.get(word)
    return f"\x1b[{code}m{text}\x1b[0m" if style.colour and code else text


def duration_text(seconds: float) -> str:
    """A duration for people.

    Example:
        >>> duration_text(0.0042), duration_text(12.34), duration_text(3725), duration_text(200000)
        ('4 ms', '12.3 s', '1 h 02 min', '2 d 07 h')
    """
    seconds = max(0.0, seconds)
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    whole, minutes = round(seconds), round(seconds / 60)
    if whole < 600:
        return f"{whole // 60} min {whole % 60:02d} s"
    if minutes < 60:
        return f"{minutes} min"
    if minutes < 48 * 60:
        return f"{minutes // 60} h {minutes % 60:02d} min"
    return f"{minutes // 1440} d {minutes % 1440 // 60:02d} h"


def size_text(size: int) -> str:
    """Bytes for people.

    Example:
        >>> size_text(512), size_text(1536), size_text(3_400_000)
        ('512 bytes', '1.5 kB', '3.4 MB')
    """
    for unit, worth in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= worth:
            return f"{size / worth:.1f} {unit}"
    return f"{size} bytes"


def time_text(moment: float, style: Style) -> str:
    """A moment as date and time."""
    return dt.datetime.fromtimestamp(moment, tz=style.tz or dt.UTC).astimezone(style.tz).strftime("%Y-%m-%d %H:%M:%S")


def lasted(snapshot: ExecutionSnapshot, now: float | None = None) -> float | None:
    """Seconds from start to end, or until ``now``; None where that is not known."""
    if snapshot.status.terminal:
        return snapshot.updated_at - snapshot.created_at
    return None if now is None else now - snapshot.created_at


def step_lasted(step: StepSnapshot) -> float | None:
    """Seconds that the attempt that counted took, once it ended."""
    return None if step.began is None or step.ended is None else step.ended - step.began


def step_label(step: StepSnapshot) -> str:
    """The step's name, and what it is where it is no step but a child workflow, a lock, a signal, a compensation."""
    return step.name if step.kind == "step" else f"{step.kind} {step.name}"


def has_attempts(step: StepSnapshot) -> bool:
    """Whether it is tried, and perhaps tried again; a child, a lock and a signal are only waited for."""
    return step.kind in {"step", "undo"}


def step_status(step: StepSnapshot) -> str:
    """The step's status; "waiting" between two attempts."""
    return "waiting" if step.status == "running" and step.retry_at is not None else step.status


def one_line(text: str) -> str:
    """The first line of a text that says something, printable."""
    return visible(next((line.strip() for line in text.splitlines() if line.strip()), ""))


def failure_text(failure: Failure) -> str:
    """Type and message in one line; the builtin types and our own go by their bare names."""
    name = failure.type.removeprefix("rayflow.errors.")
    message = one_line(failure.message)
    return visible(name) + (f": {message}" if message else "")
