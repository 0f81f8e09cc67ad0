"""Deadlocks: which executions are stuck, which cycle is shown, and who is to give way."""

from __future__ import annotations

import random

from rayflow.core.locks.deadlocks import Cycle, Waits, find_deadlocks, stuck
from rayflow.core.locks.machine import Claimant, Lock, acquire


class World:
    """Executions that ask for locks one after the other, a second apart, and what they wait for."""

    def __init__(self, **limits: int) -> None:
        self.limits = limits
        self.locks: dict[str, Lock] = {}
        self.waits: dict[str, Waits] = {}
        self.asked = 0

    def ask(self, *requests: str) -> World:
        """Each request is "who lock"; a who that begins with a dash is a script."""
        for request in requests:
            who, name = request.split()
            self.asked += 1
            claimant = Claimant(lease=who) if who.startswith("-") else Claimant(who, self.asked)
            ttl = 1000.0 if claimant.lease else None
            limit = self.limits.get(name, 1)
            self.locks[name] = acquire(self.locks.get(name), name, limit, claimant, float(self.asked), ttl=ttl).lock
        return self

    def wait(self, who: str, *locks: str, children: tuple[str, ...] = (), other: bool = False) -> World:
        self.waits[who] = Waits(who, locks, children, other)
        return self

    def find(self) -> list[Cycle]:
        found = find_deadlocks(self.waits, {name: lock.claims for name, lock in self.locks.items()})
        assert bool(found) == bool(self.stuck())
        return found

    def stuck(self) -> set[str]:
        return set(stuck(self.waits, {name: lock.claims for name, lock in self.locks.items()}))


def crossed() -> World:
    """The classic: each holds what the other one waits for."""
    return World().ask("a x", "b y", "a y", "b x").wait("a", "y").wait("b", "x")


# --- what is a deadlock ---------------------------------------------------------------------------------------
def test_two_that_wait_for_each_others_lock() -> None:
    world = crossed()
    [cycle] = world.find()
    assert cycle.waits == (("a", "y"), ("b", "x"))
    assert cycle.claim == world.locks["x"].claim_of(Claimant("b", 4))
    assert cycle.victim == "b"


def test_its_error_tells_the_whole_circle() -> None:
    [cycle] = crossed().find()
    assert str(cycle).startswith(
        "deadlock: execution 'a' waits for lock 'y', which 'b' holds; execution 'b' waits for lock 'x', which 'a' "
        "holds. Execution 'b' was chosen to give way. "
    )


def test_a_lock_that_the_execution_holds_itself() -> None:
    [cycle] = World().ask("a x", "a x").wait("a", "x").find()
    assert (cycle.waits, cycle.victim) == ((("a", "x"),), "a")


def test_a_parent_that_holds_what_its_child_needs() -> None:
    world = World().ask("p x", "c x").wait("p", children=("c",)).wait("c", "x")
    [cycle] = world.find()
    assert (cycle.waits, cycle.victim) == ((("c", "x"), ("p", "")), "c")
    assert "execution 'p' waits for execution 'c' to end" in str(cycle)


def test_a_semaphore_only_if_all_its_permits_are_stuck() -> None:
    world = World(s=2).ask("a s", "b s", "c x", "c s", "a x", "b x").wait("c", "s").wait("a", "x")
    assert world.find() == []
    [cycle] = world.wait("b", "x").find()
    assert world.stuck() == {"a", "b", "c"}
    assert (cycle.waits, cycle.victim) == ((("a", "x"), ("c", "s")), "a")


def test_without_locks_the_last_by_name_gives_way() -> None:
    [cycle] = World().wait("a", children=("b",)).wait("b", children=("a",)).find()
    assert cycle == Cycle((("a", ""), ("b", "")), "b", None)


# --- what is none ---------------------------------------------------------------------------------------------
def test_one_that_waits_for_something_else_as_well_is_not_stuck_and_frees_the_others() -> None:
    assert crossed().wait("a", "y", other=True).find() == []


def test_one_that_is_not_waiting_is_not_stuck() -> None:
    world = crossed()
    del world.waits["b"]
    assert world.find() == []
    assert World().ask("a x").wait("a").find() == []


def test_scripts_end_by_themselves() -> None:
    world = World(s=2).ask("a s", "-l s", "a s").wait("a", "s")
    assert world.find() == []
    assert World().ask("-l x", "a y", "a x", "-l y").wait("a", "x").find() == []


def test_one_lock_that_comes_is_enough() -> None:
    world = World().ask("a x", "b y", "c z", "a y", "b x", "b z").wait("a", "y").wait("b", "x", "z")
    assert world.find() == []
    world.ask("c x").wait("c", "x")
    assert [cycle.waits for cycle in world.find()] == [(("a", "y"), ("b", "x"))]


