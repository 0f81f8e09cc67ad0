"""The attempts of an execution as text for terminals and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rayflow.core.execution.snapshot import TaskState, TaskStatus
from rayflow.display.as_json import failure_json
from rayflow.display.formats import PLAIN, Style, duration_text, failure_text, painted, time_text
from rayflow.display.tables import Column, table, visible


def tasks_text(tasks: Sequence[TaskStatus], style: Style = PLAIN) -> str:
    """Attempts as a table, in the order given.

    Args:
        tasks: the attempts.
        style: how they are shown; with ``now``, also for how long the running ones have been running.
    """
    if not tasks:
        return "no steps so far"
    columns = (
        Column("STEP", right=True), Column("NAME", least=8), Column("ATTEMPT", right=True), Column("STATUS"),
        Column("WORKER", least=8), Column("STARTED"), Column("DURATION", right=True), Column("RETRIES", right=True),
        Column("ERROR", least=12),
    )  # fmt: skip
    rows = []
    for task in tasks:
        took = _lasted(task, style.now)
        rows.append([
            str(task.step),
            visible(task.name),
            str(task.attempt),
            str(task.status),
            visible(task.worker.removeprefix("rayflow:worker:")),
            "" if task.started_at is None else time_text(task.started_at, style),
            "" if took is None else duration_text(took),
            str(task.retries),
            _error(task),
        ])  # fmt: skip
    return "\n".join(table(columns, rows, style.width, lambda text, cell: painted(text, cell, style)))


def _error(task: TaskStatus) -> str:
    # What an attempt before it failed with is no news of one that went well.
    if task.last_error is None or task.status is TaskState.COMPLETED:
        return ""
    return failure_text(task.last_error)


def _lasted(task: TaskStatus, now: float | None = None) -> float | None:
    """Seconds from its begin to its end, or until ``now`` while it runs; None where that is not known."""
    end = now if task.status is TaskState.RUNNING else task.completed_at
    return None if task.started_at is None or end is None else end - task.started_at


def task_json(task: TaskStatus) -> dict[str, Any]:
    """An attempt as plain JSON values. Times are seconds since the epoch, durations seconds."""
    return {
        "step": task.step,
        "name": task.name,
        "attempt": task.attempt,
        "status": str(task.status),
        "worker": task.worker,
        "started_at": task.started_at,
        "completed_at": task.completed_at,
        "duration": _lasted(task),
        "retries": task.retries,
        "last_error": None if task.last_error is None else failure_json(task.last_error),
    }
