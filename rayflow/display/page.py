"""An execution as HTML, for notebooks."""

from __future__ import annotations

import html
import json
from collections.abc import Iterable, Sequence
from typing import Any

from rayflow.core.snapshot import ExecutionSnapshot, StepSnapshot
from rayflow.display.plain import jsonable
from rayflow.display.text import progress_text
from rayflow.display.words import (
    PLAIN,
    Style,
    duration_text,
    failure_text,
    lasted,
    step_label,
    step_lasted,
    step_status,
    time_text,
)

#: Colours that are readable on the light and on the dark theme of a notebook.
_COLOURS = {
    "completed": "#2e9e5b", "running": "#2d8cc4", "paused": "#c98a1b", "waiting": "#c98a1b", "failed": "#d9534f",
    "cancelled": "#a05fb5",
}  # fmt: skip

#: Characters of a value, and steps, that a page shows.
_LONGEST = 20_000
_STEPS = 200


def to_html(snapshot: ExecutionSnapshot, style: Style = PLAIN) -> str:
    """One execution as a piece of HTML without scripts; whatever its data hold is escaped.

    Args:
        snapshot: the execution.
        style: of which only the time zone and ``now`` count here.
    """
    took = lasted(snapshot, style.now)
    facts = [
        ("workflow", f"{snapshot.workflow_id} (version {snapshot.version})"),
        ("created", time_text(snapshot.created_at, style)),
        ("duration", "" if took is None else duration_text(took)),
        ("reason", "" if snapshot.error is None else failure_text(snapshot.error)),
        ("coordinator", f"{snapshot.coordinator} (epoch {snapshot.epoch})" if snapshot.coordinator else ""),
    ]
    parts = [
        f"<div><strong>{_text(snapshot.execution_id)}</strong> {_status(snapshot.status)}</div>",
        _table([], [[_text(name), _text(fact)] for name, fact in facts if fact]),
    ]
    if snapshot.stages:
        rows = [[str(stage.index), _text(stage.name), _status(stage.status)] for stage in snapshot.stages]
        parts.append(_table(["stage", "name", "status"], rows))
    parts += _steps(snapshot.steps)
    if snapshot.state:
        parts.append(_value("state", snapshot.state))
    if snapshot.status == "completed":
        parts.append(_value("result", snapshot.result))
    return f'<div class="rayflow-execution">{"".join(parts)}</div>'


def _steps(steps: Sequence[StepSnapshot]) -> list[str]:
    if not steps:
        return []
    rows = []
    for step in steps[-_STEPS:]:
        took = step_lasted(step)
        rows.append([
            str(step.seq),
            _text(step_label(step)),
            _status(step_status(step)),
            str(step.attempts),
            "" if took is None else duration_text(took),
            _text(progress_text(step)),
            _text("" if step.error is None else failure_text(step.error)),
        ])  # fmt: skip
    shown = _table(["step", "name", "status", "attempts", "duration", "progress", "error"], rows)
    left_out = len(steps) - len(rows)
    return [shown, f"<div>… and {left_out} earlier ones</div>"] if left_out else [shown]


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
