"""Executions as text: lists, single snapshots, trees. The columns and facts are shared with the HTML view."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal, TypeVar

from rayflow.client.views import ExecutionTree
from rayflow.core.execution.snapshot import ChildSnapshot, ExecutionSnapshot, StageSnapshot, StepSnapshot
from rayflow.display.as_json import elapsed, step_elapsed, to_json
from rayflow.display.formatting import (
    PLAIN,
    Column,
    Style,
    clip,
    duration_text,
    facts_text,
    failure_text,
    indented,
    one_line,
    table,
    time_text,
    value_text,
    visible,
    worker_text,
)

T = TypeVar("T")

Detail = Literal["brief", "steps", "full"]

#: Steps or children that a brief text shows.
STEPS_SHOWN = 20

#: Longest progress text among other columns.
_PROGRESS = 80


def list_text(snapshots: Sequence[ExecutionSnapshot], style: Style = PLAIN) -> str:
    """Return executions as a table, in the order given."""
    return table(_LIST, snapshots, style) if snapshots else "no executions"


def snapshot_text(
    snapshot: ExecutionSnapshot, style: Style = PLAIN, *, detail: Detail = "brief", children: bool = True
) -> str:
    """Return one execution as text.

    Args:
        snapshot: the execution.
        style: how the text is shown.
        children: whether its children are listed.
        detail: "brief" shows the last steps and the beginning of long values, "steps" all steps, "full" also their
            results and tracebacks, and complete values.
    """
    brief, full = detail == "brief", detail == "full"
    parts = [facts_text({"execution": snapshot.execution_id, **facts_of(snapshot, style)}, style)]
    if snapshot.error is not None and full and snapshot.error.traceback:
        parts.append(indented("traceback", snapshot.error.traceback))
    if snapshot.stages:
        parts.append(table(STAGES, snapshot.stages, style))
    if snapshot.steps:
        parts.append(_newest(STEPS, snapshot.steps, style, brief=brief))
        parts += _step_details(snapshot.steps, style) if full else []
    if snapshot.children and children:
        parts.append(_newest(CHILDREN, snapshot.children, style, brief=brief))
    if snapshot.state:
        parts.append(value_text("state", snapshot.state, style, whole=full))
    if snapshot.status == "completed":
        parts.append(value_text("result", snapshot.result, style, whole=full))
    return "\n\n".join(parts)


def _newest(columns: Sequence[Column[T]], records: Sequence[T], style: Style, *, brief: bool) -> str:
    shown = records[-STEPS_SHOWN:] if brief else records
    left_out = len(records) - len(shown)
    return table(columns, shown, style) + (f"\n… and {left_out} earlier ones; --steps shows all" if left_out else "")


def _step_details(steps: Iterable[StepSnapshot], style: Style) -> list[str]:
    parts = []
    for step in steps:
        title = f"step {step.seq} {visible(step_label(step))}"
        if step.status == "completed":
            parts.append(value_text(f"{title}: result", step.result, style))
        elif step.error is not None and step.error.traceback:
            parts.append(indented(f"{title}: traceback", step.error.traceback))
    return parts


def facts_of(snapshot: ExecutionSnapshot, style: Style) -> dict[str, str]:
    """Return the facts of an execution by name, in display order and not escaped; inapplicable facts are empty."""
    return {
        "workflow": f"{snapshot.workflow_id} (version {snapshot.version})",
        "status": str(snapshot.status),
        "reason": failure_text(snapshot.error),
        "waits": _waits_text(snapshot, style),
        "run": "" if snapshot.run == 1 else str(snapshot.run),
        "parent": snapshot.parent,
        "forked from": snapshot.forked_from,
        "attributes": ", ".join(f"{name} = {value!r}" for name, value in snapshot.attributes.items()),
        "created": time_text(snapshot.created_at, style),
        "changed": time_text(snapshot.updated_at, style),
        "duration": duration_text(elapsed(snapshot, style.now)),
        "deadline": time_text(snapshot.deadline, style),
        "priority": str(snapshot.priority),
        "unread": ", ".join(f"signal {name}" for name in snapshot.unconsumed_signals),
        "coordinator": f"{snapshot.coordinator} (epoch {snapshot.epoch})" if snapshot.coordinator else "",
    }


def _waits_text(snapshot: ExecutionSnapshot, style: Style) -> str:
    """Return what an execution waits for, until when, and whether it is parked."""
    later = snapshot.wakes_at is not None and snapshot.wakes_at > snapshot.updated_at
    until = f"until {time_text(snapshot.wakes_at, style)}" if later else ""
    waits = "; ".join(filter(None, (", ".join(snapshot.waiting_for), until)))
    return waits + (" (parked)" if waits and snapshot.parked else "")


def why_text(snapshot: ExecutionSnapshot, style: Style) -> str:
    """Return the reason of an execution's status: its failure, or what it waits for."""
    if snapshot.error is not None:
        return failure_text(snapshot.error)
    waits = _waits_text(snapshot, style).removesuffix(" (parked)")
    return waits if not waits or waits.startswith("until ") else f"waits: {waits}"


