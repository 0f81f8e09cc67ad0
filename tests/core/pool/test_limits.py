"""Limits that tasks of many coordinators share: so many at once, so many starts in a window of time."""

from __future__ import annotations

from typing import Any

import pytest

from rayflow.core.pool import Demand, Grant, LeaseRevoked, Limit, PoolStats, Recall, Revoke, RevokeReason
from rayflow.core.pool.protocol import new_token, token_keys
from tests.core.pool.pool_bench import Bench, Coordinator, granted, recalled, started, wish

KEY = Limit("key/a b", 1)
TWO = Limit("two", 2)
RATE = Limit("rate", 2, 10.0)


def names(stats: PoolStats) -> tuple[int, int, float]:
    return (stats.waiting_total, stats.tasks, stats.oldest_waiting)


# --- tasks at once ----------------------------------------------------------------------------------------
def test_a_grant_under_limits_says_so_and_its_token_carries_the_keys() -> None:
    bench = Bench(workers=1, slots=4, start_within=2.0)
    (grant,) = bench.wants("c", wish(5, 1, KEY, RATE))
    assert grant == Grant("c", 1, "1.1/key%2Fa%20b", "a", "env", 5, limits=(KEY, RATE), start_by=2.0)
    assert token_keys(grant.token) == ("key/a b",)
    (lease,) = bench.machine.leases()
    assert (lease.keys, lease.limited) == (("key/a b",), True)


def test_never_more_at_once_than_the_key_allows_over_all_coordinators_and_environments() -> None:
    bench = Bench(workers=1, slots=4)
    bench.up("b", env="other")
    assert granted(bench.wants("c", wish(5, 2, TWO))) == [("c", "a"), ("c", "a")]
    assert bench.wants("c", wish(5, 1, TWO)) == []
    assert bench.wants("d", wish(9, 2, TWO, env="other")) == []
    stats = bench.machine.stats(1.0)
    assert names(stats) == (3, 3, 1.0)
    assert stats.idle == 6
    assert granted(bench.gives_back("c", "1.1/two")) == [("d", "b")]  # planned again, the most urgent first
    bench.coordinators["d"].wants = [wish(9, 1, TWO, env="other")]
    assert bench.says("d") == []


def test_each_wish_obeys_its_own_number() -> None:
    bench = Bench(workers=1, slots=4)
    bench.wants("c", wish(5, 1, Limit("key", 2)))
    assert granted(bench.wants("narrow", wish(9, 1, Limit("key", 1)))) == []
    assert granted(bench.wants("wide", wish(1, 1, Limit("key", 2)))) == [("wide", "a")]


def test_what_has_no_room_blocks_nobody_and_asks_nothing_back() -> None:
    bench = Bench(workers=1, slots=3, quantum=0.25)
    bench.wants("c", wish(9, 2, KEY))
    bench.coordinators["c"].wants = [wish(9, 1, KEY)]
    assert granted(bench.wants("d", wish(1, 2))) == [("d", "a"), ("d", "a")]
    bench.wants("d", wish(1, 5))
    assert [bench.at(1.0), bench.at(2.0)] == [[], []]


def test_the_wishes_of_one_plan_share_the_room_by_urgency() -> None:
    bench = Bench(workers=1, slots=4, up=False)
    bench.wants("young", wish(5, 1, TWO, waiting_since=-1.0))
    bench.wants("old", wish(5, 1, TWO, waiting_since=-2.0))
    bench.wants("high", wish(9, 1, TWO))
    bench.up("w")
    assert granted(bench.decide()) == [("high", "w"), ("old", "w")]


def test_the_environment_with_the_most_urgent_limited_wish_is_planned_first() -> None:
    bench = Bench(workers=1, slots=4, up=False)
    bench.wants("a", wish(9, 1, env="a"), wish(1, 1, KEY, env="a"))
    bench.wants("b", wish(5, 1, KEY, env="b"))
    bench.wants("z", wish(7, 1, env="z"))
    for env in ("a", "b", "z"):
        bench.up(f"{env}1", env=env)
    assert granted(bench.decide()) == [("b", "b1"), ("a", "a1"), ("z", "z1")]


