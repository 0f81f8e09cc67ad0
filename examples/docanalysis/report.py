"""The answers of the agents as one report: a dictionary, a JSON file and a table for the terminal."""

from __future__ import annotations

import json
import math
import os
import tempfile
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from docanalysis.agents import Entities, Extracted, Sentiment, Summary
from docanalysis.documents import Document, Skipped

#: Of the layout of the report; a program that reads it can refuse what it does not know.
FORMAT = 1

#: Narrower tables are not drawn: four columns need that much.
MIN_WIDTH = 60

#: From this width on, the table has a column for the summary.
SUMMARY_WIDTH = 120

LABELS = ("positive", "neutral", "negative", "unknown")


@dataclass(frozen=True)
class Analysis:
    """All that the agents found out about one document, without its text."""

    id: str
    title: str
    source: str
    heading: str
    language: str
    words: int
    sentences: int
    truncated: bool
    note: str
    links: tuple[str, ...]
    sentiment: Sentiment
    entities: Entities
    summary: Summary


def combine(
    document: Document, extracted: Extracted, sentiment: Sentiment, entities: Entities, summary: Summary
) -> Analysis:
    """Put the answers of the agents about one document together."""
    return Analysis(
        id=document.id,
        title=document.title,
        source=document.source,
        heading=extracted.title,
        language=extracted.language,
        words=extracted.words,
        sentences=extracted.sentences,
        truncated=extracted.truncated,
        note=extracted.note,
        links=extracted.links,
        sentiment=sentiment,
        entities=entities,
        summary=summary,
    )


def build_report(rows: Iterable[Analysis], skipped: Sequence[Skipped] = ()) -> dict[str, Any]:
    """The report as plain data: the same rows give the same report, in whatever order they come.

    Args:
        rows: one for each document.
        skipped: sources that were left out or failed, with the reason.

    Returns:
        ``format``, ``documents`` (by title), ``totals`` over them, and ``skipped`` (by source).
    """
    ordered = sorted(rows, key=lambda row: (row.title.casefold(), row.id))
    return {
        "format": FORMAT,
        "documents": [_entry(row) for row in ordered],
        "totals": _totals(ordered, len(skipped)),
        "skipped": [asdict(left) for left in sorted(skipped, key=lambda left: (left.source, left.reason))],
    }


def _entry(row: Analysis) -> dict[str, Any]:
    kinds: dict[str, list[dict[str, Any]]] = {}
    for entity in row.entities.entities:
        kinds.setdefault(entity.kind, []).append({"text": entity.text, "count": entity.count})
    fields = ("id", "title", "source", "heading", "language", "words", "sentences", "truncated", "note")
    return {
        **{name: getattr(row, name) for name in fields},
        "links": list(row.links),
        "sentiment": asdict(row.sentiment),
        "keywords": [asdict(keyword) for keyword in row.entities.keywords],
        "entities": kinds,
        "summary": row.summary.text,
    }


def _totals(rows: Sequence[Analysis], skipped: int) -> dict[str, Any]:
    labels = Counter(row.sentiment.label for row in rows)
    scores = [row.sentiment.score for row in rows if row.sentiment.label != "unknown"]
    words = sum(row.words for row in rows)
    languages = Counter(row.language for row in rows)
    keywords = Counter(word for row in rows for word in {word.text.lower() for word in row.entities.keywords})
    return {
        "documents": len(rows),
        "skipped": skipped,
        "words": words,
        "sentences": sum(row.sentences for row in rows),
        "mean_words": round(words / len(rows), 1) if rows else 0.0,
        "mean_score": round(math.fsum(scores) / len(scores), 4) if scores else 0.0,
        "sentiment": {label: labels[label] for label in LABELS},
        "languages": dict(sorted(languages.items(), key=_most_first)),
        "keywords": dict(sorted(keywords.items(), key=_most_first)[:10]),
    }


def _most_first(entry: tuple[str, int]) -> tuple[int, str]:
    return (-entry[1], entry[0])


