"""Text in columns: how wide it is on a screen, how it is cut, and tables that fit a width."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass

GAP = "  "

#: Stands between the parts of one emoji.
_JOINER = "\u200d"


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a table.

    Args:
        title: its heading.
        right: align to the right.
        least: the width down to which it may be cut; 0 for never.
    """

    title: str
    right: bool = False
    least: int = 0


def visible(text: str, *, keep: str = "") -> str:
    r"""The text with everything that would move a cursor written out, so that data cannot draw on the screen.

    Args:
        text: anything.
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
    r"""Columns that a printable text takes on a screen.

    Example:
        >>> width("abc"), width("日本"), width("e\u0301")
        (3, 4, 1)
    """
    if text.isascii():
        return len(text)
    return sum(map(_cell, text))


def _cell(character: str) -> int:
    if unicodedata.combining(character) or unicodedata.category(character) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def clip(text: str, columns: int) -> str:
    """The text, cut to a width; a cut one ends in "…".

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
    """The text, filled with spaces to a width."""
    spaces = " " * (columns - width(text))
    return spaces + text if right else text + spaces


def table(
    columns: Sequence[Column],
    rows: Sequence[Sequence[str]],
    columns_wide: int,
    paint: Callable[[str, str], str] = lambda text, cell: text,
) -> list[str]:
    """The lines of a table.

    Args:
        columns: its columns; those that are empty in every row are left out.
        rows: one printable text for each column.
        columns_wide: the width to fit, as far as the columns can be cut.
        paint: gets a filled cell and its text, and answers it in colour.
    """
    used = [i for i in range(len(columns)) if any(row[i] for row in rows)]
    chosen = [columns[i] for i in used]
    cells = [[row[i] for i in used] for row in rows]
    widths = _fitted(
        [max(width(column.title), *(width(row[i]) for row in cells)) for i, column in enumerate(chosen)],
        [max(column.least, width(column.title)) if column.least else None for column in chosen],
        columns_wide - len(GAP) * (len(chosen) - 1),
    )

    def line(texts: Sequence[str], painted: Callable[[str, str], str]) -> str:
        done = []
        for text, wide, column in zip(texts, widths, chosen, strict=True):
            cut = clip(text, wide)
            done.append(painted(pad(cut, wide, right=column.right), cut))
        return GAP.join(done).rstrip()

    return [line([column.title for column in chosen], lambda text, cell: text), *(line(row, paint) for row in cells)]


def _fitted(widths: list[int], least: Sequence[int | None], room: int) -> list[int]:
    """The widths with the widest columns that may be cut brought down, one column at a time, until they fit."""
    widths = list(widths)
    while sum(widths) > room:
        able = [i for i, limit in enumerate(least) if limit is not None and widths[i] > limit]
        if not able:
            break
        widest = max(able, key=lambda i: widths[i])
        widths[widest] -= 1
    return widths
