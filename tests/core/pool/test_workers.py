"""Workers that start, fail, die and retire; coordinators that die or fall silent; pools that restart."""

from __future__ import annotations

from typing import Any

import pytest

from rayflow.core.pool import Grant, LeaseRevoked, Recall, Revoke, RevokeReason, StartWorkers, StopWorker
from rayflow.errors import LeaseLost
from tests.core.pool.pool_bench import Bench, Coordinator, granted, recalled, started, wish


# --- starting ---------------------------------------------------------------------------------------------
def test_demand_starts_the_environments_workers_once() -> None:
    bench = Bench(workers=3, up=False)
    assert bench.wants("c", wish()) == [StartWorkers("env", 3)]
    for name in "abc":
        bench.machine.worker_starting(name, "env", 0.0)
    bench.machine.worker_starting("a", "env", 0.0)
    assert bench.wants("c", wish(count=9)) == []
    bench.up("b")
    assert {worker for _, worker in granted(bench.decide())} == {"b"}


def test_an_environment_is_made_ready_ahead() -> None:
    bench = Bench(workers=2, up=False)
    bench.machine.request_environment("env", 0.0)
    assert bench.decide() == [StartWorkers("env", 2)]
    assert bench.machine.environments() == ["env"]


def test_workers_that_are_only_found_are_not_completed_before_somebody_wants_them() -> None:
    bench = Bench(workers=2, up=False)
    bench.up("a")
    assert bench.decide() == []
    assert started(bench.wants("c", wish())) == {"env": 1}


def test_a_worker_that_does_not_come_up_is_stopped_and_tried_again_with_growing_waits() -> None:
    bench = Bench(
        workers=2,
        up=False,
        backoff=1.0,
        max_backoff=3.0,
        environment_idle_timeout=999.0,
        config={"start_timeout": 10.0},
    )
    bench.machine.request_environment("env", 0.0)
    bench.decide()
    waits, names = [], iter(range(99))
    for _ in range(4):
        for name in (next(names), next(names)):
            bench.machine.worker_starting(f"w{name}", "env", bench.now)
        stats = bench.machine.stats(bench.now + 9.0).environments[0]
        assert (stats.up, stats.starting, stats.starting_for) == (0, 2, 9.0)
        assert bench.at(bench.now + 9.0) == []
        stopped = bench.at(bench.now + 1.0)
        assert [type(command) for command in stopped] == [StopWorker, StopWorker]
        failed_at = bench.now
        wake = bench.machine.next_wake(bench.now)
        assert wake is not None
        assert started(bench.at(wake)) == {"env": 2}
        waits.append(wake - failed_at)
    assert waits == [1.0, 2.0, 3.0, 3.0]
    assert bench.machine.stats(bench.now).environments[0].failures == 4


def test_a_worker_that_comes_up_ends_the_failures() -> None:
    bench = Bench(workers=1, up=False)
    bench.wants("c", wish())
    bench.machine.worker_starting("a", "env", 0.0)
    bench.machine.worker_down("a", 0.0)
    assert bench.decide() == []
    assert bench.machine.stats(0.0).environments[0].failures == 1
    bench.up("b")
    assert granted(bench.decide()) == [("c", "b")]
    assert bench.machine.stats(0.0).environments[0].failures == 0


def test_a_stopped_worker_that_reports_late_is_stopped_again() -> None:
    bench = Bench(workers=1, up=False, config={"start_timeout": 1.0})
    bench.wants("c", wish())
    bench.machine.worker_starting("a", "env", 0.0)
    assert StopWorker("env", "a") in bench.at(1.0)
    bench.machine.worker_starting("a", "env", 1.0)
    bench.up("a")
    assert bench.machine.next_wake(1.0) == 1.0
    assert bench.decide() == [StopWorker("env", "a")]
    assert bench.machine.workers() == []
    bench.machine.worker_down("a", 1.0)
    bench.up("a")  # another of that name
    assert granted(bench.decide()) == [("c", "a")]


