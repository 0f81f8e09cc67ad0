"""The commands and their options, and how a command ends."""

from __future__ import annotations

import argparse
import math
import os
import sys
import traceback
from collections.abc import Callable, Sequence

from rayflow import __version__
from rayflow.cli import letters, looking, pools, running, steering, tasks
from rayflow.cli.exits import INTERRUPTED, READER_GONE, code_of
from rayflow.cli.screen import Screen
from rayflow.definition.options import RateLimit
from rayflow.errors import RayflowError
from rayflow.ids import ExecutionStatus

Command = Callable[[argparse.Namespace, Screen], int]

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
    _add_waiting(commands)
    _add_steering(commands)
    _add_looking(commands)
    _add_letters(commands)
    _add_pools(commands)
    _add_metrics(commands)
    _add_cluster(commands)
    return parser


_Commands = argparse._SubParsersAction  # noqa: SLF001 - argparse has no other name for what add_subparsers() answers


def _command(
    commands: _Commands[argparse.ArgumentParser],
    name: str,
    command: Command,
    about: str,
    *,
    store: bool = True,
    engine: bool = False,
) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=about, description=f"{about[0].upper()}{about[1:]}.")
    parser.set_defaults(command=command, local=False, address=None, store=None)
    parser.add_argument("--json", action="store_true", help="answer with one JSON document on stdout")
    if store:
        parser.add_argument("--store", metavar="URL", help="the store, such as sqlite:///flows.db")
    if engine:
        parser.add_argument("--address", metavar="ADDR", help="the Ray cluster to join, as host:port")
        parser.add_argument("--local", action="store_true", help="run in this process, without Ray")
    return parser


def _add_run(commands: _Commands[argparse.ArgumentParser]) -> None:
    parser = _command(commands, "run", running.run, "start a workflow and wait for its result", engine=True)
    parser.add_argument("target", metavar="TARGET", help="module:object, path/file.py:object, or a saved workflow's id")
    parser.add_argument("--input", metavar="JSON", help="the input as JSON, @FILE to read it from there, @- from stdin")
    parser.add_argument("--id", help="the execution's id; running it again attaches to the same execution")
    parser.add_argument("--detach", action="store_true", help="do not wait")
    parser.add_argument("--timeout", type=_seconds, metavar="S", help="stop waiting after S seconds; it goes on")
    parser.add_argument(
        "--priority", type=int, choices=range(10), metavar="0-9", help="higher goes first; 5 if left out"
    )
    parser.add_argument("--checkpoints", choices=("sync", "async", "off"), help="when results are recorded")
    parser.add_argument("--quiet", action="store_true", help="print only the result")


def _add_waiting(commands: _Commands[argparse.ArgumentParser]) -> None:
    parser = _command(commands, "wait", running.wait, "wait for an execution", engine=True)
    parser.add_argument("id", metavar="ID")
    parser.add_argument("--timeout", type=_seconds, metavar="S", help="stop waiting after S seconds; it goes on")
    parser.add_argument("--quiet", action="store_true", help="print only the result")
    parser = _command(
        commands, "resume", running.resume, "let a paused, interrupted or failed execution go on", engine=True
    )
    parser.add_argument("id", metavar="ID")
    parser.add_argument("--wait", action="store_true", help="wait for it; with --local that is a matter of course")
    parser.add_argument("--timeout", type=_seconds, metavar="S", help="stop waiting after S seconds; it goes on")
    parser = _command(commands, "recover", running.recover, "take up all unfinished executions", engine=True)
    parser.add_argument("--wait", action="store_true", help="wait for them; with --local that is a matter of course")
    parser.add_argument("--timeout", type=_seconds, metavar="S", help="stop waiting after S seconds; they go on")


def _add_steering(commands: _Commands[argparse.ArgumentParser]) -> None:
    for name, command, about in (
        ("pause", steering.pause, "pause an execution: running steps finish, no new one starts"),
        ("cancel", steering.cancel, "cancel an execution"),
    ):
        parser = _command(commands, name, command, about, engine=True)
        parser.add_argument("id", metavar="ID")
        parser.add_argument("--reason", default="", help="why, for those who look at it later")


