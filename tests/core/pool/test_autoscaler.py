"""Sizes: fixed, changed while the pool runs, and found by the pool itself between two bounds."""

from __future__ import annotations

from typing import Any

import pytest

from rayflow.core.pool import Command, Grant, LeaseRevoked, Limit, Recall, RevokeReason, StartWorkers, StopWorker
from tests.core.pool.pool_bench import Bench, Coordinator, granted, recalled, started, stopped, wish


def scaling(low: int, high: int, slots: int = 2, **terms: Any) -> Bench:
    config: dict[str, Any] = {"min_workers": low, "max_workers": high, "idle_timeout": 10.0, "drain_timeout": 60.0}
    return Bench(slots=slots, up=False, config=config, **{"lease_term": 999.0, **terms})


def launch(bench: Bench, commands: list[Command], names: str) -> list[Command]:
    """Start what is to be started, under these names; all come up at once."""
    assert sum(started(commands).values()) == len(names)
    for name in names:
        bench.machine.worker_starting(name, "env", bench.now)
    bench.up(*names)
    return bench.decide()


# --- scaling itself ---------------------------------------------------------------------------------------
def test_an_environment_that_may_have_none_gets_none_before_anything_waits() -> None:
    bench = scaling(0, 3)
    bench.machine.request_environment("env", 0.0)
    assert bench.decide() == []
    assert bench.environment().wanted == 0
    assert started(bench.wants("c", wish())) == {"env": 1}
    assert bench.environment().wanted == 1


def test_an_environment_has_at_least_the_lower_bound() -> None:
    bench = scaling(2, 3)
    bench.machine.request_environment("env", 0.0)
    assert started(bench.decide()) == {"env": 2}


@pytest.mark.parametrize(
    ("waiting", "workers"), [(1, 1), (2, 1), (3, 2), (6, 3), (7, 4), (99, 4)]
)  # fmt: skip
def test_it_grows_at_once_by_what_waits(waiting: int, workers: int) -> None:
    bench = scaling(0, 4)
    assert started(bench.wants("c", wish(5, waiting))) == {"env": workers}


def test_what_runs_counts_too() -> None:
    bench = scaling(0, 4)
    launch(bench, bench.wants("c", wish(5, 2)), "a")
    assert bench.held("c") == 2
    assert started(bench.wants("c", wish(5, 3))) == {"env": 2}
    for name in ("b", "d"):
        bench.machine.worker_starting(name, "env", 0.0)
    assert bench.says("c") == []  # they are on their way
    assert bench.environment().wanted == 3


def test_a_task_that_must_run_alone_needs_a_worker_for_itself() -> None:
    bench = scaling(0, 9)
    launch(bench, bench.wants("c", wish(5, 1)), "a")
    assert started(bench.wants("c", wish(5, 2, exclusive=True), wish(5, 2))) == {"env": 3}


def test_what_a_limit_holds_back_needs_no_worker_but_the_first() -> None:
    bench = scaling(0, 9, slots=1)
    key = Limit("key", 1)
    launch(bench, bench.wants("c", wish(5, 5, key)), "a")
    bench.wants("c", wish(5, 4, key))
    assert bench.environment().wanted == 1
    assert bench.wants("d", wish(5, 9, key, env="other")) == [StartWorkers("other", 1)]


def test_a_failed_start_is_waited_for() -> None:
    bench = scaling(0, 9, backoff=1.0)
    bench.wants("c", wish(5, 1))
    bench.machine.worker_starting("a", "env", 0.0)
    bench.machine.worker_down("a", 0.0)
    assert bench.decide() == []
    assert started(bench.at(1.0)) == {"env": 1}


def test_idle_workers_beyond_the_need_are_stopped_after_a_while() -> None:
    bench = scaling(1, 4)
    launch(bench, bench.wants("c", wish(5, 8)), "abde")
    bench.wants("c")
    for now, tokens in ((1.0, ["1.1", "1.5"]), (2.0, ["1.2", "1.6"]), (3.0, ["1.3", "1.7", "1.4", "1.8"])):
        bench.now = now
        bench.gives_back("c", *tokens)
    assert bench.environment().wanted == 1
    assert bench.machine.next_wake(3.0) == 11.0
    assert [stopped(bench.at(now)) for now in (10.9, 11.0, 12.0, 12.9)] == [[], ["a"], ["b"], []]
    assert stopped(bench.at(13.0)) == ["d"]
    assert stopped(bench.at(99.0)) == []  # the lower bound