def write_report(path: str | os.PathLike[str], report: Mapping[str, Any]) -> Path:
    """Write a report as JSON, whole or not at all: a reader never sees half of one.

    Args:
        path: the file; its folder is made if it is missing.
        report: what :func:`build_report` answered.

    Returns:
        The absolute path of the file.

    Raises:
        OSError: the folder or the file cannot be written; a file that was there is as it was.
    """
    target = Path(path).absolute()
    target.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(report, indent=2, ensure_ascii=False) + "\n"
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(name).chmod(0o644)  # mkstemp makes it for the owner alone, and a report is to be read
        Path(name).replace(target)
    except BaseException:
        Path(name).unlink()
        raise
    return target


# --- the table --------------------------------------------------------------------------------------------
def render_table(report: Mapping[str, Any], width: int = 100) -> str:
    """The report for people: a line for each document, then the totals.

    Args:
        report: what :func:`build_report` answered.
        width: columns of the terminal, at least 60; no line is longer. From 120 on the summary is shown too.

    Example:
        >>> print(render_table(build_report([]), width=60))
        No documents.
    """
    width = max(width, MIN_WIDTH)
    if not report["documents"]:
        return "\n".join(["No documents.", *_skipped(report, width)])
    # Document, words and mood have what they need; keywords, and the summary where it fits, share the rest.
    title = max(16, width // 5)
    rest = width - title - 6 - 14 - 3 * 2
    wide = width >= SUMMARY_WIDTH
    sizes = [title, 6, 14, *((rest * 2 // 5 - 2, rest - rest * 2 // 5) if wide else (rest,))]
    header = ["Document", "Words", "Mood", "Keywords", "Summary"][: len(sizes)]
    rows = [_cells(entry)[: len(sizes)] for entry in report["documents"]]
    rule = "  ".join("─" * size for size in sizes)
    lines = [_line(header, sizes), rule, *(_line(row, sizes) for row in rows), rule]
    return "\n".join([*lines, *_footer(report, width), *_skipped(report, width)])


def _cells(entry: Mapping[str, Any]) -> list[str]:
    mood = entry["sentiment"]
    score = "" if mood["label"] == "unknown" else _signed(mood["score"])
    keywords = ", ".join(keyword["text"] for keyword in entry["keywords"])
    return [entry["title"], f"{entry['words']:,}", f"{mood['label']:<8} {score:>5}", keywords, entry["summary"]]


def _line(cells: Sequence[str], sizes: Sequence[int]) -> str:
    fitted = [_fit(cell, size, right=number == 1) for number, (cell, size) in enumerate(zip(cells, sizes, strict=True))]
    return "  ".join(fitted).rstrip()


def _footer(report: Mapping[str, Any], width: int) -> list[str]:
    totals = report["totals"]
    moods = ", ".join(f"{count} {label}" for label, count in totals["sentiment"].items() if count)
    often = ", ".join(word for word, count in totals["keywords"].items() if count > 1)
    size = f"{_count(totals['documents'], 'document')}, {_count(totals['words'], 'word')}"
    lines = [f"{size}; {moods}; mean mood {_signed(totals['mean_score'])}"]
    if often:
        lines.append(f"Keywords of several: {often}")
    return [_fit(line, width).rstrip() for line in lines]


def _skipped(report: Mapping[str, Any], width: int) -> list[str]:
    left = report["skipped"]
    lines = [f"Left out: {entry['source']}: {entry['reason']}" for entry in left[:5]]
    if len(left) > 5:
        lines.append(f"… and {len(left) - 5} more")
    return [_fit(line, width).rstrip() for line in lines]


def _signed(score: float) -> str:
    return f"{round(score, 2) + 0.0:+.2f}"  # + 0.0, or a small negative number would show as -0.00


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def _fit(text: str, size: int, *, right: bool = False) -> str:
    """``text`` on exactly ``size`` columns of a terminal: padded, or cut with an ellipsis.

    What does not print is shown as "?": a title out of somebody's file must not steer the terminal.
    """
    shown = [c if c.isprintable() else " " if c.isspace() else "?" for c in text]
    columns = sum(map(_columns, shown))
    if columns > size:
        while columns > size - 1:
            columns -= _columns(shown.pop())
        shown.append("…")
        columns += 1
    padding = " " * (size - columns)
    return padding + "".join(shown) if right else "".join(shown) + padding


def _columns(character: str) -> int:
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1
