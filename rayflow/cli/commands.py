"""The commands and their options, and how a command ends."""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from collections.abc import Sequence

from rayflow import __version__
from rayflow.cli import control, forks, groups, purge, signals, tasks
from rayflow.cli import run as running
from rayflow.cli import show as looking
from rayflow.cli.exit_codes import INTERRUPTED, READER_GONE, code_of
from rayflow.cli.options import (
    Commands,
    add_command,
    add_timeout,
    add_waiting,
    count,
    duration,
    moment,
    port,
    seconds,
    step_name_or_number,
)
from rayflow.cli.screen import Screen
from rayflow.errors import RayflowError
from rayflow.ids import ExecutionStatus

_EPILOG = """exit codes: 0 completed, 1 failed, 2 wrong usage, 3 cancelled, 4 stopped waiting (the execution goes on),
130 interrupted. RAYFLOW_STORE names the store where --store does not; RAYFLOW_DEBUG=1 adds tracebacks to errors."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: its words; None for those of the process.

    Returns:
        The exit code.
    """
    try:
        args = _parser().parse_args(argv)
    except SystemExit as ended:  # argparse has said what there is to say
        return int(ended.code or 0)
    screen = Screen(as_json=args.json, quiet=getattr(args, "quiet", False))
    try:
        with screen.guarded():
            code: int = args.command(args, screen)
    except RayflowError as error:
        screen.error(str(error))
        _debug()
        return code_of(error)
    except KeyboardInterrupt:
        if not screen.told:
            screen.error("interrupted")
        _debug()
        return INTERRUPTED
    except BrokenPipeError:
        # Python would meet it again when it flushes stdout at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return READER_GONE
    return code


def _debug() -> None:
    if os.environ.get("RAYFLOW_DEBUG", "") not in ("", "0"):
        traceback.print_exc()


