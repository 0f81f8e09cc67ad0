"""Forks: which part of a journal another execution copies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from rayflow.core.events import (
    EVENT_TRAITS,
    CancelRequested,
    Continued,
    Entry,
    RequestCompleted,
    SignalReceived,
    StepCompleted,
    StepFailed,
    kind_and_name,
)
from rayflow.core.execution.journal import effective
from rayflow.errors import InvalidTransition

#: Events that a fork applies again by way of its inbox.
Carried = StepCompleted | StepFailed | RequestCompleted | SignalReceived | CancelRequested


@dataclass(frozen=True, slots=True)
class ForkPlan:
    """First entries and inbox rows of a fork.

    Args:
        entries: copied entries, renumbered from 1.
        to: last position that was copied.
        before: number of the first call that runs again.
        carried: events to apply again: the event that led to the call, then recorded results of earlier calls.
            Timers and the start of the code are not carried, because replay derives them.
        issued: number of calls that the entries issued.
        inbox: highest number of a signal that the entries received.
        open: held locks, running children and registered compensations of the entries, as text for people.
    """

    entries: tuple[Entry, ...]
    to: int
    before: int
    carried: tuple[Carried, ...]
    issued: int
    inbox: int
    open: tuple[str, ...]


def plan_fork(execution_id: str, entries: Sequence[Entry], before: str | int) -> ForkPlan:
    """Plan a fork that continues just before a call was issued, so that the call and everything after it runs again.

    The event whose application issued the call is applied again, so that other arguments, another state or other code
    can change what follows from it.

    Args:
        execution_id: id of the forked execution, for errors.
        entries: the whole journal.
        before: the call's number, or its name for the first call of that name.

    Raises:
        InvalidTransition: the execution has no such call.
    """
    counted = [entry for entry in effective(entries) if EVENT_TRAITS[type(entry.event)].copied]
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
    carried = (first,) if isinstance(first, Carried) and not _grants_lock(first) else ()
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


def _grants_lock(event: Carried) -> bool:
    """Return whether the event grants a lock: the fork must claim its own permit."""
    return isinstance(event, RequestCompleted) and kind_and_name(event.name)[0] == "lock"


def _open(entries: Sequence[Entry], names: Sequence[str], carried: Sequence[Carried]) -> tuple[str, ...]:
    completed = {event.step for event in carried if isinstance(event, RequestCompleted)}
    dropped: set[int] = set()
    compensations: list[str] = []
    for entry in entries:
        if isinstance(entry.event, StepCompleted | StepFailed | RequestCompleted):
            completed.add(entry.event.step)
        dropped.update(entry.dropped)
        compensations.extend(entry.compensations)
    found = []
    for seq, labelled in enumerate(names, start=1):
        kind, name = kind_and_name(labelled)
        if seq not in dropped and (kind == "lock" or (kind == "child" and seq not in completed)):
            found.append(f"{kind} {name!r}")
    return (*found, *(f"compensation {name!r}" for name in compensations))