# --- deaths -----------------------------------------------------------------------------------------------
def test_the_leases_of_a_dead_worker_are_void_and_it_is_replaced_at_once() -> None:
    bench = Bench(workers=2, slots=1)
    bench.wants("c", wish(count=2))
    bench.wants("c")
    bench.machine.worker_down("a", 1.0)
    assert bench.decide() == [LeaseRevoked("c", "1.1", "a", RevokeReason.DIED), StartWorkers("env", 1)]
    assert bench.coordinators["c"].held == {"1.2": "b"}
    bench.machine.worker_down("a", 1.0)
    bench.machine.worker_down("stranger", 1.0)
    assert [lease.token for lease in bench.machine.leases()] == ["1.2"]


def test_a_void_whose_grant_was_lost_is_sent_again_with_the_grant() -> None:
    bench = Bench(workers=1, slots=1)
    bench.machine.update("c", sequence=1, epoch=0, seen=0, demand=[wish()], holding={}, now=0.0)
    (grant,) = bench.decide()
    bench.machine.worker_down("a", 0.5)
    void = LeaseRevoked("c", "1.1", "a", RevokeReason.DIED)
    assert bench.decide() == [void, StartWorkers("env", 1)]
    bench.machine.worker_starting("b", "env", 0.5)
    bench.machine.update("c", sequence=2, epoch=0, seen=0, demand=[], holding={}, now=1.0)
    assert bench.machine.decide(1.0) == [grant, void]


def test_a_dead_coordinators_slots_are_free_once_the_worker_confirms() -> None:
    bench = Bench(workers=1, slots=2)
    bench.wants("dead", wish(count=2))
    bench.wants("c", wish(count=2))
    bench.machine.forget("dead", 0.0)
    bench.machine.forget("stranger", 0.0)
    commands = bench.decide()
    assert commands == [
        LeaseRevoked("dead", "1.1", "a", RevokeReason.UNKNOWN), LeaseRevoked("dead", "1.2", "a", RevokeReason.UNKNOWN),
        Revoke("a", "1.1"), Revoke("a", "1.2"),
    ]  # fmt: skip
    assert bench.machine.stats(0.0).busy == 2
    bench.machine.slot_free("a", "1.2", 0.1)
    bench.machine.slot_free("a", "1.2", 0.1)
    bench.machine.slot_free("stranger", "1.1", 0.1)
    assert granted(bench.decide()) == [("c", "a")]


def test_late_updates_of_a_dead_coordinator_are_ignored_for_a_lease_term() -> None:
    bench = Bench(workers=1, slots=1, lease_term=5.0)
    bench.machine.forget("dead", 0.0)
    assert bench.wants("dead", wish()) == []
    bench.now = 4.9
    assert bench.says("dead") == []
    bench.now = 5.0
    assert granted(bench.says("dead")) == [("dead", "a")]  # it was not dead after all


def test_a_silent_coordinator_loses_leases_and_demand() -> None:
    bench = Bench(workers=1, slots=1, lease_term=5.0)
    bench.wants("silent", wish(count=3))
    bench.now = 4.9
    bench.wants("c", wish(1))
    bench.now = 5.0
    assert bench.decide() == [LeaseRevoked("silent", "1.1", "a", RevokeReason.UNKNOWN), Revoke("a", "1.1")]
    bench.machine.slot_free("a", "1.1", 5.0)
    assert granted(bench.decide()) == [("c", "a")]
    silent = bench.coordinators["silent"]
    silent.held = {"1.1": "a"}  # it never heard that this is void
    silent.wants = []
    assert bench.says("silent") == [LeaseRevoked("silent", "1.1", "a", RevokeReason.UNKNOWN)]


def test_a_silent_coordinator_does_not_keep_an_environment_in_use() -> None:
    bench = Bench(workers=1, up=False, lease_term=5.0)
    bench.wants("silent", wish())
    for bench.now in (1.0, 5.0):
        bench.decide()
    assert bench.machine.environment_idle_since("env") == 5.0