def test_a_worker_that_found_work_again_is_not_idle() -> None:
    bench = scaling(0, 1)
    launch(bench, bench.wants("c", wish(5, 1)), "a")
    bench.wants("c")
    bench.gives_back("c")
    bench.now = 9.0
    assert granted(bench.wants("c", wish())) == [("c", "a")]
    bench.wants("c")
    assert stopped(bench.at(10.0)) == []
    bench.gives_back("c")
    assert [stopped(bench.at(19.9)), stopped(bench.at(20.0))] == [[], ["a"]]
    assert started(bench.wants("c", wish())) == {"env": 1}


def test_a_worker_that_came_up_for_nothing_is_idle_from_then_on() -> None:
    bench = scaling(0, 1)
    bench.wants("c", wish())
    bench.machine.worker_starting("a", "env", 0.0)
    bench.wants("c")
    bench.now = 5.0
    bench.up("a")
    assert [stopped(bench.at(14.9)), stopped(bench.at(15.0))] == [[], ["a"]]


def test_what_occupies_a_worker_keeps_it() -> None:
    bench = scaling(0, 1)
    launch(bench, bench.wants("dead", wish()), "a")
    bench.machine.forget("dead", 0.0)
    bench.coordinators.clear()
    assert stopped(bench.at(20.0)) == []
    bench.machine.slot_free("a", "1.1", 21.0)
    assert [stopped(bench.at(30.9)), stopped(bench.at(31.0))] == [[], ["a"]]


# --- another size -----------------------------------------------------------------------------------------
def test_a_greater_size_starts_more_at_the_next_decision() -> None:
    bench = Bench(workers=1)
    bench.wants("c", wish())
    assert bench.configure(workers=3) == [StartWorkers("env", 2)]
    assert bench.environment().wanted == 3


def test_a_smaller_size_stops_what_is_starting_then_the_emptiest_then_the_youngest() -> None:
    bench = Bench(workers=4, slots=2, up=False)
    bench.wants("c", wish(5, 2))
    for bench.now, name in ((1.0, "a"), (2.0, "b"), (3.0, "d")):
        bench.machine.worker_starting(name, "env", bench.now)
        bench.up(name)
    bench.decide()
    assert sorted(bench.coordinators["c"].held.values()) == ["a", "b"]
    bench.machine.worker_starting("e", "env", 4.0)
    bench.now = 4.0
    assert bench.configure(workers=3) == [StopWorker("env", "e")]
    commands = bench.configure(workers=1)
    assert (stopped(commands), bench.coordinators["c"].recalled) == (["d"], ["1.2"])
    stats = bench.environment()
    assert (stats.up, stats.wanted, stats.leaving, stats.starting) == (2, 1, 1, 0)
    assert bench.machine.stats(4.0).idle == 1
    bench.coordinators["c"].wants = []
    assert stopped(bench.gives_back("c", "1.2")) == ["b"]
    bench.machine.worker_down("b", 4.0)
    assert bench.wants("c", wish(5, 9)) == [Grant("c", 3, "1.3", "a", "env", 5)]


def test_what_is_found_after_a_restart_is_not_stopped_before_it_has_reported() -> None:
    bench = Bench(workers=1, epoch=2, up=False, settle=0.5)
    for name in "ab":
        bench.machine.worker_starting(name, "env", 0.0)
    assert bench.at(0.5) == []
    bench.up("b", busy=["1.7"])
    assert [bench.decide(), bench.environment().leaving] == [[], 1]
    bench.machine.slot_free("b", "1.7", 0.5)
    assert stopped(bench.decide()) == ["b"]


