"""Deadlocks between executions: which ones wait for each other's locks for ever, and which one is to give way.

Pure, from what the store has: what each execution waits for, and the claims of those locks. Every permit that is given
back goes to whoever waits next, so an execution can go on as soon as one of the holders of one of its locks can. Those
that cannot, however long the others run, are *stuck*; among them are groups that wait for nobody outside: a deadlock.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from rayflow.core.locks.machine import Claim


@dataclass(frozen=True, slots=True)
class Waits:
    """What an execution waits for; whatever comes first lets it go on.

    Args:
        execution_id: the execution's id.
        locks: names of locks.
        children: ids of executions that it waits for to end.
        other: whether it waits for anything else that can happen by itself: a timer, a signal, a step, a person who
            resumes it.
    """

    execution_id: str
    locks: tuple[str, ...] = ()
    children: tuple[str, ...] = ()
    other: bool = False


@dataclass(frozen=True, slots=True)
class Cycle:
    """Executions that wait for each other, each for the next one and the last for the first.

    Args:
        waits: of each execution, its id and the name of the lock that the next one holds, or "" where it waits for
            the next one to end.
        victim: the execution that is to give way.
        claim: the waiting claim that is to fail; None if there is no lock in the cycle.
    """

    waits: tuple[tuple[str, str], ...]
    victim: str
    claim: Claim | None

    def __str__(self) -> str:
        others = [*self.waits[1:], *self.waits[:1]]
        waits = [
            f"execution {name!r} waits for "
            + (f"lock {lock!r}, which {holder!r} holds" if lock else f"execution {holder!r} to end")
            for (name, lock), (holder, _) in zip(self.waits, others, strict=True)
        ]
        return (
            f"deadlock: {'; '.join(waits)}. Execution {self.victim!r} was chosen to give way. Acquire locks in the "
            "same order everywhere, and wait for no other execution while holding a lock that it needs"
        )


@dataclass(frozen=True, slots=True)
class _Edge:
    """An execution waits for a holder, by its newest waiting claim of a lock, or for it to end."""

    holder: str
    claim: Claim | None = None

    @property
    def lock(self) -> str:
        return "" if self.claim is None else self.claim.name


_Graph = Mapping[str, Collection[str]]


def stuck(waits: Mapping[str, Waits], claims: Mapping[str, Sequence[Claim]]) -> frozenset[str]:
    """Executions that can never go on unless one of them gives way: those of deadlocks and all behind them.

    Such a one waits only for locks and for executions, all permits of these locks are held by stuck executions, and
    these executions are stuck as well. An execution that is not in ``waits`` is not stuck, nor is a script.

    Args:
        waits: by execution, of all those that wait.
        claims: by lock, all claims of each lock that is waited for. A lock in which an execution has no waiting claim
            (any more) or which nobody holds does not keep it: its permit is on the way.
    """
    return frozenset(_stuck_edges(waits, claims))


def find_deadlocks(waits: Mapping[str, Waits], claims: Mapping[str, Sequence[Claim]]) -> list[Cycle]:
    """The deadlocks among executions, each with a shortest cycle and the execution that is to give way.

    That is the one in the cycle whose waiting claim is the newest: it has waited the least. Executions that are only
    stuck behind a deadlock are in no cycle. When the victim has gone on, others may still be stuck or be stuck anew:
    look again then. The same arguments have the same answer, in whichever order they come.

    Args:
        waits: as for :func:`stuck`.
        claims: as for :func:`stuck`.

    Example:
        >>> from rayflow.core.locks.machine import Claimant, acquire
        >>> locks = {}
        >>> for who, name in [("a", "x"), ("b", "y"), ("a", "y"), ("b", "x")]:
        ...     lock = locks.get(name)
        ...     claimant = Claimant(who, lock.last_order + 1 if lock else 1)
        ...     locks[name] = acquire(lock, name, 1, claimant, now=0.0).lock
        >>> waits = {"a": Waits("a", locks=("y",)), "b": Waits("b", locks=("x",))}
        >>> [cycle] = find_deadlocks(waits, {name: lock.claims for name, lock in locks.items()})
        >>> cycle.waits, cycle.victim
        ((('a', 'y'), ('b', 'x')), 'b')
    """
    edges = _stuck_edges(waits, claims)
    onward = {name: list(dict.fromkeys(edge.holder for edge in found)) for name, found in edges.items()}
    return sorted((_cycle(_shortest(knot, onward), edges) for knot in _knots(onward)), key=lambda cycle: cycle.waits)


def _stuck_edges(waits: Mapping[str, Waits], claims: Mapping[str, Sequence[Claim]]) -> dict[str, tuple[_Edge, ...]]:
    holders = {name: [claim for claim in found if claim.token] for name, found in claims.items()}
    newest = {
        (name, claim.execution_id): claim
        for name, found in claims.items()
        for claim in sorted(found, key=lambda claim: claim.order)
        if not claim.token
    }
    edges = {name: _edges(waits[name], holders, newest) for name in sorted(waits)}
    behind = _inverse({name: {edge.holder for edge in found} for name, found in edges.items()})
    moving = _reach([name for name in {*edges, *behind} if not edges.get(name)], behind)
    return {name: found for name, found in edges.items() if name not in moving}


def _edges(
    waits: Waits, holders: Mapping[str, Sequence[Claim]], newest: Mapping[tuple[str, str], Claim]
) -> tuple[_Edge, ...]:
    """Whom an execution waits for, in a fixed order; none if it can go on whatever the others do."""
    if waits.other:
        return ()
    edges = [_Edge(child) for child in waits.children]
    for name in waits.locks:
        mine, held = newest.get((name, waits.execution_id)), holders.get(name, ())
        if mine is None or not held:
            return ()
        # A script is "" here, which waits for nobody.
        edges += [_Edge(claim.execution_id, mine) for claim in held]
    # Locks first: only who waits for a lock can give way without ending another execution.
    return tuple(sorted(edges, key=lambda edge: (edge.holder, not edge.lock, edge.lock)))


def _inverse(graph: _Graph) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name, others in graph.items():
        for other in others:
            found.setdefault(other, []).append(name)
    return found


def _reach(starts: Iterable[str], graph: _Graph) -> dict[str, str]:
    """All that can be reached, the nearest first, each with the one before it (a start with itself)."""
    before = {start: start for start in starts}
    todo = deque(before)
    while todo:
        here = todo.popleft()
        for there in graph.get(here, ()):
            if there not in before:
                before[there] = here
                todo.append(there)
    return before


def _knots(onward: _Graph) -> Iterator[Collection[str]]:
    """The groups that no path leads out of, and in which a path leads from each to each."""
    behind = _inverse(onward)
    explained: set[str] = set()
    for name in sorted(onward):
        if name not in explained:
            ahead, back = _reach([name], onward), _reach([name], behind)
            while beyond := [there for there in ahead if there not in back]:
                ahead, back = _reach(beyond[-1:], onward), _reach(beyond[-1:], behind)
            yield ahead
            explained.update(back)


def _shortest(knot: Collection[str], onward: _Graph) -> list[str]:
    """A shortest cycle in a knot, from its first member by name."""
    best: list[str] = []
    for start in sorted(knot):
        before = _reach([start], onward)
        cycle = [next(name for name in before if start in onward[name])]
        while cycle[-1] != start:
            cycle.append(before[cycle[-1]])
        if not best or len(cycle) < len(best):
            best = cycle[::-1]
    return best


def _cycle(names: Sequence[str], edges: Mapping[str, Sequence[_Edge]]) -> Cycle:
    following = [*names[1:], names[0]]
    taken = [
        next(edge for edge in edges[name] if edge.holder == other) for name, other in zip(names, following, strict=True)
    ]
    waits = tuple((name, edge.lock) for name, edge in zip(names, taken, strict=True))
    claims = [edge.claim for edge in taken if edge.claim is not None]
    if not claims:
        return Cycle(waits, max(names), None)
    newest = max(claims, key=lambda claim: (claim.at, claim.order, claim.execution_id))
    return Cycle(waits, newest.execution_id, newest)