def test_a_lease_in_flight_covers_only_demand_of_its_own_kind() -> None:
    bench = Bench(workers=1, slots=4)
    demand = [wish(5, 1, KEY), wish(5, 1, TWO), wish(5, 1)]

    def update(sequence: int) -> list[tuple[str, str]]:
        bench.machine.update("c", sequence=sequence, epoch=1, seen=0, demand=demand, holding={}, now=0.0)
        return [(g.token, g.worker) for g in bench.machine.decide(0.0) if isinstance(g, Grant)]

    assert update(1) == [("1.1/key%2Fa%20b", "a"), ("1.2/two", "a"), ("1.3", "a")]
    assert update(2) == []
    demand.append(wish(5, 1, Limit("three", 3)))
    assert update(3) == [("1.4/three", "a")]


def test_a_thousand_keys_wait_and_each_gets_its_turn() -> None:
    bench = Bench(workers=1, slots=2)
    keys = [Limit(f"key/{number:03}", 1) for number in range(100)]
    waiting = [wish(5, 1, key, waiting_since=index / 1000) for index, key in enumerate(keys)]
    served: list[str] = []
    commands = bench.wants("c", *waiting)
    while grants := [command for command in commands if isinstance(command, Grant)]:
        served += [limit.name for grant in grants for limit in grant.limits]
        bench.coordinators["c"].wants = waiting[len(served) :]
        commands = bench.gives_back("c")
    assert served == [key.name for key in keys]


# --- shares and recalls -----------------------------------------------------------------------------------
def test_a_lease_under_limits_is_not_asked_back() -> None:
    bench = Bench(workers=1, slots=2)
    bench.wants("c", wish(1, 1, KEY), wish(1, 1))
    bench.wants("c", wish(1, 1))
    assert recalled(bench.wants("high", wish(9, 2))) == ["c"]
    assert bench.coordinators["c"].recalled == ["1.2"]


def test_a_holder_that_needs_its_slots_for_other_tasks_gives_one_up_for_its_own_limited_one() -> None:
    bench = Bench(workers=1, slots=2, quantum=0.25)
    bench.wants("c", wish(5, 2))
    assert bench.wants("c", wish(5, 9), wish(5, 1, KEY)) == []
    assert recalled(bench.at(0.25)) == ["c"]
    bench.coordinators["c"].wants = [wish(5, 8), wish(5, 1, KEY)]
    (grant,) = bench.gives_back("c", "1.1")
    assert isinstance(grant, Grant)
    assert grant.limits == (KEY,)
    bench.coordinators["c"].wants = [wish(5, 9)]
    assert [bench.at(1.0), bench.at(2.0)] == [[], []]


def test_a_more_urgent_limited_task_takes_a_slot_of_its_own_coordinator_at_once() -> None:
    bench = Bench(workers=1, slots=2)
    bench.wants("c", wish(5, 2))
    assert recalled(bench.wants("c", wish(5, 9), wish(9, 1, KEY))) == ["c"]


def test_leases_under_limits_are_part_of_the_share() -> None:
    bench = Bench(workers=1, slots=4, quantum=0.25)
    many = Limit("many", 99)
    bench.wants("limited", wish(5, 2, many))
    bench.wants("other", wish(5, 2))
    bench.wants("limited", wish(5, 9, many))
    bench.wants("other", wish(5, 9))
    assert [bench.at(1.0), bench.at(2.0)] == [[], []]  # each has its half
    assert granted(bench.gives_back("limited", "1.1/many")) == [("limited", "a")]


def test_slots_under_limits_are_shared_out_in_turns_too() -> None:
    bench = Bench(workers=1, slots=1, quantum=1.0)
    many = Limit("many", 99)
    for name in ("a", "b"):
        bench.wants(name, wish(5, 99, many, waiting_since=0.0 if name == "a" else 0.1))
    turns = []
    for second in range(1, 6):
        bench.now = second * 1.5
        holder = next(name for name in ("a", "b") if bench.held(name))
        turns += [name for name, _ in granted(bench.gives_back(holder))]
    assert turns == ["b", "a", "b", "a", "b"]


