"""Who gets which slot: priority, first in first out, and recalls."""

from __future__ import annotations

from rayflow.core.pool import Command, Grant, Recall
from tests.core.pool.pool_bench import Bench, Coordinator, granted, recalled, wish


# --- grants -----------------------------------------------------------------------------------------------
def test_a_grant_names_all_that_the_coordinator_needs() -> None:
    bench = Bench(workers=1, slots=1)
    assert bench.wants("c", wish(7, waiting_since=-2.0)) == [Grant("c", 1, "1.1", "a", "env", 7, exclusive=False)]
    assert [(lease.token, lease.number, lease.granted_at) for lease in bench.machine.leases()] == [("1.1", 1, 0.0)]


def test_higher_priority_goes_first_then_the_older_stamp_then_the_name() -> None:
    bench = Bench(workers=1, slots=4, up=False)
    bench.wants("low", wish(1, waiting_since=-9.0))
    bench.wants("young", wish(5, waiting_since=-1.0))
    bench.wants("b", wish(5, waiting_since=-2.0))
    bench.wants("a", wish(5, waiting_since=-2.0))
    bench.wants("high", wish(9))
    bench.up("w")
    assert granted(bench.decide()) == [("high", "w"), ("a", "w"), ("b", "w"), ("young", "w")]
    assert bench.machine.stats(0.0).waiting == {1: 1}


def test_one_coordinators_wishes_are_served_by_priority_too() -> None:
    bench = Bench(workers=1, slots=2)
    grants = bench.wants("c", wish(1, 2), wish(8, 1))
    assert [grant.priority for grant in grants if isinstance(grant, Grant)] == [8, 1]


def test_grants_are_spread_over_the_workers_with_most_free_slots() -> None:
    bench = Bench(workers=3, slots=2)
    assert [worker for _, worker in granted(bench.wants("c", wish(count=5)))] == ["a", "b", "c", "a", "b"]


def test_only_workers_of_the_environment_count() -> None:
    bench = Bench(workers=1, slots=2)
    assert granted(bench.wants("c", wish(env="other"))) == []
    bench.up("o", env="other")
    assert granted(bench.decide()) == [("c", "o")]


def test_a_wish_for_nothing_is_no_wish() -> None:
    bench = Bench()
    assert bench.wants("c", wish(count=0)) == []
    assert bench.machine.stats(0.0).waiting == {}


def test_what_is_in_flight_is_taken_off_the_most_urgent_demand() -> None:
    bench = Bench(workers=1, slots=1)
    bench.wants("c", wish(5, 1))
    coordinator = bench.coordinators["c"]
    coordinator.seen, coordinator.held = 0, {}  # it sends this before the grant arrives
    bench.wants("c", wish(9, 1), wish(5, 1))
    assert bench.machine.stats(0.0).waiting == {5: 1}


def test_a_seen_token_that_is_not_held_was_given_back() -> None:
    bench = Bench(workers=1, slots=1)
    bench.wants("a", wish())
    bench.wants("b", wish())
    bench.coordinators["a"].wants = []
    assert granted(bench.gives_back("a")) == [("b", "a")]


def test_an_unseen_token_that_is_not_held_is_in_flight_and_not_granted_twice() -> None:
    bench = Bench(workers=1, slots=2)
    bench.machine.update("c", sequence=1, epoch=0, seen=0, demand=[wish()], holding={}, now=0.0)
    assert granted(bench.decide()) == [("c", "a")]
    bench.machine.update("c", sequence=2, epoch=1, seen=0, demand=[wish()], holding={}, now=0.1)
    assert bench.decide() == []
    assert bench.machine.stats(0.1).busy == 1


def test_an_older_update_that_comes_late_is_ignored() -> None:
    bench = Bench(workers=1, slots=1)
    bench.machine.update("c", sequence=2, epoch=1, seen=0, demand=[], holding={}, now=0.0)
    bench.machine.update("c", sequence=1, epoch=1, seen=0, demand=[wish()], holding={}, now=0.1)
    bench.machine.update("c", sequence=2, epoch=1, seen=0, demand=[wish()], holding={}, now=0.1)
    assert bench.decide() == []


def test_a_lost_grant_is_sent_again_until_it_is_confirmed() -> None:
    bench = Bench(workers=1, slots=2, resend=1.0)

    def update(sequence: int, seen: int, holding: dict[str, str], now: float) -> list[Command]:
        demand = [wish()] if not holding else []
        bench.machine.update("c", sequence=sequence, epoch=1, seen=seen, demand=demand, holding=holding, now=now)
        return bench.machine.decide(now)

    first = update(1, 0, {}, 0.0)
    assert granted(first) == [("c", "a")]
    assert update(2, 0, {}, 0.9) == []
    assert update(3, 0, {}, 1.0) == first
    assert update(4, 0, {}, 1.5) == []
    assert update(5, 1, {"1.1": "a"}, 2.5) == []


