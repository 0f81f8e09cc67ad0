"""Forks: how much of a journal another execution takes over."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from rayflow.core.events import (
    Answered,
    Asked,
    Entry,
    Forked,
    Paused,
    Resumed,
    StepCompleted,
    StepFailed,
    kind_and_name,
)
from rayflow.core.journal import effective
from rayflow.errors import InvalidTransition

#: What says nothing about another execution.
_LEFT_OUT = (Paused, Resumed, Asked, Forked)


@dataclass(frozen=True, slots=True)
class ForkPlan:
    """What a fork begins with.

    Args:
        entries: the entries that it takes over, numbered anew from 1.
        to: the last position that was taken over.
        issued: how many calls are issued by then.
        open: what the entries leave open, in words: locks that are held, children that run, compensations.
    """

    entries: tuple[Entry, ...]
    to: int
    issued: int
    open: tuple[str, ...]


def plan_fork(execution_id: str, entries: Sequence[Entry], before: str | int) -> ForkPlan:
    """Take over what happened until a call was issued, so that it and what follows is done again.

    Args:
        execution_id: whose journal, for errors.
        entries: the whole journal.
        before: the number of that call, or its name: then the first one of that name.

    Raises:
        InvalidTransition: there is no such call.
    """
    kept: list[Entry] = []
    names: list[str] = []
    for entry in effective(entries):
        if isinstance(entry.event, _LEFT_OUT):
            continue
        kept.append(replace(entry, seq=len(kept) + 1))
        names.extend(entry.issued)
        if _reached(names, len(entry.issued), before):
            return ForkPlan(tuple(kept), entry.seq, len(names), _open(kept, names))
    known = [kind_and_name(name)[1] for name in names]
    raise InvalidTransition(
        execution_id,
        status=f"not at call {before!r}",
        action="fork",
        hint=f"It has issued {len(known)} calls: {', '.join(list(dict.fromkeys(known))[:20]) or 'none'}",
    )


def _reached(names: Sequence[str], new: int, before: str | int) -> bool:
    if isinstance(before, int):
        return len(names) - new < before <= len(names)
    return any(kind_and_name(name)[1] == before for name in names[len(names) - new :])


def _open(entries: Sequence[Entry], names: Sequence[str]) -> tuple[str, ...]:
    answered: set[int] = set()
    dropped: set[int] = set()
    undos: list[str] = []
    for entry in entries:
        if isinstance(entry.event, StepCompleted | StepFailed | Answered):
            answered.add(entry.event.step)
        dropped.update(entry.dropped)
        undos.extend(entry.undos)
    found = []
    for seq, labelled in enumerate(names, start=1):
        kind, name = kind_and_name(labelled)
        if seq not in dropped and (kind == "lock" or (kind == "child" and seq not in answered)):
            found.append(f"{kind} {name!r}")
    return (*found, *(f"compensation {name!r}" for name in undos))
