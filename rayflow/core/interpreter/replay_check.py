"""Whether a replay does what the journal recorded, and how its parts are called in messages."""

from __future__ import annotations

from rayflow.core.events import (
    Entry,
    Event,
    RequestCompleted,
    SignalReceived,
    StepCompleted,
    StepFailed,
    TimerFired,
    kind_and_name,
)
from rayflow.core.interpreter.effects import Effects
from rayflow.errors import NonDeterminismError

_KINDS = {"undo": "compensation", "child": "child workflow", "signal": "signal to", "lock": "lock"}


def compare(entry: Entry, effects: Effects) -> None:
    """Compare what the code did with what it did when the entry was recorded.

    Raises:
        NonDeterminismError: it is not the same.
    """
    issued = tuple(d.label for d in effects.dispatches)
    for position, (expected, seen) in enumerate(zip(entry.issued, issued, strict=False)):
        if expected != seen:
            raise NonDeterminismError(
                expected=f"{_called(expected)} (number {position + 1} of this entry)",
                seen=_called(seen),
                position=entry.seq,
            )
    if len(issued) != len(entry.issued):
        shorter = min(len(issued), len(entry.issued))
        expected = _called(entry.issued[shorter]) if len(entry.issued) > shorter else "no further step"
        seen = _called(issued[shorter]) if len(issued) > shorter else "no further step"
        raise NonDeterminismError(expected=expected, seen=seen, position=entry.seq)
    if tuple(effects.dropped) != entry.dropped:
        raise NonDeterminismError(
            expected=f"steps {list(entry.dropped)} to be given up", seen=f"{effects.dropped}", position=entry.seq
        )


def _called(labelled: str) -> str:
    kind, name = kind_and_name(labelled)
    return f"{_KINDS.get(kind, kind)} {name!r}"


def named(seq: int, labelled: str) -> str:
    """A call in a message: its kind, number and name."""
    kind, name = kind_and_name(labelled)
    return f"{_KINDS.get(kind, kind)} {seq} {name!r}"


def describe(event: Event) -> str:
    """An event in a message."""
    match event:
        case StepCompleted() | StepFailed() | RequestCompleted():
            return named(event.step, event.name)
        case SignalReceived():
            return f"signal {event.name!r}"
        case TimerFired():
            return f"timer {event.timer}"
        case _:
            return type(event).__name__
