"""What the parsers of all commands are made of: a command with its common options, and the kinds of values."""

from __future__ import annotations

import argparse
import datetime as dt
import math
from collections.abc import Callable

from rayflow.cli.screen import Screen
from rayflow.definition.options import RateLimit
from rayflow.definition.schedule import HORIZON

Command = Callable[[argparse.Namespace, Screen], int]

Commands = argparse._SubParsersAction  # noqa: SLF001 - argparse has no other name for what add_subparsers() answers


def add_command(
    commands: Commands[argparse.ArgumentParser],
    name: str,
    command: Command,
    about: str,
    *,
    store: bool = True,
    engine: bool = False,
) -> argparse.ArgumentParser:
    """A command, with the options that all have.

    Args:
        commands: where it belongs.
        name: its word.
        command: what it does.
        about: that in words, for its help.
        store: whether it has a store.
        engine: whether it has an engine, on a cluster or in this process.
    """
    parser = commands.add_parser(name, help=about, description=f"{about[0].upper()}{about[1:]}.")
    parser.set_defaults(command=command, local=False, address=None, store=None, take_over=False)
    parser.add_argument("--json", action="store_true", help="answer with one JSON document on stdout")
    if store:
        parser.add_argument("--store", metavar="URL", help="the store, such as sqlite:///flows.db")
    if engine:
        parser.add_argument("--address", metavar="ADDR", help="the Ray cluster to join, as host:port")
        parser.add_argument("--local", action="store_true", help="run in this process, without Ray")
        parser.add_argument(
            "--take-over", action="store_true",
            help="take the store from another cluster or process that is still at work on it; that one stops",
        )  # fmt: skip
    return parser


def add_group(commands: Commands[argparse.ArgumentParser], name: str, about: str) -> Commands[argparse.ArgumentParser]:
    """A command that has commands of its own; answers where they belong."""
    group = commands.add_parser(name, help=about, description=f"{about[0].upper()}{about[1:]}.")
    return group.add_subparsers(required=True, metavar="ACTION")


def add_waiting(parser: argparse.ArgumentParser, whom: str = "it") -> None:
    """The options ``--wait`` and ``--timeout`` of a command that goes on without waiting, but with ``--local``."""
    goes = "they go" if whom == "them" else "it goes"
    parser.add_argument("--wait", action="store_true", help=f"wait for {whom}; with --local that is a matter of course")
    add_timeout(parser, f"{goes} on")


def add_timeout(parser: argparse.ArgumentParser, then: str = "it goes on") -> None:
    """The option ``--timeout`` of a command that waits."""
    parser.add_argument("--timeout", type=seconds, metavar="S", help=f"stop waiting after S seconds; {then}")


# --- kinds of values ----------------------------------------------------------------------------------------
def seconds(text: str) -> float:
    """More than no time."""
    value = float(text)
    if not (value > 0 and math.isfinite(value)):
        raise argparse.ArgumentTypeError(f"needs more than 0 seconds, not {text}")
    return value


def duration(text: str) -> float:
    """Seconds, or a number with a unit: ``90s``, ``15m``, ``12h``, ``30d``, ``4w``."""
    unit = _UNITS.get(text[-1:])
    try:
        value = float(text if unit is None else text[:-1]) * (unit or 1)
    except ValueError:
        value = math.nan
    if not (value >= 0 and math.isfinite(value)):
        raise argparse.ArgumentTypeError(f"needs seconds, or a number with s, m, h, d or w, such as 30d, not {text!r}")
    return value


_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}


def count(text: str) -> int:
    """A whole number from 1."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"needs at least 1, not {text}")
    return value


def whole(text: str) -> int:
    """A whole number from 0."""
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"needs at least 0, not {text}")
    return value


def amount(text: str) -> float:
    """A number from 0."""
    value = float(text)
    if not (value >= 0 and math.isfinite(value)):
        raise argparse.ArgumentTypeError(f"needs at least 0, not {text}")
    return value


def letter_number(text: str) -> int:
    """The number of a dead letter: that of its step, or a negative one for a signal that did not fit."""
    value = int(text)
    if value == 0:
        raise argparse.ArgumentTypeError(f"a step's number is 1 or more, a signal's -1 or less, not {text}")
    return value


def step_name_or_number(text: str) -> str | int:
    """A step of an execution: its number, from 1, or its name."""
    return count(text) if text.lstrip("-").isdecimal() else text


def rate(text: str) -> RateLimit:
    """Starts in seconds, as in ``50/1``."""
    starts, _, per = text.partition("/")
    try:
        return RateLimit(count=count(starts), per=seconds(per))
    except (ValueError, argparse.ArgumentTypeError) as error:
        raise argparse.ArgumentTypeError(f"needs starts and seconds, such as 50/1, not {text!r}") from error


def port(text: str) -> int:
    """A port of TCP."""
    value = int(text)
    if not 0 <= value < 65536:
        raise argparse.ArgumentTypeError(f"a port is 0 to 65535, not {text}")
    return value


def moment(text: str) -> float:
    """A date and time with its offset from UTC, or seconds since the epoch, which is what is answered."""
    try:
        value = float(text)
    except ValueError:
        value = _moment_of(text)
    if not 0 <= value < HORIZON:
        raise argparse.ArgumentTypeError(f"{text} is no moment from 1970 to 2999; in numbers it is seconds, not less")
    return value


def _moment_of(text: str) -> float:
    try:
        found = dt.datetime.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"needs a moment such as 2026-11-24T02:00:00+01:00, or seconds since the epoch, not {text!r}"
        ) from None
    if found.utcoffset() is None:
        here = found.astimezone()
        raise argparse.ArgumentTypeError(
            f"{text} has no offset from UTC, so it is another moment on each machine; by this one's clock it is "
            f"{here.isoformat()}"
        )
    return found.timestamp()


# argparse names a type in its own message by this.
seconds.__name__ = "number of seconds"
count.__name__ = whole.__name__ = amount.__name__ = letter_number.__name__ = "number"
