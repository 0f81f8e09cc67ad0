"""Commands ``schedule list``, ``show``, ``create``, ``pause``, ``resume``, ``trigger``, ``backfill`` and ``delete``.

``list`` and ``show`` only read the store; payloads are described, not decoded.
"""

from __future__ import annotations

import argparse
import datetime as dt
import time
from collections.abc import Sequence
from typing import get_args

from rayflow.cli import inputs
from rayflow.cli.exit_codes import COMPLETED, UsageError
from rayflow.cli.open_engine import command_line, open_engine, read_store, store_url
from rayflow.cli.options import (
    Commands,
    add_command,
    add_group,
    add_input,
    add_limit,
    add_priority,
    add_wait,
    amount,
    count,
    moment,
    seconds,
)
from rayflow.cli.screen import Screen
from rayflow.cli.targets import TARGET_FORMS, find_target
from rayflow.cli.watch import watch_engine
from rayflow.client.schedules import ScheduleInfo, schedule_infos, unfinished_of
from rayflow.definition.schedule import Overlap, Schedule
from rayflow.definition.start_options import SavedWorkflow
from rayflow.definition.workflow import AnyWorkflow
from rayflow.display import duration_text, time_text, to_json, value_text
from rayflow.display.as_json import input_of
from rayflow.display.formatting import PLAIN, Column, Style, facts_text, plural, table
from rayflow.errors import ScheduleNotFound
from rayflow.storage.base import Store
from rayflow.storage.codec.payloads import MsgpackCodec

#: Options of ``schedule create`` that are fields of Schedule.
_FIELDS = ("cron", "every", "timezone", "overlap", "catch_up", "jitter", "start_at", "end_at", "max_runs")


def add_commands(commands: Commands) -> None:
    """Add ``schedule``."""
    actions = add_group(commands, "schedule", "start workflows at the times of a cron expression or at an interval")
    about = "create a schedule, or replace one"
    _add_create_options(add_command(actions, "create", create, about, "name", engine=True))
    add_command(actions, "list", list_schedules, "list schedules by name")
    add_command(actions, "show", show, "show one schedule", "name")
    about = "pause a schedule; due times during the pause are skipped"
    add_command(actions, "pause", pause, about, "name", engine=True)
    add_command(actions, "resume", resume, "resume a schedule at its next due time", "name", engine=True)
    about = "start the schedule's workflow now"
    add_wait(add_command(actions, "trigger", trigger, about, "name", engine=True))
    about = "start the workflow for due times in the past"
    parser = add_command(actions, "backfill", backfill, about, "name", engine=True)
    parser.add_argument("begin", metavar="FROM", type=moment, help="begin of the range, such as 2026-11-01T00:00+01:00")
    parser.add_argument("end", metavar="TO", type=moment, help="end of the range, which is excluded")
    add_limit(parser, "refuse a range with more than N due times", 1000)
    add_wait(parser)
    add_command(actions, "delete", delete, "delete a schedule but not its executions", "name", engine=True)


def _add_create_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("target", metavar="TARGET", help=TARGET_FORMS)
    when = parser.add_argument_group("when")
    kind = when.add_mutually_exclusive_group(required=True)
    kind.add_argument("--cron", metavar="EXPR", help="cron expression, such as '30 2 * * MON-FRI'")
    kind.add_argument("--every", type=seconds, metavar="S", help="every S seconds")
    when.add_argument("--timezone", metavar="ZONE", help="time zone of --cron, such as Europe/Berlin; default UTC")
    when.add_argument("--start-at", type=moment, metavar="TIME", help="no earlier than TIME, as 2026-11-24T02:00+01:00")
    when.add_argument("--end-at", type=moment, metavar="TIME", help="no later than TIME")
    when.add_argument("--max-runs", type=count, metavar="N", help="at most N runs; default unlimited")
    when.add_argument("--jitter", type=amount, metavar="S", help="spread starts over S seconds; default 0")
    late = "after an outage, start what was due up to S seconds ago; default 3600"
    when.add_argument("--catch-up", type=seconds, metavar="S", help=late)
    overlap = "if the previous execution is still running at a due time; default skip"
    when.add_argument("--overlap", choices=get_args(Overlap), help=overlap)
    what = parser.add_argument_group("what")
    add_input(what)
    what.add_argument("--version", metavar="V", help="the workflow's version; default the latest at each start")
    add_priority(what)
    parser.add_argument("--replace", action="store_true", help="replace an existing schedule of that name")


