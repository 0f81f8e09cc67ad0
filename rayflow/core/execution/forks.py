"""Forks: how much of a journal another execution takes over."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from rayflow.core.events import (
    CancelRequested,
    Continued,
    Entry,
    Paused,
    RequestCompleted,
    RequestsReissued,
    Resumed,
    SignalReceived,
    StepCompleted,
    StepFailed,
    kind_and_name,
)
from rayflow.core.execution.journal import effective
from rayflow.errors import InvalidTransition

#: What is applied again by way of the inbox.
Carried = StepCompleted | StepFailed | RequestCompleted | SignalReceived | CancelRequested

#: Events of the other execution that mean nothing to the fork.
_LEFT_OUT = (Paused, Resumed, RequestsReissued)


@dataclass(frozen=True, slots=True)
class ForkPlan:
    """What a fork begins with.

    Args:
        entries: the entries that it takes over, numbered anew from 1.
        to: the last position that was taken over.
        before: the number of the call from which on everything is done again.
        carried: what happened next and is applied again: what led to the call, then recorded results of calls that
            come before it. Timers, and the beginning, come again by themselves.
        issued: how many calls the entries have issued.
        inbox: the highest number of a signal that they have received.
        open: what the entries leave open, in words: locks that are held, children that run, compensations.
    """

    entries: tuple[Entry, ...]
    to: int
    before: int
    carried: tuple[Carried, ...]
    issued: int
    inbox: int
    open: tuple[str, ...]


def plan_fork(execution_id: str, entries: Sequence[Entry], before: str | int) -> ForkPlan:
    """Take over what had happened when a call was about to be issued, so that it and what follows is done again.

    The event whose application issued the call is applied again, so that other arguments, another state or other code
    have their say in what it leads to.

    Args:
        execution_id: whose journal, for errors.
        entries: the whole journal.
        before: the number of that call, or its name: then the first one of that name.

    Raises:
        InvalidTransition: there is no such call.
    """
    counted = [entry for entry in effective(entries) if not isinstance(entry.event, _LEFT_OUT)]
    names = [name for entry in counted for name in entry.issued]
    number = _number(names, before)
    if number is None:
        known = list(dict.fromkeys(kind_and_name(name)[1] for name in names))
        raise InvalidTransition(
            execution_id,
            status=f"not at call {before!r}",
            action="fork",
            hint=f"Its calls so far ({len(names)}): {', '.join(known[:20]) or 'none'}",
        )
    cut, issued = 0, 0
    while issued + len(counted[cut].issued) < number:
        issued += len(counted[cut].issued)
        cut += 1
    kept = tuple(replace(entry, seq=seq) for seq, entry in enumerate(counted[:cut], start=1))
    first = counted[cut].event
    carried = (first,) if isinstance(first, Carried) and not _grants(first) else ()
    results = (e.event for e in counted[cut + 1 :] if isinstance(e.event, StepCompleted) and e.event.step < number)
    to = counted[cut - 1].seq if cut else 0
    carries = (*carried, *results)
    return ForkPlan(kept, to, number, carries, issued, _last_signal(kept), _open(kept, names[:issued], carried))


def _number(names: Sequence[str], before: str | int) -> int | None:
    if isinstance(before, int):
        return before if 0 < before <= len(names) else None
    return next((number for number, name in enumerate(names, start=1) if kind_and_name(name)[1] == before), None)


def _last_signal(entries: Sequence[Entry]) -> int:
    received = [entry.event for entry in entries if isinstance(entry.event, SignalReceived)]
    before = [signal for entry in entries if isinstance(entry.event, Continued) for signal in entry.event.signals]
    return max((signal.number for signal in (*received, *before)), default=0)


def _grants(event: Carried) -> bool:
    """Whether it grants a lock: that one was the other execution's, and a fork has to claim it itself."""
    return isinstance(event, RequestCompleted) and kind_and_name(event.name)[0] == "lock"


def _open(entries: Sequence[Entry], names: Sequence[str], carried: Sequence[Carried]) -> tuple[str, ...]:
    answered = {event.step for event in carried if isinstance(event, RequestCompleted)}
    dropped: set[int] = set()
    undos: list[str] = []
    for entry in entries:
        if isinstance(entry.event, StepCompleted | StepFailed | RequestCompleted):
            answered.add(entry.event.step)
        dropped.update(entry.dropped)
        undos.extend(entry.undos)
    found = []
    for seq, labelled in enumerate(names, start=1):
        kind, name = kind_and_name(labelled)
        if seq not in dropped and (kind == "lock" or (kind == "child" and seq not in answered)):
            found.append(f"{kind} {name!r}")
    return (*found, *(f"compensation {name!r}" for name in undos))
