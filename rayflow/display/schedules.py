"""Schedules as text for terminals and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rayflow.client.schedules import ScheduleInfo
from rayflow.definition.schedule import Schedule
from rayflow.display.as_json import jsonable
from rayflow.display.formats import PLAIN, Style, duration_text, time_text
from rayflow.display.tables import Column, table, visible
from rayflow.display.text import facts_text, value_text


def schedules_text(schedules: Sequence[ScheduleInfo], style: Style = PLAIN) -> str:
    """Schedules as a table, in the order given.

    Args:
        schedules: the schedules.
        style: how they are shown; with ``now``, also how long it is until the next due time.
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
            visible(when_text(schedule.schedule)),
            _next(schedule, style),
            f"{schedule.runs:,}",
            f"{schedule.missed:,}",
            f"{schedule.skipped:,}",
            f"{len(schedule.running):,}",
        ]
        for schedule in schedules
    ]
    return "\n".join(table(columns, rows, style.width))


def _next(schedule: ScheduleInfo, style: Style) -> str:
    if schedule.damage:
        return "never"
    if schedule.paused:
        return "paused"
    if schedule.next_due is None:
        return "over"
    if style.now is None:
        return time_text(schedule.next_due, style)
    left = schedule.next_due - style.now
    # Nobody is at work on the store, or the starts are spread.
    return f"in {duration_text(left)}" if left >= 0 else f"due {duration_text(-left)} ago"


def when_text(schedule: Schedule | None) -> str:
    """When a schedule starts its workflow.

    Example:
        >>> when_text(Schedule(cron="0 2 * * *", timezone="Europe/Berlin")), when_text(Schedule(every=90))
        ('0 2 * * * Europe/Berlin', 'every 1 min 30 s')
    """
    if schedule is None:
        return "(damaged)"
    if schedule.cron is not None:
        return f"{schedule.cron} {schedule.timezone}"
    assert schedule.every is not None
    return f"every {duration_text(schedule.every)}"


def schedule_text(schedule: ScheduleInfo, style: Style = PLAIN) -> str:
    """One schedule: when it starts what, and where it is."""
    if schedule.damage:
        return "\n".join(facts_text({"schedule": visible(schedule.name), "damaged": visible(schedule.damage)}))
    parts = ["\n".join(facts_text({**_plan_facts(schedule, style), **_state_facts(schedule, style)}))]
    if schedule.args or schedule.kwargs:
        parts.append(value_text("input", {"args": list(schedule.args), "kwargs": schedule.kwargs}, style))
    return "\n\n".join(parts)


def _plan_facts(schedule: ScheduleInfo, style: Style) -> dict[str, str]:
    spec = schedule.schedule
    assert spec is not None
    return {
        "schedule": visible(schedule.name),
        "workflow": visible(schedule.workflow_id)
        + (f" (version {visible(schedule.version)})" if schedule.version else ""),
        "when": visible(when_text(spec)),
        "from": _moment(spec.start_at, style),
        "until": _moment(spec.end_at, style),
        "at most": _runs(spec.max_runs) if spec.max_runs is not None else "",
        "overlap": spec.overlap,
        "catch up": f"what is up to {duration_text(spec.catch_up)} late",
        "jitter": duration_text(spec.jitter) if spec.jitter else "",
        "priority": str(schedule.options.priority),
    }


def _state_facts(schedule: ScheduleInfo, style: Style) -> dict[str, str]:
    due = "" if schedule.next_due is None or style.now is None else f" ({_moment(schedule.next_due, style)})"
    return {
        "created": _moment(schedule.created_at, style),
        "next": _next(schedule, style) + due,
        "queued": _moment(schedule.queued_due, style),
        "last due": _moment(schedule.last_due, style),
        "newest": visible(schedule.last_execution or ""),
        "running": visible(", ".join(schedule.running)),
        "counts": f"{_runs(schedule.runs)}, {schedule.missed:,} missed, {schedule.skipped:,} skipped",
    }


def _runs(count: int) -> str:
    return f"{count:,} run{'' if count == 1 else 's'}"


def _moment(moment: float | None, style: Style) -> str:
    return "" if moment is None else time_text(moment, style)


def schedule_json(schedule: ScheduleInfo) -> dict[str, Any]:
    """A schedule as plain JSON values. Moments are seconds since the epoch."""
    return {
        "name": schedule.name,
        "schedule": None if schedule.schedule is None else jsonable(schedule.schedule.model_dump()),
        "workflow_id": schedule.workflow_id,
        "version": schedule.version,
        "input": jsonable({"args": schedule.args, "kwargs": schedule.kwargs}),
        "options": jsonable(schedule.options.model_dump(exclude_unset=True)),
        "paused": schedule.paused,
        "next_due": schedule.next_due,
        "last_due": schedule.last_due,
        "last_execution": schedule.last_execution,
        "running": list(schedule.running),
        "queued_due": schedule.queued_due,
        "runs": schedule.runs,
        "missed": schedule.missed,
        "skipped": schedule.skipped,
        "created_at": schedule.created_at,
        "damage": schedule.damage,
    }
