"""Deadlocks against brute force: let everybody who can finish do so; whoever is left was stuck."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import permutations

from hypothesis import given, settings
from hypothesis import strategies as st

from rayflow.core.locks.deadlocks import Cycle, Waits, find_deadlocks, stuck
from rayflow.core.locks.machine import Claim, Claimant, Lock, acquire, release, release_all

LIMITS = {"w": 1, "x": 1, "y": 1, "z": 2}
EXECUTIONS = ("e0", "e1", "e2", "e3", "e4")
SCRIPTS = ("s",)


def waiting(lock: Lock, execution: str) -> list[Claim]:
    """Its waiting claims."""
    return [claim for claim in lock.waiting if claim.execution_id == execution]


@dataclass
class World:
    """Locks as they are, and what each execution that waits waits for."""

    locks: dict[str, Lock]
    waits: dict[str, Waits]
    #: The locks as they were when the executions began to wait.
    before: dict[str, Lock]

    @property
    def claims(self) -> dict[str, tuple[Claim, ...]]:
        return {name: lock.claims for name, lock in self.locks.items()}

    def copy(self) -> World:
        return World(dict(self.locks), dict(self.waits), self.before)

    def can_go_on(self, execution: str, over: set[str]) -> bool:
        waits = self.waits.get(execution)
        if waits is None or waits.other or not (waits.locks or waits.children):
            return True
        came = any(
            waiting(self.locks[name], execution) != mine or not mine
            for name in waits.locks
            for mine in [waiting(self.before[name], execution)]
        )
        return came or any(child in over or child not in self.waits for child in waits.children)

    def finish(self, execution: str) -> None:
        for change in release_all(list(self.locks.values()), execution):
            self.locks[change.lock.name] = change.lock
        self.waits.pop(execution, None)

    def run(self) -> set[str]:
        """Let everybody who can finish do so, as long as somebody can. Answers who never could."""
        over: set[str] = set()
        while True:
            able = [one for one in EXECUTIONS if one not in over and self.can_go_on(one, over)]
            for one in able:
                self.finish(one)
            over.update(able)
            if not able and not self.scripts_release():
                return set(EXECUTIONS) - over

    def scripts_release(self) -> bool:
        held = [(lock, c.claimant) for lock in self.locks.values() for c in lock.holders if c.lease]
        for lock, claimant in held[:1]:
            self.locks[lock.name] = release(lock, claimant).lock
        return bool(held)


def pairs(who: tuple[str, ...]) -> st.SearchStrategy[tuple[str, str]]:
    return st.tuples(st.sampled_from(who), st.sampled_from(sorted(LIMITS)))


@st.composite
def worlds(draw: st.DrawFn) -> World:
    # Who asks twice for the same lock is soon stuck by itself: that is to happen, but not to hide all else.
    requests = draw(st.lists(pairs(EXECUTIONS), min_size=8, max_size=14, unique=True))
    requests += draw(st.lists(pairs(SCRIPTS), max_size=1)) + draw(st.lists(pairs(EXECUTIONS), max_size=1))
    locks = {name: Lock(name, limit) for name, limit in LIMITS.items()}
    for number, (who, name) in enumerate(draw(st.permutations(requests)), start=1):
        claimant = Claimant(lease=f"{who}.{number}") if who in SCRIPTS else Claimant(who, number)
        ttl = 1e6 if claimant.lease else None
        at = float(draw(st.integers(0, 3)))  # a clock that also steps back
        locks[name] = acquire(locks[name], name, LIMITS[name], claimant, at, ttl=ttl).lock
    waits = {}
    mistaken = draw(st.lists(pairs(EXECUTIONS), max_size=1))  # does not know yet that it has it, or has not asked yet
    moving = draw(st.sets(st.sampled_from(EXECUTIONS), max_size=1))
    for index, one in enumerate(EXECUTIONS):
        names = {name for name, lock in locks.items() if waiting(lock, one)}
        names |= {name for who, name in mistaken if who == one}
        later = EXECUTIONS[index + 1 :]
        children = draw(st.sets(st.sampled_from(later), max_size=1)) if later else set()
        other = one in moving
        if not other or draw(st.booleans()):
            waits[one] = Waits(one, tuple(sorted(names)), tuple(sorted(children)), other)
    return World(locks, waits, dict(locks))


def edges(world: World, names: set[str]) -> dict[str, set[tuple[str, str]]]:
    """Of each stuck execution: (lock or "", the execution that it waits for)."""
    found = {}
    for one in names:
        waits = world.waits[one]
        by_lock = {(name, claim.execution_id) for name in waits.locks for claim in world.locks[name].holders}
        found[one] = by_lock | {("", child) for child in waits.children}
    return found


def circles(graph: dict[str, set[tuple[str, str]]]) -> Iterator[tuple[str, ...]]:
    """Every cycle of a graph, in each of its rotations."""
    onward = {name: {other for _, other in out} for name, out in graph.items()}
    for length in range(1, len(graph) + 1):
        for path in permutations(sorted(graph), length):
            if all(other in onward[name] for name, other in zip(path, [*path[1:], path[0]], strict=True)):
                yield path


def ahead(graph: dict[str, set[tuple[str, str]]], name: str) -> set[str]:
    """All that a path leads to."""
    found: set[str] = set()
    todo = [name]
    while todo:
        for _, other in graph[todo.pop()]:
            if other not in found:
                found.add(other)
                todo.append(other)
    return found


def check_cycle(cycle: Cycle, world: World, graph: dict[str, set[tuple[str, str]]]) -> None:
    names = [name for name, _ in cycle.waits]
    for (name, lock), other in zip(cycle.waits, [*names[1:], names[0]], strict=True):
        assert (lock, other) in graph[name]
    group = ahead(graph, names[0])
    assert all(ahead(graph, one) == group for one in group)
    assert len(names) == min(len(path) for path in circles({one: graph[one] for one in group}))
    newest = [waiting(world.locks[lock], name)[-1] for name, lock in cycle.waits if lock]
    assert cycle.claim == max(newest, key=lambda claim: (claim.at, claim.order, claim.execution_id))
    assert cycle.victim == cycle.claim.execution_id


@settings(max_examples=150)
@given(worlds())
def test_whoever_can_never_finish_is_stuck_and_nobody_else(world: World) -> None:
    assert stuck(world.waits, world.claims) == world.copy().run()


@settings(max_examples=150)
@given(worlds())
def test_each_deadlock_is_shown_by_a_shortest_cycle_of_its_own(world: World) -> None:
    names = set(stuck(world.waits, world.claims))
    graph = edges(world, names)
    cycles = find_deadlocks(world.waits, world.claims)
    for cycle in cycles:
        check_cycle(cycle, world, graph)
    groups = [frozenset(ahead(graph, cycle.waits[0][0])) for cycle in cycles]
    assert len(set(groups)) == len(groups)
    assert all(any(group <= ahead(graph, one) for group in groups) for one in names)


@settings(max_examples=150)
@given(worlds())
def test_when_victims_give_way_everybody_finishes_in_the_end(world: World) -> None:
    left = world.run()
    for _ in range(len(EXECUTIONS)):
        for cycle in find_deadlocks(world.waits, world.claims):
            assert cycle.victim in left
            world.finish(cycle.victim)
        left = {one for one in world.run() if one in world.waits}
    assert left == set()