def _add_looking(commands: _Commands[argparse.ArgumentParser]) -> None:
    parser = _command(commands, "list", looking.list_executions, "list executions, newest first")
    parser.add_argument("--status", choices=[str(status) for status in ExecutionStatus])
    parser.add_argument("--workflow", metavar="ID", help="only those of this workflow")
    parser.add_argument("--limit", type=_count, default=50, metavar="N", help="at most so many; 50 if left out")
    parser = _command(commands, "show", looking.show, "show one execution")
    parser.add_argument("id", metavar="ID")
    detail = parser.add_mutually_exclusive_group()
    detail.add_argument("--steps", action="store_true", help="all steps, not only the last ones")
    detail.add_argument("--full", action="store_true", help="all steps with their results and tracebacks")
    parser = _command(commands, "tasks", tasks.tasks, "show every attempt at an execution's steps", engine=True)
    parser.add_argument("id", metavar="ID")
    _command(commands, "workflows", looking.workflows, "list the saved workflows")


def _add_letters(commands: _Commands[argparse.ArgumentParser]) -> None:
    about = "look at steps that failed for good, try them again, or discard them"
    group = commands.add_parser("dlq", help=about, description=f"{about[0].upper()}{about[1:]}.")
    actions = group.add_subparsers(required=True, metavar="ACTION")
    parser = _command(actions, "list", letters.list_letters, "list dead letters, newest first")
    parser.add_argument("--workflow", metavar="ID", help="only those of this workflow")
    parser.add_argument("--execution", metavar="ID", help="only those of this execution")
    parser.add_argument("--limit", type=_count, default=50, metavar="N", help="at most so many; 50 if left out")
    for name, command, about, engine in (
        ("show", letters.show, "show a dead letter, with its input and all its attempts", False),
        ("requeue", letters.requeue, "try the step again and let its execution go on", True),
        ("discard", letters.discard, "delete a dead letter; its execution stays as it is", True),
    ):
        parser = _command(actions, name, command, about, engine=engine)
        parser.add_argument("id", metavar="EXECUTION", help="the execution's id")
        parser.add_argument("step", metavar="STEP", type=_count, help="the step's number")
        if name == "requeue":
            parser.add_argument(
                "--wait", action="store_true", help="wait for it; with --local that is a matter of course"
            )
            parser.add_argument(
                "--timeout", type=_seconds, metavar="S", help="stop waiting after S seconds; it goes on"
            )


def _add_pools(commands: _Commands[argparse.ArgumentParser]) -> None:
    about = "look at worker pools, make them, scale, drain or delete them"
    group = commands.add_parser("pool", help=about, description=f"{about[0].upper()}{about[1:]}.")
    actions = group.add_subparsers(required=True, metavar="ACTION")
    _pool_command(actions, "list", pools.list_pools, "show what each pool does now", name=False)
    _add_pool_options(_pool_command(actions, "create", pools.create, "make a pool"))
    parser = _pool_command(actions, "scale", pools.scale, "change a pool's size while it runs; no task is lost")
    parser.add_argument("workers", type=_whole, nargs="?", metavar="N", help="so many workers in each code environment")
    parser.add_argument("--min", dest="min_workers", type=_whole, metavar="N", help="scale by the work: at least N")
    parser.add_argument("--max", dest="max_workers", type=_count, metavar="N", help="scale by the work: at most N")
    parser = _pool_command(actions, "drain", pools.drain, "stop a pool's workers, each once its tasks are done")
    parser.add_argument(
        "--timeout", type=_seconds, metavar="S", help="stop waiting after S seconds; they go on to stop"
    )
    parser = _pool_command(actions, "delete", pools.delete, "delete a pool with its workers")
    parser.add_argument("--force", action="store_true", help="also while tasks wait for it or run in it")


def _pool_command(
    actions: _Commands[argparse.ArgumentParser], action: str, command: Command, about: str, *, name: bool = True
) -> argparse.ArgumentParser:
    parser = _command(actions, action, command, about)
    parser.add_argument("--address", metavar="ADDR", help="the Ray cluster to join, as host:port")
    parser.add_argument("--local", action="store_true", help=argparse.SUPPRESS)  # to say why it cannot be
    if name:
        parser.add_argument("name", metavar="NAME", help="the pool's name")
    return parser


