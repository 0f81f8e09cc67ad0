"""The commands that have commands of their own: ``schedule``, ``lock``, ``dlq`` and ``pool``, with their options."""

from __future__ import annotations

import argparse
from typing import get_args

from rayflow.cli import dead_letters, locks, pools, schedules
from rayflow.cli.options import (
    Command,
    Commands,
    add_command,
    add_group,
    add_timeout,
    add_waiting,
    amount,
    count,
    letter_number,
    moment,
    rate,
    seconds,
    whole,
)
from rayflow.definition.schedule import Overlap


# --- schedules and locks --------------------------------------------------------------------------------------
def add_schedules(commands: Commands[argparse.ArgumentParser]) -> None:
    """``schedule``: workflows that are started by themselves."""
    about = "have workflows started by themselves, at the times of a cron expression or at an interval"
    actions = add_group(commands, "schedule", about)
    _add_schedule_options(_schedule_command(actions, "create", schedules.create, "make a schedule, or change one"))
    add_command(actions, "list", schedules.list_schedules, "list schedules by name")
    parser = add_command(actions, "show", schedules.show, "show one schedule")
    parser.add_argument("name", metavar="NAME", help="the schedule's name")
    _schedule_command(actions, "pause", schedules.pause, "start nothing any more; what comes due meanwhile is skipped")
    _schedule_command(actions, "resume", schedules.resume, "go on with the next due time")
    parser = _schedule_command(actions, "trigger", schedules.trigger, "start its workflow now, whatever its times")
    add_waiting(parser)
    parser = _schedule_command(actions, "backfill", schedules.backfill, "start what was due in a time that has passed")
    parser.add_argument("begin", metavar="FROM", type=moment, help="the beginning, such as 2026-11-01T00:00+01:00")
    parser.add_argument("end", metavar="TO", type=moment, help="the end, which does not belong to it")
    parser.add_argument(
        "--limit", type=count, default=1000, metavar="N", help="refuse more due times than that; 1000 if left out"
    )
    add_waiting(parser, "them")
    _schedule_command(actions, "delete", schedules.delete, "forget a schedule; its executions stay as they are")


def _schedule_command(
    actions: Commands[argparse.ArgumentParser], action: str, command: Command, about: str
) -> argparse.ArgumentParser:
    parser = add_command(actions, action, command, about, engine=True)
    parser.add_argument("name", metavar="NAME", help="the schedule's name")
    return parser


def _add_schedule_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("target", metavar="TARGET", help="module:object, path/file.py:object, or a saved workflow's id")
    when = parser.add_argument_group("when")
    kind = when.add_mutually_exclusive_group(required=True)
    kind.add_argument("--cron", metavar="EXPR", help="at these times, such as '30 2 * * MON-FRI'")
    kind.add_argument("--every", type=seconds, metavar="S", help="every S seconds")
    when.add_argument("--timezone", metavar="ZONE", help="of the cron expression, such as Europe/Berlin; UTC")
    when.add_argument("--start-at", type=moment, metavar="TIME", help="not earlier, as in 2026-11-24T02:00+01:00")
    when.add_argument("--end-at", type=moment, metavar="TIME", help="not later")
    when.add_argument("--max-runs", type=count, metavar="N", help="so many times at most; any number if left out")
    when.add_argument("--jitter", type=amount, metavar="S", help="spread the starts over S seconds; 0 if left out")
    when.add_argument(
        "--catch-up",
        type=seconds,
        metavar="S",
        help="start what was due while all was down up to S seconds later; 3600",
    )
    when.add_argument(
        "--overlap", choices=get_args(Overlap), help="if an execution still runs when the next is due; skip if left out"
    )
    what = parser.add_argument_group("what")
    what.add_argument("--input", metavar="JSON", help="the input as JSON, @FILE to read it from there, @- from stdin")
    what.add_argument("--version", metavar="V", help="this saved version; the one saved last by then if left out")
    what.add_argument("--priority", type=int, choices=range(10), metavar="0-9", help="higher goes first; 5 if left out")
    parser.add_argument("--replace", action="store_true", help="change the schedule if there is one of that name")


def add_locks(commands: Commands[argparse.ArgumentParser]) -> None:
    """``lock``: locks and semaphores."""
    actions = add_group(commands, "lock", "look at locks and semaphores")
    about = "list locks and semaphores that somebody has or waits for: who, since when, with which tokens"
    add_command(actions, "list", locks.list_locks, about)


