"""HTML view of an execution, for notebooks."""

from __future__ import annotations

import html
import json
from collections.abc import Sequence
from typing import Any, TypeVar

from rayflow.core.execution.snapshot import ExecutionSnapshot
from rayflow.display.as_json import to_json
from rayflow.display.executions import CHILDREN, STAGES, STEPS, facts_of
from rayflow.display.formatting import PLAIN, Column, Style

T = TypeVar("T")

#: Colours that are readable on the light and on the dark theme of a notebook.
_COLOURS = {
    "completed": "#2e9e5b", "running": "#2d8cc4", "paused": "#c98a1b", "waiting": "#c98a1b", "failed": "#d9534f",
    "cancelled": "#a05fb5",
}  # fmt: skip

#: Characters of a value, and steps or children, that a page shows.
_LONGEST = 20_000
_ROWS = 200


def to_html(snapshot: ExecutionSnapshot, style: Style = PLAIN) -> str:
    """Return one execution as an HTML fragment without scripts, with all data escaped.

    Args:
        snapshot: the execution.
        style: the time zone and ``now``; width and colour are not used.
    """
    facts = [(name, fact) for name, fact in facts_of(snapshot, style).items() if fact and name != "status"]
    rows = "".join(f"<tr><td>{_text(name)}</td><td>{_text(fact)}</td></tr>" for name, fact in facts)
    parts = [
        f"<div><strong>{_text(snapshot.execution_id)}</strong> {_status(snapshot.status)}</div><table>{rows}</table>",
        _table(STAGES, snapshot.stages, style, most=len(snapshot.stages)),
        _table([column for column in STEPS if column.title != "WORKER"], snapshot.steps, style),
        _table(CHILDREN, snapshot.children, style),
    ]
    if snapshot.state:
        parts.append(_value("state", snapshot.state))
    if snapshot.status == "completed":
        parts.append(_value("result", snapshot.result))
    return f'<div class="rayflow-execution">{"".join(parts)}</div>'


def _table(columns: Sequence[Column[T]], records: Sequence[T], style: Style, *, most: int = _ROWS) -> str:
    if not records:
        return ""
    head = "".join(f"<th>{column.title.lower()}</th>" for column in columns)
    body = "".join(
        "<tr>" + "".join(f"<td>{_cell(column, record, style)}</td>" for column in columns) + "</tr>"
        for record in records[-most:]
    )
    left_out = len(records) - most
    more = f"<div>… and {left_out} earlier ones</div>" if left_out > 0 else ""
    return f"<table><tr>{head}</tr>{body}</table>{more}"


def _cell(column: Column[T], record: T, style: Style) -> str:
    text = column.cell(record, style)
    return _status(text) if column.title == "STATUS" else _text(text)


def _status(status: str) -> str:
    colour = _COLOURS.get(status)
    return f'<span style="color:{colour}">{_text(status)}</span>' if colour else _text(status)


def _value(title: str, value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(to_json(value), ensure_ascii=False, indent=2)
    shown = text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"
    return f"<details open><summary>{title}</summary><pre>{_text(shown)}</pre></details>"


def _text(text: str) -> str:
    return html.escape(text)