def list_schedules(args: argparse.Namespace, screen: Screen) -> int:
    """List all schedules of a store, by name."""
    found = _stored(args)
    screen.result(schedules_text(found, screen.style(time.time())), to_json(found))
    return COMPLETED


def show(args: argparse.Namespace, screen: Screen) -> int:
    """Show one schedule."""
    found = next((schedule for schedule in _stored(args) if schedule.name == args.name), None)
    if found is None:
        raise ScheduleNotFound(args.name)
    return _report(screen, found)


def _stored(args: argparse.Namespace) -> list[ScheduleInfo]:
    async def query(store: Store) -> list[ScheduleInfo]:
        records = await store.schedules()
        return schedule_infos(records, await store.executions(unfinished_of(records)), MsgpackCodec().describe)

    return read_store(store_url(args.store), query)


def _report(screen: Screen, schedule: ScheduleInfo) -> int:
    screen.result(schedule_text(schedule, screen.style(time.time())), to_json(schedule))
    return COMPLETED


def create(args: argparse.Namespace, screen: Screen) -> int:
    """Create a schedule, or replace one with ``--replace``."""
    given = {name: getattr(args, name) for name in _FIELDS}
    schedule = Schedule(**{name: value for name, value in given.items() if value is not None})
    target = find_target(args.target, store_url(args.store))
    positional, keywords = inputs.arguments(target.definition, inputs.read_input(args.input))
    with open_engine(args, recover=False) as engine:
        workflow: AnyWorkflow | SavedWorkflow = target.start
        if args.version is not None:
            if not isinstance(workflow, SavedWorkflow):
                engine.register(workflow)
            workflow = SavedWorkflow(workflow.id, args.version)
        chosen = workflow.options() if args.priority is None else workflow.options(priority=args.priority)
        made = engine.schedules.create(args.name, chosen.call(*positional, **keywords), schedule, replace=args.replace)
    _note_engine(args, screen)
    return _report(screen, made)


def pause(args: argparse.Namespace, screen: Screen) -> int:
    """Pause a schedule."""
    with open_engine(args, recover=False) as engine:
        engine.schedules.pause(args.name)
        return _report(screen, engine.schedules.get(args.name))


def resume(args: argparse.Namespace, screen: Screen) -> int:
    """Resume a schedule at its next due time."""
    with open_engine(args, recover=False) as engine:
        engine.schedules.resume(args.name)
        found = engine.schedules.get(args.name)
    _note_engine(args, screen)
    return _report(screen, found)


def delete(args: argparse.Namespace, screen: Screen) -> int:
    """Delete a schedule but not its executions."""
    with open_engine(args, recover=False) as engine:
        engine.schedules.delete(args.name)
    screen.result(f"schedule {args.name} is deleted", {"name": args.name, "deleted": True})
    return COMPLETED


def _note_engine(args: argparse.Namespace, screen: Screen) -> None:
    if args.local:
        screen.note("a schedule starts executions only while an engine is open on its store")


def trigger(args: argparse.Namespace, screen: Screen) -> int:
    """Start the schedule's workflow now; a local execution is waited for, since it runs in this process."""
    with watch_engine(args, screen, recover=False) as watch:
        execution_id = watch.engine.schedules.trigger(args.name).id
        with watch.explain_state(execution_id):
            screen.note(f"execution {execution_id} of workflow {watch.record(execution_id).workflow_id}")
            if args.wait or args.local:
                return watch.finish(execution_id)
    screen.note(f"to wait for the result: {command_line(args, 'wait', execution_id)}")
    screen.result(execution_id, {"name": args.name, "started": [execution_id]})
    return COMPLETED


