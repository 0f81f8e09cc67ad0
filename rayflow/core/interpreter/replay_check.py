"""Comparison of a replay with the journal, and the names of calls and events in messages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import zip_longest

from rayflow.core.events import (
    Entry,
    Event,
    RequestCompleted,
    SignalReceived,
    StageNote,
    StepCompleted,
    StepFailed,
    TimerFired,
    kind_and_name,
)
from rayflow.core.interpreter.effects import Effects
from rayflow.errors import NonDeterminismError

_KINDS = {"undo": "compensation", "child": "child workflow", "signal": "signal to", "lock": "lock"}


def compare(entry: Entry, effects: Effects) -> None:
    """Compare what the code did with the entry: names and numbers, not the values of arguments, results and state.

    Raises:
        NonDeterminismError: if something differs.
    """
    issued = tuple(dispatch.label for dispatch in effects.dispatches)
    if issued != entry.issued:
        position, expected, seen = _first_difference(entry.issued, issued)
        where = f" (number {position + 1} of this entry)" if seen else ""
        raise NonDeterminismError(
            expected=f"{_called(expected)}{where}" if expected else "no further step",
            seen=_called(seen) if seen else "no further step",
            position=entry.seq,
        )
    if tuple(effects.dropped) != entry.dropped:
        raise NonDeterminismError(
            expected=f"steps {list(entry.dropped)} to be dropped", seen=f"{effects.dropped}", position=entry.seq
        )
    for what, recorded, made in (
        ("compensation", tuple(map(repr, entry.compensations)), tuple(map(repr, effects.compensations))),
        ("patch", tuple(map(repr, entry.patches)), tuple(map(repr, effects.patches))),
        ("declared step", tuple(map(_stage, entry.stages)), tuple(map(_stage, effects.stages))),
        ("state key", _changes(entry.state), _changes(effects.state)),
    ):
        if recorded != made:
            _, expected, seen = _first_difference(recorded, made)
            raise NonDeterminismError(
                expected=f"{what} {expected}" if expected else f"no further {what}",
                seen=f"{what} {seen}" if seen else f"no further {what}",
                position=entry.seq,
            )


def _first_difference(recorded: Sequence[str], made: Sequence[str]) -> tuple[int, str, str]:
    """Return the position of the first difference, and both entries; "" where one list has ended."""
    pairs = enumerate(zip_longest(recorded, made, fillvalue=""))
    return next((position, expected, seen) for position, (expected, seen) in pairs if expected != seen)


def _stage(note: StageNote) -> str:
    return f"{note.index} {note.name!r} {note.status}"


def _changes(state: Mapping[str, bytes | None]) -> tuple[str, ...]:
    """Return the changed keys. A large value is recorded as a reference, so values are not compared."""
    return tuple(f"{key!r} {'deleted' if value is None else 'set'}" for key, value in state.items())


def _called(labelled: str) -> str:
    kind, name = kind_and_name(labelled)
    return f"{_KINDS.get(kind, kind)} {name!r}"


def named(seq: int, labelled: str) -> str:
    """Return a call as messages show it: kind, number and name."""
    kind, name = kind_and_name(labelled)
    return f"{_KINDS.get(kind, kind)} {seq} {name!r}"


def describe(event: Event) -> str:
    """Return an event as messages show it."""
    match event:
        case StepCompleted() | StepFailed() | RequestCompleted():
            return named(event.step, event.name)
        case SignalReceived():
            return f"signal {event.name!r}"
        case TimerFired():
            return f"timer {event.timer}"
        case _:
            return type(event).__name__
