"""Building blocks of the parsers: commands with their common options, and the types of option values."""

from __future__ import annotations

import argparse
import datetime as dt
import difflib
import json
import math
from collections.abc import Callable
from typing import Any, TypeAlias, TypeVar

from rayflow.cli.screen import Screen
from rayflow.definition.options import RateLimit
from rayflow.definition.schedule import HORIZON

N = TypeVar("N", int, float)

Command = Callable[[argparse.Namespace, Screen], int]

# argparse has no public names for what add_subparsers() and add_argument_group() return.
Subparsers = argparse._SubParsersAction  # noqa: SLF001
Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"  # noqa: SLF001
Options: TypeAlias = "argparse._ActionsContainer"  # noqa: SLF001

#: Help of positional arguments that several commands have.
_POSITIONAL = {"id": "the execution's id", "name": "the name"}

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}


class Parser(argparse.ArgumentParser):
    """Argument parser that suggests a command for a misspelt one."""

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if not isinstance(action, Subparsers) or value in action.choices:
            super()._check_value(action, value)
            return
        close = difflib.get_close_matches(str(value), action.choices, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"choose from {', '.join(action.choices)}"
        raise argparse.ArgumentError(None, f"unknown {str(action.metavar).lower()} {value!r}; {hint}")


def add_command(
    commands: Commands,
    name: str,
    command: Command,
    about: str,
    *positional: str,
    store: bool = True,
    engine: bool = False,
) -> argparse.ArgumentParser:
    """Add a command with its common options.

    Args:
        commands: the parent's subparsers.
        name: the command's name.
        command: the function that runs it.
        about: the help text, a phrase in the imperative.
        positional: of "id" and "name", the positional arguments that it takes.
        store: whether the command takes ``--store``.
        engine: whether the command opens an engine, on a cluster or in this process.
    """
    parser = commands.add_parser(name, help=about, description=f"{about[0].upper()}{about[1:]}.")
    parser.set_defaults(command=command, local=False, address=None, store=None, take_over=False)
    for argument in positional:
        parser.add_argument(argument, metavar=argument.upper(), help=_POSITIONAL[argument])
    parser.add_argument("--json", action="store_true", help="print one JSON document on stdout")
    if store:
        parser.add_argument("--store", metavar="URL", help="the store, such as sqlite:///flows.db")
    if engine:
        add_address(parser)
        parser.add_argument("--local", action="store_true", help="run in this process, without Ray")
        parser.add_argument(
            "--take-over", action="store_true", help="take the store over from the cluster or process that writes it"
        )
    return parser


def add_group(commands: Commands, name: str, about: str) -> Commands:
    """Add a command that has subcommands, and return their place."""
    group = commands.add_parser(name, help=about, description=f"{about[0].upper()}{about[1:]}.")
    return group.add_subparsers(required=True, metavar="ACTION")


def add_address(parser: argparse.ArgumentParser) -> None:
    """Add ``--address``."""
    parser.add_argument("--address", metavar="ADDR", help="the Ray cluster to join, as host:port")


def add_wait(parser: argparse.ArgumentParser) -> None:
    """Add ``--wait`` and ``--timeout`` to a command that waits only on request or with ``--local``."""
    parser.add_argument("--wait", action="store_true", help="wait for the end; always so with --local")
    add_timeout(parser)


def add_timeout(parser: argparse.ArgumentParser, then: str = "the execution continues") -> None:
    """Add ``--timeout``."""
    parser.add_argument("--timeout", type=seconds, metavar="S", help=f"stop waiting after S seconds; {then}")


def add_input(parser: Options, about: str = "the input") -> None:
    """Add ``--input``."""
    parser.add_argument("--input", metavar="JSON", help=f"{about} as JSON; @FILE reads a file, @- reads stdin")


def add_priority(parser: Options) -> None:
    """Add ``--priority``."""
    parser.add_argument("--priority", type=int, choices=range(10), metavar="0-9", help="higher runs first; default 5")


def add_limit(parser: argparse.ArgumentParser, about: str = "show at most N", most: int = 50) -> None:
    """Add ``--limit``."""
    parser.add_argument("--limit", type=count, default=most, metavar="N", help=f"{about}; default {most}")


def add_workflow(parser: argparse.ArgumentParser) -> None:
    """Add ``--workflow``."""
    parser.add_argument("--workflow", metavar="ID", help="only executions of this workflow")


def seconds(text: str) -> float:
    """Parse a positive number of seconds."""
    value = float(text)
    if not (value > 0 and math.isfinite(value)):
        raise argparse.ArgumentTypeError(f"needs more than 0 seconds, not {text}")
    return value


def duration(text: str) -> float:
    """Parse seconds, or a number with a unit: ``90s``, ``15m``, ``12h``, ``30d``, ``4w``."""
    unit = _UNITS.get(text[-1:])
    try:
        value = float(text if unit is None else text[:-1]) * (unit or 1)
    except ValueError:
        value = math.nan
    if not (value >= 0 and math.isfinite(value)):
        raise argparse.ArgumentTypeError(f"needs seconds, or a number with s, m, h, d or w, such as 30d, not {text!r}")
    return value


def dead_letter_number(text: str) -> int:
    """Parse the number of a dead letter: its step's, or a negative one for a rejected signal."""
    value = int(text)
    if value == 0:
        raise argparse.ArgumentTypeError(f"a step's number is 1 or more, a signal's -1 or less, not {text}")
    return value


def _at_least(least: int, number: Callable[[str], N]) -> Callable[[str], N]:
    """Return a parser of finite numbers with a lower bound."""

    def parse(text: str) -> N:
        value = number(text)
        if not (value >= least and math.isfinite(value)):
            raise argparse.ArgumentTypeError(f"needs at least {least}, not {text}")
        return value

    parse.__name__ = "number"
    return parse


#: Whole numbers from 1 and from 0, and any number from 0.
count, whole, amount = _at_least(1, int), _at_least(0, int), _at_least(0, float)


def step_name_or_number(text: str) -> str | int:
    """Parse a step of an execution: its number, from 1, or its name."""
    return count(text) if text.lstrip("-").isdecimal() else text


def rate(text: str) -> RateLimit:
    """Parse starts per seconds, such as ``50/1``."""
    starts, _, per = text.partition("/")
    try:
        return RateLimit(count=count(starts), per=seconds(per))
    except (ValueError, argparse.ArgumentTypeError) as error:
        raise argparse.ArgumentTypeError(f"needs starts and seconds, such as 50/1, not {text!r}") from error


def json_object(text: str) -> dict[str, Any]:
    """Parse a JSON object."""
    needs = "needs a JSON object with names and values, such as '{\"a\": 1}'"
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise argparse.ArgumentTypeError(
            f"{needs}; {text!r} is not JSON: {error.msg} in column {error.colno}"
        ) from None
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError(f"{needs}, not {text}")
    return value


def port(text: str) -> int:
    """Parse a TCP port."""
    value = int(text)
    if not 0 <= value < 65536:
        raise argparse.ArgumentTypeError(f"a port is 0 to 65535, not {text}")
    return value


def moment(text: str) -> float:
    """Parse a date and time with its UTC offset, or seconds since the epoch, into the latter."""
    try:
        value = float(text)
    except ValueError:
        value = _iso_moment(text)
    if not 0 <= value < HORIZON:
        raise argparse.ArgumentTypeError(f"{text} is not between 1970 and 2999; a number counts seconds since 1970")
    return value


def _iso_moment(text: str) -> float:
    try:
        found = dt.datetime.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"needs a time such as 2026-11-24T02:00:00+01:00, or seconds since the epoch, not {text!r}"
        ) from None
    if found.utcoffset() is None:
        raise argparse.ArgumentTypeError(
            f"{text} has no UTC offset; with the time zone of this machine it is {found.astimezone().isoformat()}"
        )
    return found.timestamp()


# argparse names a type in its own messages by its __name__.
seconds.__name__ = "number of seconds"
dead_letter_number.__name__ = "number"
