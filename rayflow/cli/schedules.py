"""``schedule list``, ``show``, ``create``, ``pause``, ``resume``, ``trigger``, ``backfill`` and ``delete``.

``list`` and ``show`` read the store and nothing else; payloads are only described, as in ``looking``.
"""

from __future__ import annotations

import argparse
import datetime as dt
import time

from rayflow.cli import inputs
from rayflow.cli.exit_codes import COMPLETED, UsageError
from rayflow.cli.open_engine import command, open_engine
from rayflow.cli.reader import read, store_url
from rayflow.cli.run import wait_for_all
from rayflow.cli.screen import Screen
from rayflow.cli.targets import find_target
from rayflow.cli.watch import fate_told, following, wait_and_conclude
from rayflow.client.engine import Engine, backend_of
from rayflow.client.schedules import ScheduleInfo, schedule_infos, unfinished_of
from rayflow.definition.schedule import Schedule
from rayflow.definition.start_options import SavedWorkflow
from rayflow.definition.workflow import AnyWorkflow
from rayflow.display import schedule_json, schedule_text, schedules_text
from rayflow.errors import ScheduleNotFound
from rayflow.storage.base import Store
from rayflow.storage.codec.payloads import MsgpackCodec

#: Options of ``schedule create`` that are fields of Schedule as they are.
_FIELDS = ("cron", "every", "timezone", "overlap", "catch_up", "jitter", "start_at", "end_at", "max_runs")


# --- looking --------------------------------------------------------------------------------------------------
def list_schedules(args: argparse.Namespace, screen: Screen) -> int:
    """All schedules of a store, by name."""
    found = _stored(args)
    screen.answer(schedules_text(found, screen.style(time.time())), [schedule_json(schedule) for schedule in found])
    return COMPLETED


def show(args: argparse.Namespace, screen: Screen) -> int:
    """One schedule."""
    found = next((schedule for schedule in _stored(args) if schedule.name == args.name), None)
    if found is None:
        raise ScheduleNotFound(args.name)
    return _report(screen, found)


def _stored(args: argparse.Namespace) -> list[ScheduleInfo]:
    async def look(store: Store) -> list[ScheduleInfo]:
        records = await store.schedules()
        return schedule_infos(records, await store.executions(unfinished_of(records)), MsgpackCodec().describe)

    return read(store_url(args.store), look)


def _report(screen: Screen, schedule: ScheduleInfo) -> int:
    screen.answer(schedule_text(schedule, screen.style(time.time())), schedule_json(schedule))
    return COMPLETED


# --- changing -------------------------------------------------------------------------------------------------
def create(args: argparse.Namespace, screen: Screen) -> int:
    """Make a schedule, or with --replace change the one of that name."""
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
        call = chosen.call(*positional, **keywords)
        made = engine.schedules.create(args.name, call, schedule, replace=args.replace)
    _tell_who_starts(args, screen)
    return _report(screen, made)


def pause(args: argparse.Namespace, screen: Screen) -> int:
    """Start nothing any more."""
    with open_engine(args, recover=False) as engine:
        engine.schedules.pause(args.name)
        return _report(screen, engine.schedules.get(args.name))


def resume(args: argparse.Namespace, screen: Screen) -> int:
    """Go on with the next due time."""
    with open_engine(args, recover=False) as engine:
        engine.schedules.resume(args.name)
        found = engine.schedules.get(args.name)
    _tell_who_starts(args, screen)
    return _report(screen, found)


def delete(args: argparse.Namespace, screen: Screen) -> int:
    """Forget a schedule; its executions stay."""
    with open_engine(args, recover=False) as engine:
        engine.schedules.delete(args.name)
    screen.answer(f"schedule {args.name} is deleted", {"name": args.name, "deleted": True})
    return COMPLETED


def _tell_who_starts(args: argparse.Namespace, screen: Screen) -> None:
    if args.local:
        screen.say("it starts something only while an engine is at work on this store: a cluster's, or a LocalEngine")


# --- starting -------------------------------------------------------------------------------------------------
def trigger(args: argparse.Namespace, screen: Screen) -> int:
    """Start its workflow now; a local execution needs this process, so it is waited for."""
    with following(lambda: open_engine(args, recover=False), screen, args) as (engine, follower):
        execution_id = engine.schedules.trigger(args.name).id
        with fate_told(screen, args, execution_id):
            screen.say(f"execution {execution_id} of workflow {backend_of(engine).record(execution_id).workflow_id}")
            if args.wait or args.local:
                return wait_and_conclude(engine, follower, screen, args, execution_id)
    screen.say(f"to wait for it: {command(args, 'wait', execution_id)}")
    screen.answer(execution_id, {"name": args.name, "started": [execution_id]})
    return COMPLETED


def backfill(args: argparse.Namespace, screen: Screen) -> int:
    """Start what was due in a range that has passed; locally it is waited for, as by ``trigger``."""
    if args.end <= args.begin:
        begin, end = (dt.datetime.fromtimestamp(moment, dt.UTC) for moment in (args.begin, args.end))
        raise UsageError(f"TO ({end}) has to be later than FROM ({begin})")
    with following(lambda: open_engine(args, recover=False), screen, args) as (engine, follower):
        ids = _backfilled(engine, args)
        if ids and (args.wait or args.local):
            screen.say(f"waiting for {len(ids)} executions of schedule {args.name}")
            code, told, ended = wait_for_all(engine, follower, screen, args, ids)
            screen.answer(told, {"name": args.name, "started": ids, "executions": ended})
            return code
    screen.answer("\n".join(ids) or "nothing was due in that time", {"name": args.name, "started": ids})
    return COMPLETED


def _backfilled(engine: Engine, args: argparse.Namespace) -> list[str]:
    return [handle.id for handle in engine.schedules.backfill(args.name, args.begin, args.end, limit=args.limit)]
