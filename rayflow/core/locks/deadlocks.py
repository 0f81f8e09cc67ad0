"""Deadlock detection: executions that wait for each other's locks forever, and the one that gives way.

The input comes from the store: what each execution waits for, and the claims of those locks. A released permit goes to
the next waiting claim, so an execution can continue as soon as one holder of one of its locks can. Executions that can
never continue are *stuck*; the groups of stuck executions that wait for no execution outside the group are deadlocks.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from rayflow.core.locks.machine import Claim


@dataclass(frozen=True, slots=True)
class Waits:
    """Waits of an execution, which continues after the first of them.

    Args:
        execution_id: id of the execution.
        locks: names of locks.
        children: ids of executions whose end it waits for.
        other: whether it also waits for an event outside locks and children: a timer, signal, step, or resume.
    """

    execution_id: str
    locks: tuple[str, ...] = ()
    children: tuple[str, ...] = ()
    other: bool = False


@dataclass(frozen=True, slots=True)
class Cycle:
    """Executions that each wait for the next one, and the last one for the first.

    Args:
        waits: id of each execution, and the name of the lock that the next one holds, or "" if it waits for the next
            one's end.
        victim: id of the execution that gives way.
        claim: waiting claim that fails; None for a cycle without locks.
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
            "same order everywhere, and do not wait for an execution while holding a lock that it needs"
        )


@dataclass(frozen=True, slots=True)
class _Edge:
    """Edge from an execution to a holder of a lock that it waits for, or to an execution whose end it waits for."""

    holder: str
    claim: Claim | None = None

    @property
    def lock(self) -> str:
        return "" if self.claim is None else self.claim.name


_Graph = Mapping[str, Collection[str]]


def stuck(waits: Mapping[str, Waits], claims: Mapping[str, Sequence[Claim]]) -> frozenset[str]:
    """Return the executions that can never continue: members of deadlocks, and all executions that wait for them.

    A stuck execution waits only for locks whose permits are all held by stuck executions, and for stuck executions. An
    execution that is not in ``waits`` is not stuck, and neither is a script.

    Args:
        waits: waits of all waiting executions, by id.
        claims: all claims of each lock that is waited for, by name. A lock does not block an execution that has no
            waiting claim in it, or if it has no holder: the permit is then on its way.
    """
    return frozenset(_stuck_edges(waits, claims))


def find_deadlocks(waits: Mapping[str, Waits], claims: Mapping[str, Sequence[Claim]]) -> list[Cycle]:
    """Return the deadlocks, each with a shortest cycle and the execution that gives way.

    The victim is the execution with the newest waiting claim in the cycle, since it has waited the least. Executions
    that only wait for a deadlock are in no cycle. After the victim has continued, others may still be stuck, so call
    again. The result does not depend on the order of the arguments.

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
    """Return what an execution waits for, in a fixed order; nothing if it can continue without the others."""
    if waits.other:
        return ()
    edges = [_Edge(child) for child in waits.children]
    for name in waits.locks:
        mine, held = newest.get((name, waits.execution_id)), holders.get(name, ())
        if mine is None or not held:
            return ()
        # The execution id of a script is "", which waits for nothing.
        edges += [_Edge(claim.execution_id, mine) for claim in held]
    # Locks first: an execution that waits for a lock can give way without ending another execution.
    return tuple(sorted(edges, key=lambda edge: (edge.holder, not edge.lock, edge.lock)))


def _inverse(graph: _Graph) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name, others in graph.items():
        for other in others:
            found.setdefault(other, []).append(name)
    return found


def _reach(starts: Iterable[str], graph: _Graph) -> dict[str, str]:
    """Return all reachable nodes, nearest first, each with its predecessor (a start with itself)."""
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
    """Yield the strongly connected groups that no path leaves."""
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
    """Return a shortest cycle in a knot, from its first member by name."""
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
