"""``schedule list``, ``show``, ``create``, ``pause``, ``resume``, ``trigger``, ``backfill`` and ``delete``."""

from __future__ import annotations

import argparse
import datetime as dt
import time
from typing import Any

from rayflow.cli import inputs
from rayflow.cli.engines import command, open_engine
from rayflow.cli.exits import COMPLETED, UsageError
from rayflow.cli.reading import read, store_url
from rayflow.cli.screen import Screen
from rayflow.cli.targets import find_target
from rayflow.definition.schedule import Schedule
from rayflow.display import schedule_json, schedule_text, schedules_text
from rayflow.errors import ScheduleNotFound
from rayflow.schedules import ScheduleInfo, schedule_info

#: Options of ``schedule create`` that are fields of Schedule as they are.
_PLAIN = ("cron", "every", "timezone", "overlap", "catch_up", "jitter", "max_runs")


def list_schedules(args: argparse.Namespace, screen: Screen) -> int:
    """All schedules of a store, by name."""
    found = _stored(args)
    screen.answer(schedules_text(found, time.time(), screen.style()), [schedule_json(schedule) for schedule in found])
    return COMPLETED


def show(args: argparse.Namespace, screen: Screen) -> int:
    """One schedule."""
    found = next((schedule for schedule in _stored(args) if schedule.name == args.name), None)
    if found is None:
        raise ScheduleNotFound(args.name)
    screen.answer(schedule_text(found, time.time(), screen.style()), schedule_json(found))
    return COMPLETED


def _stored(args: argparse.Namespace) -> list[ScheduleInfo]:
    return [schedule_info(record) for record in read(store_url(args.store), lambda store: store.schedules())]


def create(args: argparse.Namespace, screen: Screen) -> int:
    """Make a schedule, or with --replace change the one of that name."""
    spec = {name: getattr(args, name) for name in _PLAIN} | {
        "start_at": _moment("--start-at", args.start_at),
        "end_at": _moment("--end-at", args.end_at),
    }
    schedule = Schedule(**{name: value for name, value in spec.items() if value is not None})
    target = find_target(args.target, store_url(args.store))
    positional, keywords = inputs.arguments(target.definition, inputs.read_input(args.input))
    with open_engine(args, recover="no") as engine:
        made = engine.schedules.create(
            args.name, target.start, schedule, args=positional, kwargs=keywords, replace=args.replace
        )
    screen.answer(schedule_text(made, time.time(), screen.style()), schedule_json(made))
    if args.local:
        screen.say("it starts nothing while no engine is at work on this store")
    return COMPLETED


def pause(args: argparse.Namespace, screen: Screen) -> int:
    """Start nothing any more."""
    with open_engine(args, recover="no") as engine:
        engine.schedules.pause(args.name)
        return _report(screen, engine.schedules.get(args.name))


def resume(args: argparse.Namespace, screen: Screen) -> int:
    """Go on with the next due time."""
    with open_engine(args, recover="no") as engine:
        engine.schedules.resume(args.name)
        return _report(screen, engine.schedules.get(args.name))


def trigger(args: argparse.Namespace, screen: Screen) -> int:
    """Start its workflow now."""
    _needs_cluster(args, "trigger")
    with open_engine(args, recover="no") as engine:
        handle = engine.schedules.trigger(args.name)
    screen.answer(handle.id, {"name": args.name, "started": [handle.id]})
    screen.say(f"to wait for it: {command(args, 'wait', handle.id)}")
    return COMPLETED


def backfill(args: argparse.Namespace, screen: Screen) -> int:
    """Start what was due in a range that has passed."""
    _needs_cluster(args, "backfill")
    begin, end = _moment("FROM", args.begin), _moment("TO", args.end)
    with open_engine(args, recover="no") as engine:
        handles = engine.schedules.backfill(args.name, begin, end)
    ids = [handle.id for handle in handles]
    screen.answer("\n".join(ids) or "nothing was due in that range", {"name": args.name, "started": ids})
    return COMPLETED


def delete(args: argparse.Namespace, screen: Screen) -> int:
    """Forget a schedule; its executions stay."""
    with open_engine(args, recover="no") as engine:
        engine.schedules.delete(args.name)
    screen.answer(f"schedule {args.name} is deleted", {"name": args.name, "deleted": True})
    return COMPLETED


def _report(screen: Screen, schedule: ScheduleInfo) -> int:
    screen.answer(schedule_text(schedule, time.time(), screen.style()), schedule_json(schedule))
    return COMPLETED


def _needs_cluster(args: argparse.Namespace, what: str) -> None:
    if args.local:
        raise UsageError(f"schedule {what} needs a cluster: with --local what it starts would end with this command")


def _moment(option: str, text: str | None) -> Any:
    """Seconds since the epoch, or a date and time with its zone."""
    if text is None:
        return None
    try:
        return float(text)
    except ValueError:
        pass
    try:
        return dt.datetime.fromisoformat(text)
    except ValueError as error:
        raise UsageError(
            f"{option} needs a moment such as 2026-11-24T02:00:00+01:00, or seconds since the epoch, not {text!r}"
        ) from error
