"""Executions, saved workflows and metrics as text for terminals."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, Literal

from rayflow.client.views import WorkflowInfo
from rayflow.core.cluster.metrics import DistributedMetrics
from rayflow.core.execution.snapshot import ChildSnapshot, ExecutionSnapshot, StageSnapshot, StepSnapshot
from rayflow.display.as_json import jsonable
from rayflow.display.formats import (
    PLAIN,
    Style,
    duration_text,
    failure_text,
    has_attempts,
    lasted,
    one_line,
    painted,
    step_label,
    step_lasted,
    step_status,
    time_text,
)
from rayflow.display.summary import facts_of, why_text
from rayflow.display.tables import Column, clip, pad, table, visible, width

Detail = Literal["brief", "steps", "full"]

#: Steps, and lines of a value, that are shown where not all were asked for.
STEPS_SHOWN = 20
LINES_SHOWN = 12

#: Columns that a step's progress, and what it waits for, may take among other columns.
_PROGRESS = 80


def list_text(snapshots: Sequence[ExecutionSnapshot], style: Style = PLAIN) -> str:
    """Executions as a table, in the order given."""
    if not snapshots:
        return "no executions"
    columns = (
        Column("ID", least=12), Column("WORKFLOW", least=8), Column("STATUS"), Column("CREATED"),
        Column("DURATION", right=True), Column("REASON", least=12),
    )  # fmt: skip
    rows = []
    for snapshot in snapshots:
        took = lasted(snapshot, style.now)
        rows.append([
            visible(snapshot.execution_id),
            visible(snapshot.workflow_id),
            str(snapshot.status),
            time_text(snapshot.created_at, style),
            "" if took is None else duration_text(took),
            visible(why_text(snapshot, style)),
        ])  # fmt: skip
    return "\n".join(table(columns, rows, style.width, lambda text, cell: painted(text, cell, style)))


def snapshot_text(
    snapshot: ExecutionSnapshot, style: Style = PLAIN, *, detail: Detail = "brief", children: bool = True
) -> str:
    """One execution.

    Args:
        snapshot: the execution.
        style: how it is shown.
        children: whether its children are listed.
        detail: "brief" shows the last steps and the beginning of long values, "steps" all steps, "full" also their
            results and tracebacks, and every value whole.
    """
    parts = ["\n".join(_header(snapshot, style))]
    if snapshot.error is not None and detail == "full" and snapshot.error.traceback:
        parts.append(indented("traceback", snapshot.error.traceback))
    if snapshot.stages:
        parts.append("\n".join(_stages(snapshot.stages, style)))
    if snapshot.steps:
        parts.append("\n".join(_steps(snapshot.steps, style, detail)))
        if detail == "full":
            parts += _step_details(snapshot.steps, style)
    if snapshot.children and children:
        parts.append("\n".join(_children(snapshot.children, style, detail)))
    if snapshot.state:
        parts.append(value_text("state", snapshot.state, style, whole=detail == "full"))
    if snapshot.status == "completed":
        parts.append(value_text("result", snapshot.result, style, whole=detail == "full"))
    return "\n\n".join(parts)


def _header(snapshot: ExecutionSnapshot, style: Style) -> list[str]:
    facts = {"execution": snapshot.execution_id, **facts_of(snapshot, style)}
    shown = {name: visible(fact) for name, fact in facts.items()}
    return facts_text({**shown, "status": painted(shown["status"], shown["status"], style)})


def facts_text(facts: Mapping[str, str]) -> list[str]:
    """Named facts, one to a line; those that are empty are left out."""
    wide = max(map(len, facts))
    return [f"{pad(name, wide)}  {fact}" for name, fact in facts.items() if fact]


def _stages(stages: Sequence[StageSnapshot], style: Style) -> list[str]:
    columns = (Column("STAGE", right=True), Column("NAME", least=8), Column("STATUS"))
    rows = [[str(stage.index), visible(stage.name), stage.status] for stage in stages]
    return table(columns, rows, style.width, lambda text, cell: painted(text, cell, style))


def _children(children: Sequence[ChildSnapshot], style: Style, detail: Detail) -> list[str]:
    columns = (
        Column("CHILD", least=12), Column("WORKFLOW", least=8), Column("STATUS"), Column("STEP", right=True),
    )  # fmt: skip
    shown = children if detail != "brief" else children[-STEPS_SHOWN:]
    rows = [
        [visible(child.execution_id), visible(child.workflow_id), str(child.status), str(child.step or "")]
        for child in shown
    ]
    lines = table(columns, rows, style.width, lambda text, cell: painted(text, cell, style))
    left_out = len(children) - len(shown)
    return lines if not left_out else [*lines, f"… and {left_out} earlier ones; --steps shows all"]


def _steps(steps: Sequence[StepSnapshot], style: Style, detail: Detail) -> list[str]:
    columns = (
        Column("STEP", right=True), Column("NAME", least=8), Column("STATUS"), Column("ATTEMPTS", right=True),
        Column("DURATION", right=True), Column("WORKER", least=8), Column("PROGRESS", least=12),
        Column("ERROR", least=12),
    )  # fmt: skip
    shown = steps if detail != "brief" else steps[-STEPS_SHOWN:]
    rows = []
    for step in shown:
        took = step_lasted(step)
        rows.append([
            str(step.seq),
            visible(step_label(step)),
            step_status(step),
            str(step.attempts) if has_attempts(step) else "",
            "" if took is None else duration_text(took),
            visible(step.worker.removeprefix("rayflow:worker:")),
            progress_text(step),
            "" if step.error is None else failure_text(step.error),
        ])  # fmt: skip
    lines = table(columns, rows, style.width, lambda text, cell: painted(text, cell, style))
    left_out = len(steps) - len(shown)
    return lines if not left_out else [*lines, f"… and {left_out} earlier ones; --steps shows all"]


def progress_text(step: StepSnapshot) -> str:
    """How far a step that is under way says it is, or what it waits for; short, in one line, "" if it says nothing."""
    if step.status != "running":
        return ""
    said = step.progress
    how_far = "" if said is None else said if isinstance(said, str) else json.dumps(jsonable(said), ensure_ascii=False)
    parts = (f"waits: {one_line(step.waits_for)}" if step.waits_for else "", one_line(how_far))
    return clip("; ".join(filter(None, parts)), _PROGRESS)


def _step_details(steps: Iterable[StepSnapshot], style: Style) -> list[str]:
    parts = []
    for step in steps:
        title = f"step {step.seq} {visible(step_label(step))}"
        if step.status == "completed":
            parts.append(value_text(f"{title}: result", step.result, style, whole=True))
        elif step.error is not None and step.error.traceback:
            parts.append(indented(f"{title}: traceback", step.error.traceback))
    return parts


def indented(title: str, text: str) -> str:
    """A text under its title."""
    return "\n".join([title, *(f"  {visible(line)}".rstrip() for line in text.rstrip().splitlines())])


def value_text(title: str, value: Any, style: Style = PLAIN, *, whole: bool = True) -> str:
    """A value under its title: on one line where it fits, else indented; text as it is, the rest as JSON.

    Args:
        title: what it is; "" for the bare value.
        value: the value.
        style: how it is shown.
        whole: show all of a long value, not only its beginning.
    """
    text = value if isinstance(value, str) else json.dumps(jsonable(value), ensure_ascii=False)
    if not title and isinstance(value, str):
        return visible(text, keep="\n\t")
    if "\n" not in text and width(text) + len(title) + 2 <= style.width:
        return f"{title}: {visible(text)}" if title else visible(text)
    if not isinstance(value, str):
        text = json.dumps(jsonable(value), ensure_ascii=False, indent=2)
    lines = [visible(line, keep="\t") for line in text.splitlines()]
    indent = "  " if title else ""
    if not whole:
        more = len(lines) - LINES_SHOWN
        lines = [clip(line, style.width - 2) for line in lines[:LINES_SHOWN]]
        lines += [f"… and {more} more lines; --full shows all"] if more > 0 else []
    return "\n".join([*([title] if title else []), *(f"{indent}{line}".rstrip() for line in lines)])


def workflows_text(infos: Sequence[WorkflowInfo], style: Style = PLAIN) -> str:
    """Versions of workflows as a table."""
    if not infos:
        return "no workflows"
    columns = (
        Column("ID", least=12),
        Column("VERSION"),
        Column("UNFINISHED", right=True),
        Column("SAVED"),
        Column("CODE", least=12),
        Column("ABOUT", least=12),
    )
    rows = [
        [
            visible(info.workflow_id),
            visible(info.version),
            str(info.unfinished),
            "no" if info.saved_at is None else time_text(info.saved_at, style),
            visible(_place(info)),
            one_line(info.description),
        ]
        for info in infos
    ]
    return "\n".join(table(columns, rows, style.width))


def _place(info: WorkflowInfo) -> str:
    if not info.code:
        return ""
    return f"{info.code['module']}:{info.code['qualname']}" + (" (by value)" if info.code["kind"] == "value" else "")


def metrics_text(metrics: DistributedMetrics) -> str:
    """Metrics, one to a line."""
    wide = max(map(len, asdict(metrics)))
    return "\n".join(
        f"{pad(name.replace('_', ' '), wide)}  {_figure(name, value)}" for name, value in _figures(metrics)
    )


def _figures(metrics: DistributedMetrics) -> Iterable[tuple[str, float]]:
    return asdict(metrics).items()


def _figure(name: str, value: float) -> str:
    return (
        duration_text(value) if name in {"oldest_waiting", "avg_task_duration", "avg_execution_time"} else f"{value:,}"
    )