def test_a_limited_task_that_must_run_alone_needs_both() -> None:
    bench = Bench(workers=2, slots=2, quantum=0.25)
    bench.wants("other", wish(5, 1, KEY))
    lonely = wish(5, 2, KEY, exclusive=True)
    assert bench.wants("c", lonely) == []
    assert bench.at(1.0) == []
    (grant,) = [command for command in bench.gives_back("other") if isinstance(command, Grant)]
    assert (grant.token, grant.exclusive, grant.limits) == ("1.2.exclusive/key%2Fa%20b", True, (KEY,))
    bench.coordinators["c"].wants = [wish(5, 1, KEY, exclusive=True)]
    bench.says("c")
    assert recalled(bench.wants("other", wish(9, 9))) == []  # comes back by itself
    assert [lease.exclusive for lease in bench.machine.leases()] == [True, False, False]


def test_a_worker_is_emptied_for_a_limited_task_and_its_place_is_kept_for_it() -> None:
    bench = Bench(workers=1, slots=2, quantum=0.25)
    bench.wants("other", wish(5, 1))
    bench.wants("other", wish(5, 9, KEY, waiting_since=0.1))
    bench.gives_back("other", "1.2/key%2Fa%20b")
    bench.coordinators["other"].wants = [wish(5, 9, KEY, waiting_since=0.1)]
    bench.wants("c", wish(5, 1, KEY, exclusive=True))
    bench.gives_back("other", *[token for token in bench.coordinators["other"].held if "/" in token])
    assert recalled(bench.at(0.25)) == ["other"]
    assert granted(bench.gives_back("other", "1.1")) == [("c", "a")]


def test_room_in_a_limit_is_not_hoarded_by_who_has_too_few_slots_to_use_it() -> None:
    bench = Bench(workers=1, slots=2, up=False)
    shared = Limit("shared", 4)
    bench.wants("old", *[wish(5, 1, Limit(f"key/{number}", 1), shared, waiting_since=-2.0) for number in range(4)])
    bench.wants("new", wish(5, 1, shared, waiting_since=-1.0))
    bench.up("w")
    assert granted(bench.decide()) == [("old", "w"), ("new", "w")]


# --- starts in a window -----------------------------------------------------------------------------------
def test_starts_take_a_place_until_they_are_out_of_every_window() -> None:
    bench = Bench(workers=1, slots=9, start_within=2.0)
    assert len(granted(bench.wants("c", wish(5, 5, RATE)))) == 2
    bench.coordinators["c"].wants = [wish(5, 3, RATE)]
    assert bench.reports("c", "1.1", 1.5) == []
    assert bench.machine.next_wake(bench.now) == 5.0  # a silent coordinator is noticed
    for now in (4.0, 8.0):
        assert bench.at(now) == []
    assert bench.machine.next_wake(8.0) == 11.5  # one began at 1.5, the other at 2.0 at the latest
    assert [granted(bench.at(11.4)), granted(bench.at(11.5))] == [[], [("c", "a")]]
    bench.coordinators["c"].wants = [wish(5, 2, RATE)]
    assert granted(bench.at(11.9)) == []
    assert granted(bench.at(12.0)) == [("c", "a")]


def test_a_start_that_never_was_frees_its_place_at_once() -> None:
    bench = Bench(workers=1, slots=9)
    bench.wants("c", wish(5, 2, RATE))
    bench.wants("c")
    assert bench.wants("d", wish(5, 2, RATE)) == []
    bench.coordinators["c"].give_back("1.1")
    assert granted(bench.reports("c", "1.1", 0.0)) == [("d", "a")]
    bench.coordinators["d"].wants = [wish(5, 1, RATE)]
    assert bench.reports("c", "1.1", 0.0) == []  # told twice
    assert bench.reports("c", "9.9", 0.0) == []


def test_a_late_report_counts_although_the_update_does_not() -> None:
    bench = Bench(workers=1, slots=9)
    bench.wants("c", wish(5, 2, RATE))
    bench.wants("d", wish(5, 1, RATE))
    bench.machine.forget("c", 1.0)
    bench.decide()
    bench.machine.update("c", sequence=99, epoch=1, seen=2, demand=[], holding={}, now=1.0, begun={"1.2": 0.0})
    assert granted(bench.decide()) == [("d", "a")]


