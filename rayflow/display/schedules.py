"""Schedules as text for terminals and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rayflow.definition.schedule import Schedule
from rayflow.display.plain import jsonable
from rayflow.display.tables import Column, table, visible
from rayflow.display.words import PLAIN, Style, duration_text, time_text
from rayflow.schedules import ScheduleInfo


def schedules_text(schedules: Sequence[ScheduleInfo], now: float, style: Style = PLAIN) -> str:
    """Schedules as a table, in the order given.

    Args:
        schedules: the schedules.
        now: seconds since the epoch.
        style: of the terminal.
    """
    if not schedules:
        return "no schedules"
    columns = (
        Column("NAME", least=8), Column("WORKFLOW", least=8), Column("WHEN", least=12), Column("NEXT"),
        Column("RUNS", right=True), Column("MISSED", right=True), Column("SKIPPED", right=True),
        Column("RUNNING", right=True),
    )  # fmt: skip
    rows = [
        [
            visible(schedule.name),
            visible(schedule.workflow_id),
            when_text(schedule.schedule),
            _next(schedule, now),
            f"{schedule.runs:,}",
            f"{schedule.missed:,}",
            f"{schedule.skipped:,}",
            f"{len(schedule.running):,}",
        ]
        for schedule in schedules
    ]
    return "\n".join(table(columns, rows, style.width))


def _next(schedule: ScheduleInfo, now: float) -> str:
    if schedule.paused:
        return "paused"
    if schedule.next_due is None:
        return "over"
    return f"in {duration_text(max(0.0, schedule.next_due - now))}"


def when_text(schedule: Schedule) -> str:
    """When a schedule starts its workflow.

    Example:
        >>> when_text(Schedule(cron="0 2 * * *", timezone="Europe/Berlin")), when_text(Schedule(every=90))
        ('0 2 * * * Europe/Berlin', 'every 1m 30s')
    """
    if schedule.cron is not None:
        return schedule.cron if schedule.timezone == "UTC" else f"{schedule.cron} {schedule.timezone}"
    assert schedule.every is not None
    return f"every {duration_text(schedule.every)}"


def schedule_text(schedule: ScheduleInfo, now: float, style: Style = PLAIN) -> str:
    """One schedule, a line for each thing that is known of it."""
    spec = schedule.schedule
    lines = {
        "schedule": schedule.name,
        "workflow": schedule.workflow_id + (f" version {schedule.version}" if schedule.version else ""),
        "when": when_text(spec),
        "overlap": spec.overlap,
        "next": ", ".join(word for word in (_next(schedule, now), _moment(schedule.next_due, style)) if word),
        "last": ", ".join(word for word in (_moment(schedule.last_due, style), schedule.last_execution) if word),
        "running": ", ".join(schedule.running),
        "counts": f"{schedule.runs:,} runs, {schedule.missed:,} missed, {schedule.skipped:,} skipped",
    }
    return "\n".join(f"{name:9} {value}" for name, value in lines.items() if value)


def _moment(moment: float | None, style: Style) -> str:
    return "" if moment is None else time_text(moment, style)


def schedule_json(schedule: ScheduleInfo) -> dict[str, Any]:
    """A schedule as plain JSON values. Moments are seconds since the epoch."""
    return {**asdict(schedule), "schedule": jsonable(schedule.schedule.model_dump()), "running": list(schedule.running)}