def test_a_coordinator_that_is_forgiven_is_granted_under_numbers_that_it_has_not_seen() -> None:
    bench = Bench(workers=1, slots=2, lease_term=5.0)
    bench.wants("c", wish(count=2))
    bench.wants("c")
    bench.now = 5.0
    bench.decide()
    bench.machine.slot_free("a", "1.1", 5.0)
    commands = bench.wants("c", wish())
    assert [command.number for command in commands if isinstance(command, Grant)] == [3]


def test_a_revocation_is_repeated_until_it_is_confirmed_or_a_census_says_otherwise() -> None:
    bench = Bench(workers=1, slots=1, resend=1.0)
    bench.wants("dead", wish())
    bench.machine.forget("dead", 0.0)
    bench.coordinators.clear()
    assert Revoke("a", "1.1") in bench.decide()
    assert bench.machine.next_wake(0.0) == 1.0
    assert [bench.at(0.5), bench.at(1.0)] == [[], [Revoke("a", "1.1")]]
    bench.up("a", busy=["1.1"])
    assert bench.at(1.5) == []
    bench.wants("c", wish())
    bench.up("a", busy=[])
    assert granted(bench.decide()) == [("c", "a")]


def test_a_census_that_knows_a_void_token_has_it_revoked() -> None:
    bench = Bench(workers=1, slots=1)
    bench.wants("c", wish())
    bench.wants("c")
    bench.up("a", busy=["1.1"])
    assert bench.decide() == []  # held: all is well
    bench.gives_back("c")
    bench.up("a", busy=["1.1"])
    assert bench.decide() == [Revoke("a", "1.1")]


# --- retiring ---------------------------------------------------------------------------------------------
def test_a_worker_with_a_stuck_task_is_replaced_once_its_others_are_done() -> None:
    bench = Bench(workers=1, slots=3)
    bench.wants("c", wish(count=2))
    bench.wants("c")
    bench.machine.worker_stuck("a", "1.1", 1.0)
    bench.machine.worker_stuck("a", "1.99", 1.0)
    bench.machine.worker_stuck("stranger", "1.1", 1.0)
    assert bench.decide() == [Recall("c", "1.2", 1.0), StartWorkers("env", 1)]
    bench.machine.worker_starting("b", "env", 1.0)
    assert [bench.wants("high", wish(9, 2)), bench.wants("c", wish(9))] == [[], []]
    bench.wants("high")
    assert bench.machine.stats(1.0).idle == 0
    bench.wants("c")
    assert bench.gives_back("c", "1.2") == [
        LeaseRevoked("c", "1.1", "a", RevokeReason.DRAINED),
        StopWorker("env", "a", at_once=True),
    ]


def test_a_revoked_task_that_cannot_be_stopped_retires_its_worker_too() -> None:
    bench = Bench(workers=1, slots=1)
    bench.wants("dead", wish())
    bench.machine.forget("dead", 0.0)
    bench.decide()
    bench.machine.worker_stuck("a", "1.1", 1.0)
    assert bench.decide() == [StopWorker("env", "a", at_once=True), StartWorkers("env", 1)]


# --- giving up --------------------------------------------------------------------------------------------
def test_an_idle_environment_is_given_up_and_made_again_on_demand() -> None:
    bench = Bench(workers=2, slots=1, up=False, environment_idle_timeout=100.0)
    bench.wants("c", wish())
    bench.up("a", "b")
    bench.decide()
    bench.wants("c")
    assert bench.machine.environment_idle_since("env") is None  # a lease is left
    bench.now = 1.0
    bench.gives_back("c")
    bench.coordinators.clear()
    assert bench.machine.environment_idle_since("env") == 1.0
    assert bench.at(100.9) == []
    assert bench.at(101.0) == [StopWorker("env", "a"), StopWorker("env", "b")]
    assert (bench.machine.environments(), bench.machine.next_wake(101.0)) == ([], None)
    assert bench.machine.environment_idle_since("env") is None
    assert started(bench.wants("c", wish())) == {"env": 2}