def step_label(step: StepSnapshot) -> str:
    """Return the step's name, after its kind if it is a child workflow, a lock, a signal or a compensation."""
    return step.name if step.kind == "step" else f"{step.kind} {step.name}"


def _attempts(step: StepSnapshot) -> str:
    return "" if step.kind in {"child", "lock", "signal"} else str(step.attempts)


def _step_status(step: StepSnapshot) -> str:
    """Return the step's status; "waiting" between two attempts."""
    return "waiting" if step.status == "running" and step.retry_at is not None else step.status


def progress_text(step: StepSnapshot) -> str:
    """Return the progress that a running step reported, and the resources that it waits for, in one short line."""
    if step.status != "running":
        return ""
    said = step.progress
    progress = "" if said is None else said if isinstance(said, str) else json.dumps(to_json(said), ensure_ascii=False)
    waits = f"waits: {one_line(step.waits_for)}" if step.waits_for else ""
    return clip("; ".join(filter(None, (waits, one_line(progress)))), _PROGRESS)


def tree_text(tree: ExecutionTree, style: Style = PLAIN) -> str:
    """Return an execution and its descendants as a tree, each with its status and what it waits for or failed with."""
    return table(_TREE, [_tree_row(lines, branch, style) for lines, branch in _walk(tree, "", "")], style)


def _walk(branch: ExecutionTree, first: str, rest: str) -> Iterator[tuple[str, ExecutionTree | str]]:
    """Yield each branch with the lines in front of it, parents first, and a command in place of omitted children."""
    yield first, branch
    for position, child in enumerate(branch.children, start=1):
        last = position == len(branch.children) and not branch.more
        yield from _walk(child, rest + ("└─ " if last else "├─ "), rest + ("   " if last else "│  "))
    if branch.more:
        yield f"{rest}└─ ", f"rayflow list --parent {branch.execution.execution_id}"


def _tree_row(lines: str, branch: ExecutionTree | str, style: Style) -> tuple[str, ...]:
    if isinstance(branch, str):
        return f"{lines}… and more", "", "", "", "", branch
    _, *cells = (column.cell(branch.execution, style) for column in _LIST if column.title != "CREATED")
    workflow, status, took, why = cells
    return lines + visible(branch.execution.execution_id), workflow, status, str(branch.step or ""), took, why


_LIST: Sequence[Column[ExecutionSnapshot]] = (
    Column("ID", lambda one, style: one.execution_id, least=12),
    Column("WORKFLOW", lambda one, style: one.workflow_id, least=8),
    Column("STATUS", lambda one, style: str(one.status)),
    Column("CREATED", lambda one, style: time_text(one.created_at, style)),
    Column("DURATION", lambda one, style: duration_text(elapsed(one, style.now)), right=True),
    Column("REASON", why_text, least=12),
)

STAGES: Sequence[Column[StageSnapshot]] = (
    Column("STAGE", lambda stage, style: str(stage.index), right=True),
    Column("NAME", lambda stage, style: stage.name, least=8),
    Column("STATUS", lambda stage, style: stage.status),
)

STEPS: Sequence[Column[StepSnapshot]] = (
    Column("STEP", lambda step, style: str(step.seq), right=True),
    Column("NAME", lambda step, style: step_label(step), least=8),
    Column("STATUS", lambda step, style: _step_status(step)),
    Column("ATTEMPTS", lambda step, style: _attempts(step), right=True),
    Column("DURATION", lambda step, style: duration_text(step_elapsed(step)), right=True),
    Column("WORKER", lambda step, style: worker_text(step.worker), least=8),
    Column("PROGRESS", lambda step, style: progress_text(step), least=12),
    Column("ERROR", lambda step, style: failure_text(step.error), least=12),
)

CHILDREN: Sequence[Column[ChildSnapshot]] = (
    Column("CHILD", lambda child, style: child.execution_id, least=12),
    Column("WORKFLOW", lambda child, style: child.workflow_id, least=8),
    Column("STATUS", lambda child, style: str(child.status)),
    Column("STEP", lambda child, style: str(child.step or ""), right=True),
)

_TREE: Sequence[Column[tuple[str, ...]]] = (
    Column("EXECUTION", lambda row, style: row[0], least=16),
    Column("WORKFLOW", lambda row, style: row[1], least=8),
    Column("STATUS", lambda row, style: row[2]),
    Column("STEP", lambda row, style: row[3], right=True),
    Column("DURATION", lambda row, style: row[4], right=True),
    Column("REASON", lambda row, style: row[5], least=12),
)