def test_tasks_on_a_leaving_worker_may_finish_within_their_time() -> None:
    bench = Bench(workers=1, slots=3, config={"drain_timeout": 20.0}, lease_term=99.0, recall_term=999.0)
    key = Limit("key", 1)
    bench.wants("c", wish(5, 1), wish(5, 1, key))
    bench.coordinators["c"].wants = []
    assert bench.configure(workers=0) == [Recall("c", "1.1", 999.0)]  # the other comes back by itself
    assert bench.machine.next_wake(0.0) == 20.0
    assert bench.wants("d", wish()) == []
    assert bench.gives_back("c", "1.1") == []
    assert bench.at(19.0) == []
    assert bench.at(20.0) == [LeaseRevoked("c", "1.2/key", "a", RevokeReason.DRAINED), StopWorker("env", "a")]
    assert (bench.coordinators["c"].why, bench.machine.workers()) == ([RevokeReason.DRAINED], [])
    assert bench.at(99.0) == []
    assert bench.machine.stats(99.0).tasks == 1  # the demand stays
    assert started(bench.configure(workers=1)) == {"env": 1}


def test_without_time_to_drain_workers_are_stopped_at_once() -> None:
    bench = Bench(workers=2, slots=1, config={"drain_timeout": 0.0})
    bench.wants("c", wish(5, 1))
    bench.wants("c")
    assert bench.configure(workers=0) == [
        LeaseRevoked("c", "1.1", "a", RevokeReason.DRAINED), StopWorker("env", "a"), StopWorker("env", "b")
    ]  # fmt: skip
    assert bench.machine.next_wake(0.0) == bench.terms.lease_term


def test_a_revoked_task_on_a_leaving_worker_is_waited_for() -> None:
    bench = Bench(workers=1, slots=1)
    bench.wants("dead", wish())
    bench.machine.forget("dead", 0.0)
    assert stopped(bench.configure(workers=0)) == []
    bench.machine.slot_free("a", "1.1", 0.0)
    assert stopped(bench.decide()) == ["a"]


def test_scaled_up_again_leaving_workers_are_taken_back_first_the_fullest_before() -> None:
    bench = Bench(workers=3, slots=2, config={"drain_timeout": 20.0}, lease_term=99.0)
    bench.wants("c", wish(5, 5))
    bench.wants("c")
    bench.gives_back("c", "1.5")
    assert list(bench.coordinators["c"].held.values()) == ["a", "b", "c", "a"]
    bench.configure(workers=0)
    assert bench.environment().leaving == 3
    bench.coordinators["d"] = Coordinator("d")
    assert started(bench.configure(workers=2)) == {}
    assert [worker.name for worker in bench.machine._ledger.workers.values() if worker.leaving] == ["c"]
    assert granted(bench.wants("d", wish())) == [("d", "b")]
    assert started(bench.configure(workers=4)) == {"env": 1}
    assert bench.environment().leaving == 0
    assert stopped(bench.at(20.0)) == []


def test_a_pool_that_scales_itself_takes_back_what_it_needs() -> None:
    bench = scaling(0, 3, slots=1)
    launch(bench, bench.wants("c", wish(5, 3)), "abd")
    bench.wants("c")
    bench.configure(max_workers=1)
    assert (bench.environment().leaving, len(bench.coordinators["c"].recalled)) == (2, 2)
    assert bench.configure(max_workers=3) == []
    assert (bench.environment().leaving, bench.environment().wanted) == (2, 1)
    assert bench.wants("d", wish()) == []
    assert (bench.environment().leaving, bench.environment().wanted) == (1, 2)


def test_every_environment_gets_the_new_size() -> None:
    bench = Bench(workers=1, up=False)
    bench.machine.request_environment("b", 0.0)
    bench.machine.request_environment("a", 0.0)
    assert started(bench.decide()) == {"a": 1, "b": 1}
    for name in "ab":
        bench.machine.worker_starting(name, name, 0.0)
    assert bench.configure(workers=2) == [StartWorkers("a", 1), StartWorkers("b", 1)]


