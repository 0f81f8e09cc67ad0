"""Tasks that run as Ray tasks of their own: admitted by the pool, on no worker."""

from __future__ import annotations

from typing import Any

from rayflow.core.pool import (
    Command,
    Grant,
    LeaseRevoked,
    Limit,
    RevokeReason,
    StartWorkers,
    is_ray_task_environment,
    ray_task_environment,
)
from rayflow.core.pool.protocol import new_token
from tests.core.pool.pool_bench import Bench, Coordinator, granted, recalled, wish

OWN = ray_task_environment("env")


def bench_of(slots: int = 2, **terms: Any) -> Bench:
    return Bench(up=False, config={"max_ray_tasks": slots, "drain_timeout": 0.0}, **terms)


def test_the_environment_of_own_tasks_is_known_by_its_name() -> None:
    assert (is_ray_task_environment(OWN), is_ray_task_environment("env")) == (True, False)


def test_they_are_admitted_without_a_worker_up_to_their_number() -> None:
    bench = bench_of(2)
    assert bench.wants("c", wish(5, 3, env=OWN)) == [
        Grant("c", 1, "1.1", OWN, OWN, 5), Grant("c", 2, "1.2", OWN, OWN, 5)
    ]  # fmt: skip
    bench.coordinators["c"].wants = [wish(5, 1, env=OWN)]
    assert granted(bench.gives_back("c", "1.1")) == [("c", OWN)]


def test_priority_and_limits_hold_for_them_too() -> None:
    bench = bench_of(2)
    key = Limit("key", 1)
    bench.wants("c", wish(5, 1, key, env=OWN), wish(1, 1, env=OWN))
    bench.wants("c", wish(5, 1, key, env=OWN), wish(1, 1, env=OWN))
    assert recalled(bench.wants("high", wish(9, env=OWN))) == ["c"]


def test_their_environment_has_no_workers_to_look_at() -> None:
    bench = bench_of(5)
    bench.wants("c", wish(5, 2, env=OWN))
    stats = bench.machine.stats(0.0)
    (environment,) = stats.environments
    assert (environment.up, environment.wanted, environment.starting, environment.leaving) == (0, 0, 0, 0)
    assert (stats.busy, stats.idle, bench.machine.workers()) == (2, 0, [])


def test_nothing_stops_or_replaces_what_they_run_on() -> None:
    bench = bench_of(2)
    bench.wants("c", wish(5, 1, env=OWN))
    bench.wants("c")
    bench.machine.worker_stuck(OWN, "1.1", 0.0)
    bench.machine.worker_worn_out(OWN, 0.0)
    assert bench.configure(workers=0) == []
    assert len(bench.machine.leases()) == 1


def test_another_number_counts_at_once() -> None:
    bench = bench_of(1)
    bench.wants("c", wish(5, 3, env=OWN))
    bench.coordinators["c"].wants = [wish(5, 2, env=OWN)]
    bench.says("c")
    assert granted(bench.configure(max_ray_tasks=2)) == [("c", OWN)]
    bench.coordinators["c"].wants = [wish(5, 1, env=OWN)]
    bench.configure(max_ray_tasks=1)
    assert [granted(bench.gives_back("c", "1.1")), granted(bench.gives_back("c", "1.2"))] == [[], [("c", OWN)]]


def test_they_end_with_their_coordinator() -> None:
    bench = bench_of(1)
    bench.wants("dead", wish(5, 1, Limit("key", 1), env=OWN))
    bench.wants("c", wish(5, 1, Limit("key", 1), env=OWN))
    bench.machine.forget("dead", 0.0)
    assert bench.decide() == [
        LeaseRevoked("dead", "1.1/key", OWN, RevokeReason.UNKNOWN),
        Grant("c", 1, "1.2/key", OWN, OWN, 5, limits=(Limit("key", 1),)),
    ]


def test_an_idle_environment_of_theirs_is_forgotten_without_a_word() -> None:
    bench = bench_of(1, environment_idle_timeout=100.0)
    bench.wants("c", wish(env=OWN))
    bench.wants("c")
    bench.gives_back("c")
    assert [bench.at(99.0), bench.at(100.0), bench.machine.environments()] == [[], [], []]
    assert granted(bench.wants("c", wish(env=OWN))) == [("c", OWN)]


def test_a_restarted_pool_takes_them_over() -> None:
    bench = Bench(epoch=2, up=False, config={"max_ray_tasks": 2}, settle=0.5)
    holder = bench.coordinators["c"] = Coordinator("c")
    holder.epoch, holder.held = 1, {new_token(1, 7): OWN}
    assert bench.says("c") == []
    assert [(lease.token, lease.worker) for lease in bench.machine.leases()] == [("1.7", OWN)]
    bench.wants("c", wish(5, 2, env=OWN))
    assert granted(bench.at(0.5)) == [("c", OWN)]


def test_their_workers_of_the_same_code_are_started_for_other_tasks_only() -> None:
    bench = bench_of(1)
    commands: list[Command] = bench.wants("c", wish(env=OWN), wish())
    assert [type(command) for command in commands] == [StartWorkers, Grant]


# --- starts that may be long in coming ------------------------------------------------------------------------
RATE = Limit("rate", 1, 10.0)


def waiting_for_its_process() -> Bench:
    """One has the only place of a limit on starts, and its process is not there yet; another waits for it."""
    bench = bench_of(5, start_within=2.0, lease_term=1000.0)
    assert [c.start_by for c in bench.wants("c", wish(5, 1, RATE, env=OWN)) if isinstance(c, Grant)] == [None]
    bench.wants("c")
    assert bench.wants("d", wish(5, 1, RATE, env=OWN)) == []
    return bench


def test_a_start_that_is_long_in_coming_keeps_its_place() -> None:
    bench = waiting_for_its_process()
    assert bench.machine.next_wake(0.0) == 1000.0
    assert granted(bench.at(500.0)) == []
    bench.coordinators["c"].begun = {"1.1": 495.0}
    assert granted(bench.says("c")) == []
    assert granted(bench.at(505.0)) == [("d", OWN)]


def test_a_start_whose_lease_was_given_back_has_been_by_then() -> None:
    bench = waiting_for_its_process()
    bench.at(100.0)
    assert granted(bench.gives_back("c", "1.1")) == []
    assert granted(bench.at(109.0)) == []
    assert granted(bench.at(110.0)) == [("d", OWN)]


def test_a_start_whose_coordinator_is_gone_may_just_be_on_its_way() -> None:
    bench = waiting_for_its_process()
    bench.at(100.0)
    bench.machine.forget("c", 100.0)
    assert granted(bench.at(111.0)) == []
    assert granted(bench.at(112.0)) == [("d", OWN)]