def test_want_keeps_an_idle_environment_and_changes_nothing_for_one_in_use() -> None:
    bench = Bench(workers=1, slots=1, environment_idle_timeout=100.0)
    bench.decide()
    bench.machine.request_environment("env", 60.0)
    assert bench.at(100.0) == []
    assert bench.machine.environment_idle_since("env") == 60.0
    bench.wants("c", wish())
    bench.machine.request_environment("env", 110.0)
    bench.decide()
    assert bench.machine.environment_idle_since("env") is None


def test_demand_that_comes_at_the_last_moment_keeps_the_environment() -> None:
    bench = Bench(workers=1, slots=1, environment_idle_timeout=100.0)
    bench.decide()
    bench.now = 100.0
    assert granted(bench.wants("c", wish())) == [("c", "a")]


# --- a restarted pool -------------------------------------------------------------------------------------
def restarted(**terms: Any) -> tuple[Bench, Coordinator]:
    """A pool in its second life, and a coordinator that holds two leases of the first."""
    bench = Bench(workers=1, slots=3, epoch=2, up=False, **{"settle": 0.5, **terms})
    coordinator = bench.coordinators["c"] = Coordinator("c")
    coordinator.epoch, coordinator.seen, coordinator.held = 1, 7, {"1.6": "a", "1.7": "a"}
    return bench, coordinator


def test_a_restarted_pool_listens_before_it_decides() -> None:
    bench = Bench(workers=1, slots=3, epoch=2, settle=0.5)
    assert bench.wants("late", wish(5, 3, waiting_since=-1.0)) == []
    assert bench.machine.next_wake(0.0) == 0.5
    bench.now = 0.4
    assert bench.wants("early", wish(5, 2, waiting_since=-2.0)) == []
    assert granted(bench.at(0.5)) == [("early", "a"), ("early", "a"), ("late", "a")]


def test_leases_of_an_earlier_epoch_are_taken_over() -> None:
    bench, coordinator = restarted()
    bench.up("a", busy=["1.7"])
    assert bench.says("c") == []
    leases = [(lease.token, lease.coordinator, lease.priority, lease.number) for lease in bench.machine.leases()]
    assert leases == [("1.6", "c", None, 0), ("1.7", "c", None, 0)]
    assert granted(bench.at(0.5)) == []
    assert len(granted(bench.wants("c", wish(count=9)))) == 1
    assert coordinator.seen == 1  # the old numbers do not count
    assert recalled(bench.wants("high", wish(9))) == ["c"]


def test_claims_wait_for_the_census_of_their_worker() -> None:
    bench, _ = restarted()
    bench.machine.worker_starting("a", "env", 0.0)
    assert [bench.says("c"), bench.machine.leases()] == [[], ()]
    bench.up("a", busy=["1.6"])
    assert [lease.token for lease in bench.machine.leases()] == ["1.6", "1.7"]


def test_claims_on_a_worker_that_is_not_found_are_void_after_the_settling_time() -> None:
    bench, coordinator = restarted()
    assert bench.says("c") == []
    assert bench.at(0.5) == [
        LeaseRevoked("c", "1.6", "a", RevokeReason.UNKNOWN),
        LeaseRevoked("c", "1.7", "a", RevokeReason.UNKNOWN),
    ]
    assert coordinator.held == {}


def test_claims_on_a_worker_that_dies_before_its_census_are_void() -> None:
    bench, _ = restarted()
    bench.machine.worker_starting("a", "env", 0.0)
    bench.says("c")
    bench.machine.worker_down("a", 0.1)
    assert bench.decide() == [
        LeaseRevoked("c", "1.6", "a", RevokeReason.DIED),
        LeaseRevoked("c", "1.7", "a", RevokeReason.DIED),
    ]