def test_another_concurrency_counts_for_new_workers() -> None:
    bench = Bench(workers=1, slots=1, config={"start_timeout": 50.0}, lease_term=99.0)
    bench.wants("c", wish(5, 9))
    bench.configure(workers=2, concurrency=3, start_timeout=5.0)
    bench.machine.worker_starting("b", "env", 0.0)
    bench.up("b")
    assert granted(bench.decide()) == [("c", "b")] * 3
    bench.machine.worker_down("a", 0.0)
    bench.machine.worker_starting("d", "env", 0.0)
    assert [stopped(bench.at(4.9)), stopped(bench.at(5.0))] == [[], ["d"]]


def test_a_shorter_time_to_start_counts_at_once() -> None:
    bench = Bench(workers=1, up=False, config={"start_timeout": 50.0})
    bench.wants("c", wish())
    bench.machine.worker_starting("a", "env", 0.0)
    bench.at(4.0)
    bench.machine.configure(bench.config.replace(start_timeout=3.0), 4.0)
    assert bench.machine.next_wake(4.0) == 4.0
    assert stopped(bench.decide()) == ["a"]


# --- worn and stuck ---------------------------------------------------------------------------------------
def test_a_worn_worker_is_replaced_at_once_and_stopped_when_its_tasks_are_done() -> None:
    bench = Bench(workers=1, slots=2)
    bench.wants("c", wish(5, 1))
    bench.wants("c")
    bench.machine.worker_worn_out("a", 0.0)
    bench.machine.worker_worn_out("stranger", 0.0)
    assert bench.decide() == [Recall("c", "1.1", 1.0), StartWorkers("env", 1)]
    assert launch(bench, [StartWorkers("env", 1)], "b") == []
    assert granted(bench.wants("d", wish(5, 3))) == [("d", "b"), ("d", "b")]
    assert recalled(bench.at(1.0)) == ["c"]
    assert stopped(bench.gives_back("c")) == ["a"]


def test_a_worn_worker_that_is_idle_is_stopped_at_once() -> None:
    bench = Bench(workers=1)
    bench.wants("c")
    bench.machine.worker_worn_out("a", 0.0)
    assert bench.decide() == [StopWorker("env", "a")]  # nobody wants another yet
    assert started(bench.wants("c", wish())) == {"env": 1}


def test_a_worn_worker_is_not_taken_back() -> None:
    bench = Bench(workers=2, slots=1)
    bench.wants("c", wish(5, 2))
    bench.wants("c")
    bench.configure(workers=1)
    bench.machine.worker_worn_out("a", 0.0)
    assert started(bench.configure(workers=2)) == {"env": 1}


def test_a_worn_worker_has_no_more_time_than_it_had() -> None:
    bench = Bench(workers=2, slots=1, config={"drain_timeout": 20.0}, lease_term=99.0, recall_term=999.0)
    bench.wants("c", wish(5, 2))
    bench.wants("c")
    bench.configure(workers=1)
    bench.now = 10.0
    bench.machine.worker_worn_out("a", 10.0)
    bench.decide()
    assert bench.at(20.0) == [LeaseRevoked("c", "1.1", "a", RevokeReason.DRAINED), StopWorker("env", "a")]


def test_neighbours_of_a_stuck_task_have_the_same_time_to_finish() -> None:
    bench = Bench(workers=1, slots=2, config={"drain_timeout": 20.0}, lease_term=99.0, recall_term=999.0)
    bench.wants("c", wish(5, 2))
    bench.wants("c")
    bench.machine.worker_stuck("a", "1.1", 0.0)
    assert bench.decide() == [Recall("c", "1.2", 999.0), StartWorkers("env", 1)]
    bench.machine.worker_starting("b", "env", 0.0)
    assert bench.at(19.9) == []
    assert [type(command) for command in bench.at(20.0)] == [LeaseRevoked, LeaseRevoked, StopWorker]
    assert bench.coordinators["c"].why == [RevokeReason.DRAINED, RevokeReason.DRAINED]


def test_what_was_found_and_is_worn_waits_for_its_census() -> None:
    bench = Bench(workers=1, epoch=2, up=False, settle=0.5)
    bench.machine.worker_starting("a", "env", 0.0)
    bench.machine.worker_worn_out("a", 0.1)
    assert stopped(bench.at(0.5)) == []
    bench.up("a")
    assert stopped(bench.decide()) == ["a"]