# --- options ----------------------------------------------------------------------------------------------
def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="rayflow",
        description="Durable workflows for AI agents on Ray.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"rayflow {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_run(commands)
    _add_going_on(commands)
    _add_steering(commands)
    _add_fork(commands)
    _add_looking(commands)
    _add_deleting(commands)
    groups.add_schedules(commands)
    groups.add_locks(commands)
    groups.add_letters(commands)
    groups.add_pools(commands)
    _add_metrics(commands)
    _add_cluster(commands)
    return parser


def _add_run(commands: Commands[argparse.ArgumentParser]) -> None:
    parser = add_command(commands, "run", running.run, "start a workflow and wait for its result", engine=True)
    parser.add_argument("target", metavar="TARGET", help="module:object, path/file.py:object, or a saved workflow's id")
    parser.add_argument("--input", metavar="JSON", help="the input as JSON, @FILE to read it from there, @- from stdin")
    parser.add_argument("--id", help="the execution's id; running it again attaches to the same execution")
    parser.add_argument("--detach", action="store_true", help="do not wait")
    add_timeout(parser)
    begin = parser.add_mutually_exclusive_group()
    begin.add_argument("--delay", type=seconds, metavar="S", help="begin in S seconds; it is durable at once")
    begin.add_argument(
        "--start-at", type=moment, metavar="TIME", help="the same at a moment, as 2026-11-24T02:00+01:00"
    )
    parser.add_argument("--singleton", metavar="KEY", help="refuse if an unfinished execution has the same key")
    parser.add_argument(
        "--priority", type=int, choices=range(10), metavar="0-9", help="higher goes first; 5 if left out"
    )
    parser.add_argument("--checkpoints", choices=("sync", "async", "off"), help="when results are recorded")
    parser.add_argument("--quiet", action="store_true", help="print only the result")


def _add_going_on(commands: Commands[argparse.ArgumentParser]) -> None:
    parser = add_command(commands, "wait", running.wait, "wait for an execution", engine=True)
    parser.add_argument("id", metavar="ID")
    add_timeout(parser)
    parser.add_argument("--quiet", action="store_true", help="print only the result")
    parser = add_command(
        commands, "resume", running.resume, "let a paused, interrupted or failed execution go on", engine=True
    )
    parser.add_argument("id", metavar="ID")
    add_waiting(parser)
    parser = add_command(commands, "recover", running.recover, "take up all unfinished executions", engine=True)
    parser.add_argument(
        "--older-than", type=seconds, default=0.0, metavar="S", help="only those that nothing was done for in S seconds"
    )
    add_waiting(parser, "them")


def _add_steering(commands: Commands[argparse.ArgumentParser]) -> None:
    for name, command, about in (
        ("pause", control.pause, "pause an execution: running steps finish, no new one starts"),
        ("cancel", control.cancel, "cancel an execution"),
    ):
        parser = add_command(commands, name, command, about, engine=True)
        parser.add_argument("id", metavar="ID")
        parser.add_argument("--reason", default="", help="why, for those who look at it later")
    parser = add_command(commands, "signal", signals.signal, "send an execution a signal, durably", engine=True)
    parser.add_argument("id", metavar="ID")
    parser.add_argument("name", metavar="NAME", help="the signal's name")
    parser.add_argument("--payload", metavar="JSON", help="what it carries; @FILE to read it from there, @- from stdin")
    parser.add_argument("--key", help="another signal with the same key is the same, and is received once")
    parser.add_argument("--wait", action="store_true", help="wait for the end of the execution")
    add_timeout(parser)


def _add_fork(commands: Commands[argparse.ArgumentParser]) -> None:
    about = "start an execution that takes over what another one recorded, and does the rest again"
    parser = add_command(commands, "fork", forks.fork, about, engine=True)
    parser.add_argument("source", metavar="ID", help="the other execution, whatever its status; it stays as it is")
    parser.add_argument(
        "--before", type=step_name_or_number, required=True, metavar="STEP",
        help="the step from which on all is done again: its number, or its name for the first one of that name",
    )  # fmt: skip
    parser.add_argument("--id", metavar="NEW", help="the new execution's id")
    parser.add_argument("--input", metavar="JSON", help="another input, @FILE to read it from there, @- from stdin")
    parser.add_argument(
        "--state", action="append", default=[], metavar="KEY=JSON", help="set a key of its state; may be given again"
    )
    parser.add_argument("--version", metavar="V", help="go on with this saved version of the workflow")
    parser.add_argument(
        "--allow-reacquire", action="store_true",
        help="also where locks are held, children run or compensations are registered: those are done again",
    )  # fmt: skip
    add_waiting(parser)


def _add_looking(commands: Commands[argparse.ArgumentParser]) -> None:
    parser = add_command(commands, "list", looking.list_executions, "list executions, newest first")
    parser.add_argument("--status", choices=[str(status) for status in ExecutionStatus])
    parser.add_argument("--workflow", metavar="ID", help="only those of this workflow")
    parser.add_argument("--parent", metavar="ID", help="only the children of this execution, in the order of its calls")
    parser.add_argument("--schedule", metavar="NAME", help="only those that this schedule started")
    parser.add_argument(
        "--where",
        metavar="CONDITION",
        help="only those that meet it, such as \"attr.customer = 'acme'\" (docs/storage.md)",
    )
    parser.add_argument("--after", metavar="CURSOR", help="the page after this cursor, which the page before ends with")
    parser.add_argument("--limit", type=count, default=50, metavar="N", help="at most N on a page; 50 if left out")
    parser = add_command(commands, "show", looking.show, "show one execution")
    parser.add_argument("id", metavar="ID")
    parser.add_argument("--tree", action="store_true", help="its children, their children and so on, as a tree")
    detail = parser.add_mutually_exclusive_group()
    detail.add_argument("--steps", action="store_true", help="all steps, not only the last ones")
    detail.add_argument("--full", action="store_true", help="all steps with their results and tracebacks")
    parser = add_command(commands, "tasks", tasks.tasks, "show every attempt at an execution's steps", engine=True)
    parser.add_argument("id", metavar="ID")
    add_command(
        commands,
        "workflows",
        looking.workflows,
        "list workflows and their versions, each with its unfinished executions",
    )


def _add_deleting(commands: Commands[argparse.ArgumentParser]) -> None:
    about = "delete executions that are over: what their own retention says, or what is older than is said"
    parser = add_command(commands, "purge", purge.purge, about, engine=True)
    parser.add_argument(
        "--older-than", type=duration, metavar="AGE", help="those that ended so long ago: seconds, or as 12h, 30d, 4w"
    )
    over = [str(status) for status in ExecutionStatus if status.terminal]
    parser.add_argument("--status", action="append", default=[], choices=over, help="only those; may be given again")
    parser.add_argument("--workflow", metavar="ID", help="only those of this workflow")
    parser.add_argument("--dry-run", action="store_true", help="delete nothing, and say what would be; needs no engine")


def _add_metrics(commands: Commands[argparse.ArgumentParser]) -> None:
    parser = add_command(
        commands, "metrics", control.metrics, "print metrics, or serve them for Prometheus", engine=True
    )
    parser.add_argument("--port", type=port, metavar="N", help="serve them on this port until interrupted")
    parser.add_argument("--addr", default="127.0.0.1", help="the address to listen on; 127.0.0.1 if left out")


def _add_cluster(commands: Commands[argparse.ArgumentParser]) -> None:
    parser = add_command(commands, "up", control.up, "start a local Ray cluster", store=False)
    parser.add_argument(
        "--num-cpus", type=count, metavar="N", help="CPUs that it offers; those of the machine if left out"
    )
    parser.add_argument("--no-dashboard", action="store_true", help="without Ray's dashboard")
    add_command(commands, "down", control.down, "stop the local Ray cluster, and nothing else", store=False)
    add_command(commands, "status", control.status, "say whether the local Ray cluster runs", store=False)
