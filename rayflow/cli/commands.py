"""Parser of all commands, and how a command ends."""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from collections.abc import Sequence

from rayflow import __version__
from rayflow.cli import cluster, dead_letters, executions, locks, pools, purge, schedules, show
from rayflow.cli.exit_codes import INTERRUPTED, READER_GONE, code_of
from rayflow.cli.options import Parser
from rayflow.cli.screen import Screen
from rayflow.errors import RayflowError

_EPILOG = """exit codes: 0 completed, 1 failed, 2 wrong usage, 3 cancelled, 4 stopped waiting (the execution continues),
130 interrupted. RAYFLOW_STORE is the default of --store; RAYFLOW_DEBUG=1 adds tracebacks to errors."""

#: Modules with commands, in the order of ``rayflow --help``.
_MODULES = (executions, show, purge, schedules, locks, dead_letters, pools, cluster)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: the arguments; None for those of the process.

    Returns:
        The exit code.
    """
    try:
        args = _parser().parse_args(argv)
    except SystemExit as ended:  # argparse has printed its message
        return int(ended.code or 0)
    screen = Screen(as_json=args.json, quiet=getattr(args, "quiet", False))
    try:
        with screen.protected_stdout():
            code: int = args.command(args, screen)
    except RayflowError as error:
        screen.error(str(error))
        _debug()
        return code_of(error)
    except KeyboardInterrupt:
        if not screen.has_error:
            screen.error("interrupted")
        _debug()
        return INTERRUPTED
    except BrokenPipeError:
        # Python would raise it again when it flushes stdout at its exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return READER_GONE
    return code


def _debug() -> None:
    if os.environ.get("RAYFLOW_DEBUG", "") not in ("", "0"):
        traceback.print_exc()


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="rayflow",
        description="Durable workflows for AI agents on Ray.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"rayflow {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for module in _MODULES:
        module.add_commands(commands)
    return parser
