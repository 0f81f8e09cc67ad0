"""The commands and their options, and how a command ends."""

from __future__ import annotations

import argparse
import math
import os
import sys
import traceback
from collections.abc import Callable, Sequence

from rayflow import __version__
from rayflow.cli import looking, running, steering
from rayflow.cli.exits import INTERRUPTED, READER_GONE, code_of
from rayflow.cli.screen import Screen
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
    _command(commands, "workflows", looking.workflows, "list the saved workflows")


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


def _port(text: str) -> int:
    value = int(text)
    if not 0 <= value < 65536:
        raise argparse.ArgumentTypeError(f"a port is 0 to 65535, not {text}")
    return value


# argparse names a type in its own message by this.
_seconds.__name__, _count.__name__, _port.__name__ = "number of seconds", "number", "port"