def test_nothing_begins_before_its_grant() -> None:
    bench = Bench(workers=1, slots=9, lease_term=99.0)
    bench.now = 5.0
    bench.wants("c", wish(5, 2, RATE))
    bench.reports("c", "1.1", 1.0)  # by a clock that is behind
    bench.wants("c", wish(5, 1, RATE))
    assert [granted(bench.at(11.0)), granted(bench.at(15.0))] == [[], [("c", "a")]]


def test_a_place_is_given_to_who_is_cut_only_in_part() -> None:
    bench = Bench(workers=1, slots=9)
    bench.wants("c", wish(5, 1, RATE))
    assert granted(bench.wants("d", wish(5, 3, RATE))) == [("d", "a")]


def test_several_limits_all_have_to_have_room() -> None:
    bench = Bench(workers=1, slots=9, start_within=1.0, lease_term=99.0)
    slow = Limit("slow", 1, 60.0)
    bench.wants("c", wish(5, 1, slow, RATE))
    assert granted(bench.wants("c", wish(5, 1, slow, RATE), wish(5, 1, RATE))) == [("c", "a")]
    bench.coordinators["c"].wants = [wish(5, 1, slow, RATE)]
    assert granted(bench.at(60.9)) == []
    assert granted(bench.at(61.0)) == [("c", "a")]


def test_wishes_with_windows_of_different_length_look_at_the_same_starts() -> None:
    bench = Bench(workers=1, slots=9, start_within=1.0, lease_term=99.0)
    short, long = Limit("rate", 1, 5.0), Limit("rate", 1, 50.0)
    bench.wants("short", wish(5, 1, short))
    bench.wants("short", wish(5, 1, short))
    bench.wants("long", wish(5, 1, long))
    assert [granted(bench.at(5.9)), granted(bench.at(6.0))] == [[], [("short", "a")]]
    bench.coordinators["short"].wants = []
    assert [granted(bench.at(56.9)), granted(bench.at(57.0))] == [[], [("long", "a")]]


def test_what_no_window_reaches_is_forgotten() -> None:
    bench = Bench(workers=1, slots=9, lease_term=5.0, start_within=2.0)
    slow = Limit("slow", 1, 60.0)
    bench.wants("c", wish(5, 1, RATE, slow), wish(5, 1, RATE))
    bench.wants("c")
    bench.gives_back("c")
    for now in (5.0, 12.0, 20.0):
        bench.at(now)
    limits = bench.machine._ledger.limits
    assert (list(limits._windows), list(limits._unreported)) == (["slow"], ["1.1"])
    bench.reports("c", "1.1", 1.0)  # after the shorter window has passed
    for now in (30.0, 61.0):
        bench.at(now)
    assert (limits._windows, limits._unreported, limits._holders) == ({}, {}, {})


# --- leases that end otherwise ----------------------------------------------------------------------------
def test_a_dead_workers_keys_are_free_and_waiting_environments_are_planned() -> None:
    bench = Bench(workers=1, slots=1)
    bench.up("b", env="other")
    bench.wants("c", wish(5, 1, KEY))
    bench.wants("d", wish(5, 1, KEY, env="other"))
    bench.machine.worker_down("a", 0.0)
    commands = bench.decide()
    assert commands[0] == LeaseRevoked("c", "1.1/key%2Fa%20b", "a", RevokeReason.DIED)
    assert granted(commands) == [("d", "b")]


def test_a_dead_coordinators_keys_are_free_once_the_worker_confirms() -> None:
    bench = Bench(workers=1, slots=2)
    bench.wants("dead", wish(5, 1, KEY))
    bench.wants("c", wish(5, 1, KEY))
    bench.machine.forget("dead", 0.0)
    assert granted(commands := bench.decide()) == []
    assert Revoke("a", "1.1/key%2Fa%20b") in commands
    bench.machine.slot_free("a", "1.1/key%2Fa%20b", 0.0)
    assert granted(bench.decide()) == [("c", "a")]


