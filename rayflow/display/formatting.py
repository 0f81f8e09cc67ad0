"""Text formatting for terminals: styles, times, durations, values, and tables that fit a width."""

from __future__ import annotations

import datetime as dt
import json
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from rayflow.display.as_json import to_json
from rayflow.errors import Failure

T = TypeVar("T")

#: Lines of a value that are shown unless the whole value was requested.
LINES_SHOWN = 12

_GAP = "  "

#: Zero-width joiner, which stands between the parts of one emoji.
_JOINER = "\u200d"

_COLOURS = {
    "completed": "32", "running": "36", "pending": "2", "paused": "33", "failed": "31", "cancelled": "35",
    "dropped": "2", "skipped": "2", "waiting": "33", "lost": "33",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Style:
    """How text is shown.

    Args:
        width: columns of the screen.
        colour: whether ANSI colours may be used.
        now: seconds since the epoch, to compute how long something has been running; None leaves that out.
        tz: time zone of the times; None for the local one.
    """

    width: int = 100
    colour: bool = False
    now: float | None = None
    tz: dt.tzinfo | None = None


#: Default style.
PLAIN = Style()


@dataclass(frozen=True, slots=True)
class Column(Generic[T]):
    """One column of a table of records.

    Args:
        title: the heading.
        cell: returns the text of a record's cell; control characters are escaped by the table.
        right: align to the right.
        least: the width down to which the column may be cut; 0 for never.
    """

    title: str
    cell: Callable[[T, Style], str]
    right: bool = False
    least: int = 0


def table(columns: Sequence[Column[T]], records: Sequence[T], style: Style = PLAIN) -> str:
    """Return records as a table, one to a line, without the columns that are empty in every row."""
    rows = [[visible(column.cell(record, style)) for column in columns] for record in records]
    used = [i for i in range(len(columns)) if any(row[i] for row in rows)]
    chosen, cells = [columns[i] for i in used], [[row[i] for i in used] for row in rows]
    widths = _fitted(
        [max(width(column.title), *(width(row[i]) for row in cells)) for i, column in enumerate(chosen)],
        [max(column.least, width(column.title)) if column.least else None for column in chosen],
        style.width - len(_GAP) * (len(chosen) - 1),
    )

    def line(texts: Sequence[str], style: Style) -> str:
        shown = []
        for text, wide, column in zip(texts, widths, chosen, strict=True):
            cut = clip(text, wide)
            shown.append(painted(pad(cut, wide, right=column.right), cut, style))
        return _GAP.join(shown).rstrip()

    return "\n".join([line([column.title for column in chosen], PLAIN), *(line(row, style) for row in cells)])


def _fitted(widths: list[int], least: Sequence[int | None], room: int) -> list[int]:
    """Reduce the widest columns that may be cut, one character at a time, until all columns fit."""
    while sum(widths) > room:
        able = [i for i, limit in enumerate(least) if limit is not None and widths[i] > limit]
        if not able:
            break
        widths[max(able, key=lambda i: widths[i])] -= 1
    return widths


def painted(text: str, word: str, style: Style) -> str:
    """Return the text in the colour of a status, if colours are enabled and the word is a status."""
    code = _COLOURS.get(word)
    return f"\x1b[{code}m{text}\x1b[0m" if style.colour and code else text


def visible(text: str, *, keep: str = "") -> str:
    r"""Return the text with control characters escaped, so that data cannot draw on the screen.

    Args:
        text: any text.
        keep: control characters that stay, such as a newline.

    Example:
        >>> visible("a\x1b[31mb")
        'a\\x1b[31mb'
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in keep or c == _JOINER else _escaped(c) for c in text)


def _escaped(character: str) -> str:
    return character if unicodedata.category(character) == "Zs" else repr(character)[1:-1]


def width(text: str) -> int:
    r"""Return the number of terminal columns of a printable text.

    Example:
        >>> width("abc"), width("日本"), width("e\u0301")
        (3, 4, 1)
    """
    return len(text) if text.isascii() else sum(map(_cell, text))


def _cell(character: str) -> int:
    if unicodedata.combining(character) or unicodedata.category(character) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def clip(text: str, columns: int) -> str:
    """Return the text cut to a width; a cut text ends in "…".

    Example:
        >>> clip("execution", 5), clip("日本語", 5), clip("日本語", 4)
        ('exec…', '日本…', '日…')
    """
    if width(text) <= columns:
        return text
    if columns < 1:
        return ""
    kept, used = [], 1
    for character in text:
        used += _cell(character)
        if used > columns:
            break
        kept.append(character)
    return "".join(kept) + "…"


def pad(text: str, columns: int, *, right: bool = False) -> str:
    """Return the text filled with spaces to a width."""
    spaces = " " * (columns - width(text))
    return spaces + text if right else text + spaces


def duration_text(seconds: float | None) -> str:
    """Return a duration for people; "" for None.

    Example:
        >>> duration_text(0.0042), duration_text(12.34), duration_text(3725), duration_text(200000)
        ('4 ms', '12.3 s', '1 h 02 min', '2 d 07 h')
    """
    if seconds is None:
        return ""
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


def time_text(moment: float | None, style: Style) -> str:
    """Return a time (seconds since the epoch) as date and time; "" for None."""
    if moment is None:
        return ""
    return dt.datetime.fromtimestamp(moment, tz=style.tz or dt.UTC).astimezone(style.tz).strftime("%Y-%m-%d %H:%M:%S")


def size_text(size: int) -> str:
    """Return a number of bytes for people.

    Example:
        >>> size_text(512), size_text(1536), size_text(3_400_000)
        ('512 bytes', '1.5 kB', '3.4 MB')
    """
    for unit, worth in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= worth:
            return f"{size / worth:.1f} {unit}"
    return f"{size} bytes"


def plural(count: int, noun: str) -> str:
    """Return a count with its noun.

    Example:
        >>> plural(1, "run"), plural(1200, "run")
        ('1 run', '1,200 runs')
    """
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def one_line(text: str) -> str:
    """Return the first line of a text that is not blank, with control characters escaped."""
    return visible(next((line.strip() for line in text.splitlines() if line.strip()), ""))


def failure_text(failure: Failure | None) -> str:
    """Return type and message of a failure in one line; "" for None."""
    if failure is None:
        return ""
    message = one_line(failure.message)
    return visible(failure.type.removeprefix("rayflow.errors.")) + (f": {message}" if message else "")


def worker_text(worker: str) -> str:
    """Return a worker's name without the prefix that all workers share."""
    return worker.removeprefix("rayflow:worker:")


def facts_text(facts: Mapping[str, str], style: Style = PLAIN) -> str:
    """Return named facts, one to a line, without the empty ones."""
    wide = max(map(len, facts))
    shown = {name: visible(fact) for name, fact in facts.items() if fact}
    return "\n".join(f"{pad(name, wide)}  {painted(fact, fact, style)}" for name, fact in shown.items())


def indented(title: str, text: str) -> str:
    """Return a text below its title, indented."""
    return "\n".join([title, *(f"  {visible(line)}".rstrip() for line in text.rstrip().splitlines())])


def value_text(title: str, value: Any, style: Style = PLAIN, *, whole: bool = True) -> str:
    """Return a value below its title, on one line if it fits; text as it is, other values as JSON.

    Args:
        title: the value's title; "" for the bare value.
        value: the value.
        style: how the text is shown.
        whole: show all of a long value, not only its beginning.
    """
    text = value if isinstance(value, str) else json.dumps(to_json(value), ensure_ascii=False)
    if not title and isinstance(value, str):
        return visible(text, keep="\n\t")
    if "\n" not in text and width(text) + len(title) + 2 <= style.width:
        return f"{title}: {visible(text)}" if title else visible(text)
    if not isinstance(value, str):
        text = json.dumps(to_json(value), ensure_ascii=False, indent=2)
    lines = [visible(line, keep="\t") for line in text.splitlines()]
    indent = "  " if title else ""
    if not whole:
        more = len(lines) - LINES_SHOWN
        lines = [clip(line, style.width - 2) for line in lines[:LINES_SHOWN]]
        lines += [f"… and {more} more lines; --full shows all"] if more > 0 else []
    return "\n".join([*([title] if title else []), *(f"{indent}{line}".rstrip() for line in lines)])