# --- dead letters ---------------------------------------------------------------------------------------------
def add_letters(commands: Commands[argparse.ArgumentParser]) -> None:
    """``dlq``: dead letters."""
    actions = add_group(commands, "dlq", "look at steps that failed for good, try them again, or discard them")
    parser = add_command(actions, "list", dead_letters.list_letters, "list dead letters, newest first")
    parser.add_argument("--workflow", metavar="ID", help="only those of this workflow")
    parser.add_argument("--execution", metavar="ID", help="only those of this execution")
    parser.add_argument("--limit", type=count, default=50, metavar="N", help="at most so many; 50 if left out")
    for name, command, about, engine in (
        ("show", dead_letters.show, "show a dead letter, with its input and all its attempts", False),
        ("requeue", dead_letters.requeue, "try the step again and let its execution go on", True),
        ("discard", dead_letters.discard, "delete a dead letter; its execution stays as it is", True),
    ):
        parser = add_command(actions, name, command, about, engine=engine)
        parser.add_argument("id", metavar="EXECUTION", help="the execution's id")
        parser.add_argument(
            "step",
            metavar="STEP",
            type=letter_number,
            help="the step's number; that of a signal that did not fit is negative",
        )
        if name == "requeue":
            add_waiting(parser)


# --- pools ------------------------------------------------------------------------------------------------------
def add_pools(commands: Commands[argparse.ArgumentParser]) -> None:
    """``pool``: worker pools."""
    actions = add_group(commands, "pool", "look at worker pools, make them, scale, drain or delete them")
    _pool_command(actions, "list", pools.list_pools, "show what each pool does now", name=False)
    _add_pool_options(_pool_command(actions, "create", pools.create, "make a pool"))
    parser = _pool_command(actions, "scale", pools.scale, "change a pool's size while it runs; no task is lost")
    parser.add_argument("workers", type=whole, nargs="?", metavar="N", help="so many workers in each code environment")
    parser.add_argument("--min", dest="min_workers", type=whole, metavar="N", help="scale by the work: at least N")
    parser.add_argument("--max", dest="max_workers", type=count, metavar="N", help="scale by the work: at most N")
    parser = _pool_command(actions, "drain", pools.drain, "stop a pool's workers, each once its tasks are done")
    add_timeout(parser, "they go on to stop")
    parser = _pool_command(actions, "delete", pools.delete, "delete a pool with its workers")
    parser.add_argument("--force", action="store_true", help="also while tasks wait for it or run in it")


def _pool_command(
    actions: Commands[argparse.ArgumentParser], action: str, command: Command, about: str, *, name: bool = True
) -> argparse.ArgumentParser:
    parser = add_command(actions, action, command, about)
    parser.add_argument("--address", metavar="ADDR", help="the Ray cluster to join, as host:port")
    parser.add_argument("--local", action="store_true", help=argparse.SUPPRESS)  # to say why it cannot be
    if name:
        parser.add_argument("name", metavar="NAME", help="the pool's name")
    return parser


def _add_pool_options(parser: argparse.ArgumentParser) -> None:
    size = parser.add_argument_group("size, in each code environment")
    size.add_argument("--workers", type=whole, metavar="N", help="workers; 4 if left out")
    size.add_argument("--concurrency", type=count, metavar="N", help="tasks that a worker runs at once; 4 if left out")
    size.add_argument("--min-workers", type=whole, metavar="N", help="scale by the work that waits: at least so many")
    size.add_argument("--max-workers", type=count, metavar="N", help="scale by the work that waits: at most so many")
    size.add_argument("--idle-timeout", type=seconds, metavar="S", help="stop a spare worker idle for S seconds; 30")
    limits = parser.add_argument_group("limits")
    limits.add_argument("--queue-limit", type=count, metavar="N", help="tasks that may wait; any number if left out")
    limits.add_argument("--max-ray-tasks", type=count, metavar="N", help="Ray tasks of their own at once; 100")
    limits.add_argument("--rate", type=rate, metavar="N/SECONDS", help="starts of tasks at most, such as 50/1")
    worker = parser.add_argument_group("each worker")
    worker.add_argument("--num-cpus", type=amount, metavar="X", help="CPUs that Ray reserves for it; 0.01 if left out")
    worker.add_argument("--num-gpus", type=amount, metavar="X", help="GPUs that Ray reserves for it; 0 if left out")
    worker.add_argument("--memory", type=count, metavar="BYTES", help="memory that Ray reserves for it")
    worker.add_argument("--resources", metavar="JSON", help="custom resources that Ray reserves for it, as an object")
    worker.add_argument(
        "--runtime-env", metavar="JSON", help="Ray's runtime environment, on top of the code environment"
    )
    worker.add_argument("--setup", metavar="MODULE:FUNCTION", help="called once before it takes work")
    worker.add_argument(
        "--max-tasks", type=count, metavar="N", help="replace it after so many tasks; never if left out"
    )
    worker.add_argument(
        "--drain-timeout", type=amount, metavar="S", help="seconds to finish its tasks when it is to stop; 300"
    )
    worker.add_argument(
        "--stop-grace", type=amount, metavar="S", help="seconds that a step which is told to stop may take; 5"
    )
    worker.add_argument("--start-timeout", type=seconds, metavar="S", help="seconds to start, with its setup; 600")