def test_the_keys_of_what_haunts_a_worker_go_with_it() -> None:
    bench = Bench(workers=2, slots=2)
    bench.up("a", busy=[token := new_token(1, 77, keys=["key/a b"])])
    assert token_keys(token) == (KEY.name,)
    assert granted(bench.wants("c", wish(5, 1, KEY))) == []
    bench.machine.worker_down("a", 0.0)
    assert granted(bench.decide()) == [("c", "b")]


# --- a restarted pool -------------------------------------------------------------------------------------
def restarted(**terms: Any) -> tuple[Bench, Coordinator]:
    """A pool in its second life, and a coordinator that holds a lease with a key from the first."""
    bench = Bench(workers=2, slots=2, epoch=2, up=False, **{"settle": 0.5, **terms})
    holder = bench.coordinators["c"] = Coordinator("c")
    holder.epoch, holder.seen, holder.held = 1, 7, {new_token(1, 7, keys=[KEY.name]): "a"}
    return bench, holder


def test_keys_of_leases_that_are_taken_over_count() -> None:
    bench, holder = restarted()
    bench.up("a", "b")
    bench.says("c")
    (lease,) = bench.machine.leases()
    assert (lease.keys, lease.limited) == ((KEY.name,), True)
    bench.wants("d", wish(5, 1, KEY))
    assert bench.at(0.5) == []
    assert granted(bench.gives_back("c", *list(holder.held))) == [("d", "a")]


def test_keys_that_the_census_knows_count() -> None:
    bench, holder = restarted()
    bench.up("a", busy=list(holder.held))
    bench.up("b")
    bench.coordinators["d"] = Coordinator("d")
    bench.now = 0.5
    assert bench.wants("d", wish(5, 1, KEY)) == []
    assert bench.says("c") == []
    assert granted(bench.gives_back("c")) == [("d", "a")]


def test_keys_of_claims_that_wait_for_a_census_count() -> None:
    bench, _ = restarted()
    bench.up("b")
    bench.machine.worker_starting("a", "env", 0.0)
    bench.says("c")
    bench.wants("d", wish(5, 1, KEY))
    assert bench.at(0.5) == []
    bench.machine.worker_down("a", 0.5)
    assert granted(bench.decide()) == [("d", "b")]


@pytest.mark.parametrize("how", ["withdrawn", "dead"])
def test_keys_of_claims_that_are_not_made_any_more_are_free(how: str) -> None:
    bench, holder = restarted()
    bench.up("b")
    bench.machine.worker_starting("a", "env", 0.0)
    bench.says("c")
    bench.wants("d", wish(5, 1, KEY))
    bench.at(0.5)
    if how == "withdrawn":
        holder.give_back()
        assert granted(bench.says("c")) == [("d", "b")]
    else:
        bench.machine.forget("c", 0.5)
        assert granted(bench.decide()) == [("d", "b")]


def test_limits_on_starts_are_exhausted_at_first() -> None:
    bench, _ = restarted(start_within=2.0, lease_term=99.0)
    bench.up("a", "b")
    bench.wants("d", wish(5, 1, RATE))
    assert bench.at(0.5) == []
    assert bench.environment().wanted == 2
    assert bench.machine.next_wake(0.5) == 12.5
    assert [granted(bench.at(12.0)), granted(bench.at(12.5))] == [[], [("d", "b")]]


def test_an_adopted_lease_under_limits_is_not_asked_back() -> None:
    bench, _ = restarted()
    bench.up("a", "b")
    bench.says("c")
    assert [c for c in bench.at(0.5) + bench.wants("high", wish(9, 9)) if isinstance(c, Recall)] == []


def test_demand_that_is_held_back_starts_workers_all_the_same() -> None:
    bench, _ = restarted()
    bench.machine.worker_starting("a", "env", 0.0)
    bench.says("c")
    bench.wants("d", Demand("env", 5, 0.0, 1, limits=(KEY,), tasks=1))
    assert started(bench.at(0.5)) == {"env": 1}