def test_a_claim_without_room_is_void_and_one_that_is_busy_always_has_room() -> None:
    bench, _ = restarted()
    bench.up("a", busy=["1.7", "1.8", "1.9"])
    assert bench.says("c") == [LeaseRevoked("c", "1.6", "a", RevokeReason.UNKNOWN)]
    assert [lease.token for lease in bench.machine.leases()] == ["1.7"]
    assert bench.machine.stats(0.0).busy == 3


def test_a_busy_token_that_nobody_claims_is_revoked_after_a_lease_term_and_then_cannot_be_claimed() -> None:
    bench, _ = restarted(lease_term=5.0)
    bench.up("a", busy=["1.6"])
    bench.machine.forget("stranger", 0.0)
    bench.machine.forget("stranger", -1.0)
    for bench.now in (4.0, 4.9):
        assert bench.decide() == []
    bench.now = 5.0
    assert bench.decide() == [Revoke("a", "1.6")]
    assert bench.says("c") == [LeaseRevoked("c", "1.6", "a", RevokeReason.UNKNOWN)]
    assert bench.machine.stats(5.0).busy == 2  # the revoked one, and 1.7


def test_a_lonely_lease_is_taken_over_as_such() -> None:
    bench, coordinator = restarted()
    coordinator.held = {"1.6.exclusive": "a"}
    bench.up("a", busy=["1.6.exclusive"])
    assert bench.says("c") == []
    assert [lease.exclusive for lease in bench.machine.leases()] == [True]
    assert bench.machine.stats(0.0).idle == 0
    bench.wants("other", wish(count=3))
    assert bench.at(0.5) == [Recall("c", "1.6.exclusive", 1.5)]
    assert len(granted(bench.gives_back("c"))) == 3


def test_a_lonely_lease_that_is_idle_is_taken_over_only_on_an_empty_worker() -> None:
    bench, coordinator = restarted()
    coordinator.held = {"1.6.exclusive": "a"}
    bench.up("a", busy=["1.5"])
    assert bench.says("c") == [LeaseRevoked("c", "1.6.exclusive", "a", RevokeReason.UNKNOWN)]


def test_a_pool_that_meets_a_later_epoch_stops() -> None:
    bench = Bench(epoch=2)
    with pytest.raises(LeaseLost, match="the pool's epoch 2 is outdated: coordinator c knows epoch 3"):
        bench.machine.update("c", sequence=1, epoch=3, seen=0, demand=[], holding={}, now=0.0)


# --- figures ----------------------------------------------------------------------------------------------
def test_the_figures_say_how_the_pool_stands() -> None:
    bench = Bench(workers=2, slots=2, up=False)
    bench.wants("c", wish(9, 1, waiting_since=-1.0), wish(2, 5, waiting_since=-3.0))
    bench.machine.worker_starting("b", "env", 0.5)
    bench.up("a")
    bench.decide()
    stats = bench.machine.stats(2.0)
    assert (dict(stats.waiting), stats.waiting_total, stats.oldest_waiting) == ({2: 4}, 4, 5.0)
    assert (stats.busy, stats.idle, stats.workers_up, stats.workers_starting, stats.starting_for) == (2, 0, 1, 1, 1.5)
    assert [(e.environment, e.waiting, e.draining) for e in stats.environments] == [("env", 4, None)]
    assert bench.machine.workers() == ["a"]


def test_an_empty_pool_has_nothing_to_do() -> None:
    bench = Bench(up=False)
    stats = bench.machine.stats(3.0)
    assert (stats.waiting_total, stats.oldest_waiting, stats.starting_for, stats.environments) == (0, 0.0, 0.0, ())
    assert (bench.decide(), bench.machine.next_wake(3.0)) == ([], None)
    bench.machine.request_environment("env", 3.0)
    assert bench.machine.next_wake(3.0) == 3.0