def _add_pool_options(parser: argparse.ArgumentParser) -> None:
    size = parser.add_argument_group("size, in each code environment")
    size.add_argument("--workers", type=_whole, metavar="N", help="workers; 4 if left out")
    size.add_argument("--concurrency", type=_count, metavar="N", help="tasks that a worker runs at once; 4 if left out")
    size.add_argument("--min-workers", type=_whole, metavar="N", help="scale by the work that waits: at least so many")
    size.add_argument("--max-workers", type=_count, metavar="N", help="scale by the work that waits: at most so many")
    size.add_argument("--idle-timeout", type=_seconds, metavar="S", help="stop a spare worker idle for S seconds; 30")
    limits = parser.add_argument_group("limits")
    limits.add_argument("--queue-limit", type=_count, metavar="N", help="tasks that may wait; any number if left out")
    limits.add_argument("--max-ray-tasks", type=_count, metavar="N", help="Ray tasks of their own at once; 100")
    limits.add_argument("--rate", type=_rate, metavar="N/SECONDS", help="starts of tasks at most, such as 50/1")
    worker = parser.add_argument_group("each worker")
    worker.add_argument("--num-cpus", type=_amount, metavar="X", help="CPUs that Ray reserves for it; 0.01 if left out")
    worker.add_argument("--num-gpus", type=_amount, metavar="X", help="GPUs that Ray reserves for it; 0 if left out")
    worker.add_argument("--memory", type=_count, metavar="BYTES", help="memory that Ray reserves for it")
    worker.add_argument("--resources", metavar="JSON", help="custom resources that Ray reserves for it, as an object")
    worker.add_argument(
        "--runtime-env", metavar="JSON", help="Ray's runtime environment, on top of the code environment"
    )
    worker.add_argument("--setup", metavar="MODULE:FUNCTION", help="called once before it takes work")
    worker.add_argument(
        "--max-tasks", type=_count, metavar="N", help="replace it after so many tasks; never if left out"
    )
    worker.add_argument(
        "--drain-timeout", type=_amount, metavar="S", help="seconds to finish its tasks when it is to stop; 300"
    )
    worker.add_argument(
        "--stop-grace", type=_amount, metavar="S", help="seconds that a step which is told to stop may take; 5"
    )
    worker.add_argument("--start-timeout", type=_seconds, metavar="S", help="seconds to start, with its setup; 600")


def _add_metrics(commands: _Commands[argparse.ArgumentParser]) -> None:
    parser = _command(commands, "metrics", steering.metrics, "print metrics, or serve them for Prometheus", engine=True)
    parser.add_argument("--port", type=_port, metavar="N", help="serve them on this port until interrupted")
    parser.add_argument("--addr", default="127.0.0.1", help="the address to listen on; 127.0.0.1 if left out")


def _add_cluster(commands: _Commands[argparse.ArgumentParser]) -> None:
    parser = _command(commands, "up", steering.up, "start a local Ray cluster", store=False)
    parser.add_argument(
        "--num-cpus", type=_count, metavar="N", help="CPUs that it offers; those of the machine if left out"
    )
    parser.add_argument("--no-dashboard", action="store_true", help="without Ray's dashboard")
    _command(commands, "down", steering.down, "stop the local Ray cluster, and nothing else", store=False)
    _command(commands, "status", steering.status, "say whether the local Ray cluster runs", store=False)


def _seconds(text: str) -> float:
    value = float(text)
    if not (value > 0 and math.isfinite(value)):
        raise argparse.ArgumentTypeError(f"needs more than 0 seconds, not {text}")
    return value


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"needs at least 1, not {text}")
    return value


def _whole(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"needs at least 0, not {text}")
    return value


def _amount(text: str) -> float:
    value = float(text)
    if not (value >= 0 and math.isfinite(value)):
        raise argparse.ArgumentTypeError(f"needs at least 0, not {text}")
    return value


def _rate(text: str) -> RateLimit:
    count, _, per = text.partition("/")
    try:
        return RateLimit(count=_count(count), per=_seconds(per))
    except (ValueError, argparse.ArgumentTypeError) as error:
        raise argparse.ArgumentTypeError(f"needs starts and seconds, such as 50/1, not {text!r}") from error


def _port(text: str) -> int:
    value = int(text)
    if not 0 <= value < 65536:
        raise argparse.ArgumentTypeError(f"a port is 0 to 65535, not {text}")
    return value


# argparse names a type in its own message by this.
_seconds.__name__, _count.__name__, _port.__name__ = "number of seconds", "number", "port"
_whole.__name__, _amount.__name__ = "number", "number"