def test_a_grant_that_is_held_although_an_earlier_one_is_missing_has_arrived() -> None:
    bench = Bench(workers=1, slots=2)
    bench.machine.update("c", sequence=1, epoch=1, seen=0, demand=[wish(count=2)], holding={}, now=0.0)
    bench.machine.decide(0.0)
    bench.machine.update("c", sequence=2, epoch=1, seen=0, demand=[], holding={"1.2": "a"}, now=0.1)
    bench.machine.update("c", sequence=3, epoch=1, seen=0, demand=[], holding={}, now=0.2)
    assert [lease.token for lease in bench.machine.leases()] == ["1.1"]


# --- recalls ----------------------------------------------------------------------------------------------
def test_nobody_waits_nobody_is_asked() -> None:
    bench = Bench(workers=1, slots=2)
    bench.wants("a", wish(count=2))
    assert bench.wants("a", wish(count=50)) == []
    assert bench.at(2.0) == []


def test_higher_priority_recalls_as_many_as_it_needs() -> None:
    bench = Bench(workers=1, slots=4)
    bench.wants("low", wish(1, 9))
    bench.wants("low", wish(1, 5))
    assert bench.wants("high", wish(9, 2)) == [Recall("low", "1.1", 1.0), Recall("low", "1.2", 1.0)]
    assert bench.says("high") == []  # two are under way already
    assert recalled(bench.wants("high", wish(9, 3))) == ["low"]
    assert granted(bench.gives_back("low", "1.1", "1.2")) == [("high", "a"), ("high", "a")]


def test_free_slots_count_before_recalls() -> None:
    bench = Bench(workers=1, slots=4)
    bench.wants("low", wish(1, 3))
    bench.wants("low")
    commands = bench.wants("high", wish(9, 2))
    assert (granted(commands), recalled(commands)) == ([("high", "a")], ["low"])


def test_slots_that_their_holder_needs_least_are_recalled_first() -> None:
    bench = Bench(workers=1, slots=3)
    bench.wants("busy", wish(5, 1))
    bench.wants("low", wish(5, 1))
    bench.wants("done", wish(5, 1))
    for name, demand in (("busy", [wish(4, 9)]), ("low", [wish(2, 9)]), ("done", []), ("high", [wish(9, 3)])):
        coordinator = bench.coordinators.setdefault(name, Coordinator(name))
        coordinator.wants = demand
        coordinator.update(bench.machine, 0.0)
    assert recalled(bench.decide()) == ["done", "low", "busy"]


def test_a_holder_keeps_what_its_own_urgent_tasks_need() -> None:
    bench = Bench(workers=1, slots=4, quantum=60.0)
    bench.wants("a", wish(5, 4))
    bench.wants("a", wish(9, 1), wish(2, 9))
    assert recalled(bench.wants("b", wish(7, 9))) == ["a", "a", "a"]


def test_a_lower_priority_recalls_nothing() -> None:
    bench = Bench(workers=1, slots=2)
    bench.wants("high", wish(9, 2))
    bench.wants("high", wish(9, 2))
    assert bench.wants("low", wish(1, 2)) == []
    assert bench.at(30.0) == []


def test_after_the_deadline_another_lease_is_asked_back_in_its_stead() -> None:
    bench = Bench(workers=1, slots=3, recall_term=1.0)
    bench.wants("a", wish(1, 3))
    bench.wants("a", wish(1, 3))
    assert bench.wants("high", wish(9)) == [Recall("a", "1.1", 1.0)]
    assert bench.machine.next_wake(0.1) == 0.25
    assert bench.at(0.9) == []
    assert bench.at(1.0) == [Recall("a", "1.1", 2.0), Recall("a", "1.2", 2.0)]
    assert bench.machine.stats(1.0).busy == 3  # nothing is taken by force
    assert granted(bench.gives_back("a", "1.1")) == [("high", "a")]


def test_leases_in_flight_are_not_recalled_before_they_arrived() -> None:
    bench = Bench(workers=1, slots=1)
    bench.machine.update("a", sequence=1, epoch=1, seen=0, demand=[wish(1, 9)], holding={}, now=0.0)
    bench.decide()
    assert bench.wants("high", wish(9)) == []
    bench.machine.update("a", sequence=2, epoch=1, seen=1, demand=[wish(1, 8)], holding={"1.1": "a"}, now=0.1)
    assert recalled(bench.decide()) == ["a"]
