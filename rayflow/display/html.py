"""An execution as HTML, for notebooks."""

from __future__ import annotations

import html
import json
from collections.abc import Iterable, Sequence
from typing import Any

from rayflow.core.execution.snapshot import ChildSnapshot, ExecutionSnapshot, StepSnapshot
from rayflow.display.as_json import jsonable
from rayflow.display.formats import (
    PLAIN,
    Style,
    duration_text,
    failure_text,
    has_attempts,
    step_label,
    step_lasted,
    step_status,
)
from rayflow.display.summary import facts_of
from rayflow.display.text import progress_text

#: Colours that are readable on the light and on the dark theme of a notebook.
_COLOURS = {
    "completed": "#2e9e5b", "running": "#2d8cc4", "paused": "#c98a1b", "waiting": "#c98a1b", "failed": "#d9534f",
    "cancelled": "#a05fb5",
}  # fmt: skip

#: Characters of a value, and steps or children, that a page shows.
_LONGEST = 20_000
_ROWS = 200


def to_html(snapshot: ExecutionSnapshot, style: Style = PLAIN) -> str:
    """One execution as a piece of HTML without scripts; whatever its data hold is escaped.

    Args:
        snapshot: the execution.
        style: of which only the time zone and ``now`` count here.
    """
    facts = [(name, fact) for name, fact in facts_of(snapshot, style).items() if fact and name != "status"]
    parts = [
        f"<div><strong>{_text(snapshot.execution_id)}</strong> {_status(snapshot.status)}</div>",
        _table([], [[_text(name), _text(fact)] for name, fact in facts]),
    ]
    if snapshot.stages:
        rows = [[str(stage.index), _text(stage.name), _status(stage.status)] for stage in snapshot.stages]
        parts.append(_table(["stage", "name", "status"], rows))
    parts += _steps(snapshot.steps)
    parts += _children(snapshot.children)
    if snapshot.state:
        parts.append(_value("state", snapshot.state))
    if snapshot.status == "completed":
        parts.append(_value("result", snapshot.result))
    return f'<div class="rayflow-execution">{"".join(parts)}</div>'


def _steps(steps: Sequence[StepSnapshot]) -> list[str]:
    if not steps:
        return []
    rows = []
    for step in steps[-_ROWS:]:
        took = step_lasted(step)
        rows.append([
            str(step.seq),
            _text(step_label(step)),
            _status(step_status(step)),
            str(step.attempts) if has_attempts(step) else "",
            "" if took is None else duration_text(took),
            _text(progress_text(step)),
            _text("" if step.error is None else failure_text(step.error)),
        ])  # fmt: skip
    shown = _table(["step", "name", "status", "attempts", "duration", "progress", "error"], rows)
    return [shown, *_left_out(len(steps) - len(rows))]


def _children(children: Sequence[ChildSnapshot]) -> list[str]:
    if not children:
        return []
    rows = [
        [_text(child.execution_id), _text(child.workflow_id), _status(child.status), str(child.step or "")]
        for child in children[-_ROWS:]
    ]
    return [_table(["child", "workflow", "status", "step"], rows), *_left_out(len(children) - len(rows))]


def _left_out(count: int) -> list[str]:
    return [f"<div>… and {count} earlier ones</div>"] if count else []


def _table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    head = "<tr>" + "".join(f"<th>{title}</th>" for title in titles) + "</tr>" if titles else ""
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table>{head}{body}</table>"


def _status(status: str) -> str:
    colour = _COLOURS.get(status)
    return f'<span style="color:{colour}">{_text(status)}</span>' if colour else _text(status)


def _value(title: str, value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(jsonable(value), ensure_ascii=False, indent=2)
    shown = text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"
    return f"<details open><summary>{title}</summary><pre>{_text(shown)}</pre></details>"


def _text(text: str) -> str:
    return html.escape(text)