def test_one_child_that_runs_is_enough() -> None:
    world = World().ask("p x", "c x").wait("p", children=("c", "d")).wait("c", "x")
    assert world.find() == []


def test_a_permit_that_is_on_its_way_is_not_waited_for() -> None:
    world = crossed().wait("a", "x")
    assert world.find() == []
    assert crossed().wait("a", "unheard of").find() == []
    world = crossed().ask("b z", "a z").wait("a", "y", "z")
    claims = {name: lock.claims for name, lock in world.locks.items()}
    assert len(find_deadlocks(world.waits, claims)) == 1
    assert find_deadlocks(world.waits, {**claims, "z": world.locks["z"].waiting}) == []


# --- several of them ------------------------------------------------------------------------------------------
def test_those_behind_a_deadlock_are_stuck_and_in_no_cycle() -> None:
    world = crossed().ask("c x", "c z", "d z").wait("c", "x").wait("d", "z").wait("e", children=("d",))
    assert world.stuck() == {"a", "b", "c", "d", "e"}
    assert [cycle.waits for cycle in world.find()] == [(("a", "y"), ("b", "x"))]


def test_each_deadlock_is_found_once() -> None:
    world = crossed().ask("g v", "f w", "g w", "f v").wait("f", "v").wait("g", "w")
    world.ask("0 y").wait("0", "y").ask("z v").wait("z", "v")
    assert [(cycle.waits, cycle.victim) for cycle in world.find()] == [
        ((("a", "y"), ("b", "x")), "b"),
        ((("f", "v"), ("g", "w")), "f"),
    ]


def test_a_circle_that_waits_for_another_one_is_left_until_that_is_solved() -> None:
    world = World().ask("a x", "b y", "c z", "d w", "a y", "b x", "c w", "d z")
    world.ask("b z").wait("a", "y").wait("b", "x", "z").wait("c", "w").wait("d", "z")
    assert world.stuck() == {"a", "b", "c", "d"}
    assert [cycle.waits for cycle in world.find()] == [(("c", "w"), ("d", "z"))]


def test_the_shortest_cycle_is_shown() -> None:
    world = World().ask("a u", "b v", "c w", "d x", "a v", "b w", "c x", "d u", "d w")
    world.wait("a", "v").wait("b", "w").wait("c", "x").wait("d", "u", "w")
    assert [(cycle.waits, cycle.victim) for cycle in world.find()] == [((("c", "x"), ("d", "w")), "d")]


def test_between_two_executions_a_lock_is_shown_rather_than_a_child() -> None:
    world = World().ask("p x", "c y", "p y", "c x").wait("p", "y", children=("c",)).wait("c", "x")
    assert [cycle.waits for cycle in world.find()] == [(("c", "x"), ("p", "y"))]


def test_the_newest_of_several_claims_gives_way() -> None:
    world = World().ask("a x", "b y", "b x", "a y", "a y").wait("a", "y").wait("b", "x")
    [cycle] = world.find()
    assert cycle.claim is not None
    assert (cycle.victim, cycle.claim.step) == ("a", 5)
    assert find_deadlocks(world.waits, {name: lock.claims[::-1] for name, lock in world.locks.items()}) == [cycle]


def test_the_answer_does_not_depend_on_the_order_of_the_arguments() -> None:
    world = World(s=2).ask("a s", "b s", "c x", "d y", "a x", "b y", "c s", "d s", "e s", "f x", "-l x")
    world.wait("a", "x").wait("b", "y").wait("c", "s").wait("d", "s").wait("e", "s").wait("f", "x", children=("e",))
    expected = world.find()
    assert len(expected) == 1
    for seed in range(20):
        rng = random.Random(seed)
        waits = dict(rng.sample(list(world.waits.items()), len(world.waits)))
        locks = rng.sample(list(world.locks.values()), len(world.locks))
        claims = {lock.name: rng.sample(lock.claims, len(lock.claims)) for lock in locks}
        assert find_deadlocks(waits, claims) == expected


def test_a_long_ring_with_many_behind_it_is_found_whole() -> None:
    world = World()
    ring = [f"e{number:03}" for number in range(150)]
    world.ask(*[f"{name} l{name}" for name in ring])
    for name, other in zip(ring, [*ring[1:], ring[0]], strict=True):
        world.ask(f"{name} l{other}").wait(name, f"l{other}")
    for number in range(150):
        world.ask(f"f{number} le000").wait(f"f{number}", "le000")
    [cycle] = world.find()
    assert [name for name, _ in cycle.waits] == ring
    assert (cycle.victim, len(world.stuck())) == ("e149", 300)