def backfill(args: argparse.Namespace, screen: Screen) -> int:
    """Start the workflow for due times in the past; local executions are waited for."""
    if args.end <= args.begin:
        begin, end = (dt.datetime.fromtimestamp(moment, dt.UTC) for moment in (args.begin, args.end))
        raise UsageError(f"TO ({end}) must be later than FROM ({begin})")
    with watch_engine(args, screen, recover=False) as watch:
        handles = watch.engine.schedules.backfill(args.name, args.begin, args.end, limit=args.limit)
        ids = [handle.id for handle in handles]
        if ids and (args.wait or args.local):
            screen.note(f"waiting for {plural(len(ids), 'execution')} of schedule {args.name}")
            code, text, documents = watch.finish_all(ids)
            screen.result(text, {"name": args.name, "started": ids, "executions": documents})
            return code
    screen.result("\n".join(ids) or "no due times in this range", {"name": args.name, "started": ids})
    return COMPLETED


def schedules_text(schedules: Sequence[ScheduleInfo], style: Style = PLAIN) -> str:
    """Return schedules as a table, in the order given."""
    return table(_SCHEDULES, schedules, style) if schedules else "no schedules"


def schedule_text(schedule: ScheduleInfo, style: Style = PLAIN) -> str:
    """Return one schedule: its plan, its workflow and its state."""
    spec = schedule.schedule
    if schedule.damage or spec is None:
        return facts_text({"schedule": schedule.name, "damaged": schedule.damage})
    due = f" ({time_text(schedule.next_due, style)})" if schedule.next_due is not None and style.now is not None else ""
    facts = {
        "schedule": schedule.name,
        "workflow": schedule.workflow_id + (f" (version {schedule.version})" if schedule.version else ""),
        "when": when_text(spec),
        "from": time_text(spec.start_at, style),
        "until": time_text(spec.end_at, style),
        "at most": "" if spec.max_runs is None else plural(spec.max_runs, "run"),
        "overlap": spec.overlap,
        "catch up": f"due times up to {duration_text(spec.catch_up)} late",
        "jitter": duration_text(spec.jitter or None),
        "priority": str(schedule.options.priority),
        "created": time_text(schedule.created_at, style),
        "next": _next(schedule, style) + due,
        "queued": time_text(schedule.queued_due, style),
        "last due": time_text(schedule.last_due, style),
        "newest": schedule.last_execution or "",
        "running": ", ".join(schedule.running),
        "counts": f"{plural(schedule.runs, 'run')}, {schedule.missed:,} missed, {schedule.skipped:,} skipped",
    }
    parts = [facts_text(facts, style)]
    if schedule.args or schedule.kwargs:
        parts.append(value_text("input", input_of(schedule), style))
    return "\n\n".join(parts)


def when_text(schedule: Schedule | None) -> str:
    """Return when a schedule starts its workflow.

    Example:
        >>> when_text(Schedule(cron="0 2 * * *", timezone="Europe/Berlin")), when_text(Schedule(every=90))
        ('0 2 * * * Europe/Berlin', 'every 1 min 30 s')
    """
    if schedule is None:
        return "(damaged)"
    if schedule.cron is not None:
        return f"{schedule.cron} {schedule.timezone}"
    return f"every {duration_text(schedule.every)}"


def _next(schedule: ScheduleInfo, style: Style) -> str:
    if schedule.damage:
        return "never"
    if schedule.paused:
        return "paused"
    if schedule.next_due is None:
        return "ended"
    if style.now is None:
        return time_text(schedule.next_due, style)
    left = schedule.next_due - style.now
    # A due time in the past: no engine is open on the store, or the starts are spread by the jitter.
    return f"in {duration_text(left)}" if left >= 0 else f"due {duration_text(-left)} ago"


_SCHEDULES: Sequence[Column[ScheduleInfo]] = (
    Column("NAME", lambda one, style: one.name, least=8),
    Column("WORKFLOW", lambda one, style: one.workflow_id, least=8),
    Column("WHEN", lambda one, style: when_text(one.schedule), least=12),
    Column("NEXT", _next),
    Column("RUNS", lambda one, style: f"{one.runs:,}", right=True),
    Column("MISSED", lambda one, style: f"{one.missed:,}", right=True),
    Column("SKIPPED", lambda one, style: f"{one.skipped:,}", right=True),
    Column("RUNNING", lambda one, style: f"{len(one.running):,}", right=True),
)
