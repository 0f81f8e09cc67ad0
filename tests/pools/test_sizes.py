"""Pools are made, found again, scaled and drained while they work; workers are set up, worn out and replaced."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

import rayflow as rf
from rayflow.runtime.code.environment import Variables
from tests.faults.processes.tools import ledger_lines, until, until_longer
from tests.pools.conftest import Open
from tests.pools.flows import asking, broken_setup, make_client, many, naps
from tests.runtime.cluster_fixtures import RayCluster

pytestmark = pytest.mark.ray


def workers_of(pool: rf.WorkerPool) -> tuple[int, int]:
    now = pool.status()
    return now.workers - now.leaving, now.leaving


@pytest.mark.system
@pytest.mark.timeout(180)
def test_scaling_up_and_down_under_load_loses_and_repeats_nothing(open_engine: Open, tmp_path: Path) -> None:
    engine, ledger = open_engine(workers=2, concurrency=2), tmp_path / "ledger"
    pool = engine.pools.get()
    handle = engine.start(many, str(ledger), 0, 600, 0.1)
    for size in (6, 1, 3):
        until_longer(ledger, len(ledger_lines(ledger)) + 40)
        pool.scale(size)
        until(lambda size=size: workers_of(pool) == (size, 0), f"there are {size} workers")  # type: ignore[misc]
    assert handle.result(timeout=100) == sum(range(600))
    begun = Counter(int(number) for what, number, _ in ledger_lines(ledger) if what == "begin")
    assert begun == dict.fromkeys(range(600), 1)


@pytest.mark.system
@pytest.mark.timeout(180)
def test_a_pool_grows_from_nothing_with_its_work_and_shrinks_back_to_nothing(open_engine: Open, tmp_path: Path) -> None:
    engine, ledger = open_engine(min_workers=0, max_workers=4, concurrency=2, idle_timeout=1), tmp_path / "ledger"
    pool = engine.pools.get()
    assert pool.status().workers == 0
    handle = engine.start(many, str(ledger), 0, 160, 0.1)
    until(lambda: pool.status().workers == 4, "there are 4 workers")
    assert handle.result(timeout=60) == sum(range(160))
    until(lambda: pool.status().workers == 0, "no worker is left")
    assert engine.start(many, str(ledger), 500, 2, 0.0).result(60) == 1001


@pytest.mark.system
def test_a_pool_is_found_again_by_name_and_drained_and_deleted(
    open_engine: Open, tmp_path: Path, ray_cluster: RayCluster
) -> None:
    engine = open_engine(workers=1)
    engine.pools.create(rf.PoolConfig(name="clients", workers=2, setup=make_client))
    with rf.DistributedEngine(store=engine.store, address=ray_cluster.address) as other:
        assert [pool.name for pool in other.pools.list()] == ["clients", "default"]
        assert other.start(asking, 10).result(60) == 10
        found = other.pools.get("clients")
        assert found.drain(timeout=30)
        waiting = other.start(asking, 3)
        until(lambda: found.status().queued, "the tasks wait")
        with pytest.raises(rf.PoolInUse, match=r"is in use: \d+ tasks wait"):
            found.delete()
        found.scale(1)
        assert waiting.result(timeout=60) == 3
        found.delete()
        with pytest.raises(rf.PoolNotFound, match="existing pools: default"):
            other.pools.get("clients")
        with pytest.raises(rf.ExecutionFailed, match="no worker pool is named 'clients'"):
            other.start(asking, 1).result(60)


@pytest.mark.system
def test_a_setup_that_fails_is_told_and_one_that_needs_what_is_not_there(open_engine: Open) -> None:
    engine = open_engine(workers=1)
    broken = engine.pools.create(rf.PoolConfig(name="clients", workers=1, setup=broken_setup))
    handle = engine.start(asking, 1)
    until(lambda: "no such host" in broken.status().problem, "the pool says why its workers do not start")
    handle.cancel()
    hungry = engine.pools.create(rf.PoolConfig(name="hungry", workers=1, num_gpus=3))
    engine._system.find("rayflow:pool:hungry").call("want", engine._environment.to_json(), Variables())
    until(lambda: "3 GPU, and no node has any" in hungry.status().problem, "the pool says what is missing")


@pytest.mark.system
def test_a_worker_is_replaced_after_so_many_tasks(open_engine: Open, tmp_path: Path) -> None:
    engine, ledger = open_engine(workers=1, concurrency=1, max_tasks_per_worker=10), tmp_path / "ledger"
    assert engine.start(many, str(ledger), 0, 30, 0.03).result(100) == sum(range(30))
    lines = [(int(number), pid) for what, number, pid in ledger_lines(ledger) if what == "begin"]
    by_worker = Counter(pid for _, pid in lines)
    assert sorted(number for number, _ in lines) == list(range(30))
    assert sorted(by_worker.values()) == [10, 10, 10]


@pytest.mark.system
def test_hundreds_of_async_steps_run_at_once_on_one_worker(open_engine: Open) -> None:
    engine = open_engine(workers=1, concurrency=200)
    engine.start(naps, 1, 0.0).result(60)
    handle = engine.start(naps, 200, 5.0)
    until(lambda: engine.pools.get().status().busy == 200, "all of them run")
    handle.result(timeout=60)
