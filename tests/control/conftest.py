"""Engines on the shared cluster, which tests of a module share, and how to kill what drives an execution."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

import rayflow as rf
from rayflow.client.engine import backend_of
from tests.faults.processes.tools import kill, until
from tests.runtime.cluster_fixtures import RayCluster, ray_cluster

__all__ = ["ray_cluster"]

Open = Callable[..., rf.DistributedEngine]


def opened(cluster: RayCluster, folder: Path, **settings: Any) -> rf.DistributedEngine:
    """An engine with a store in that folder."""
    store, pool = f"sqlite:///{folder}/flows.db", rf.PoolConfig(workers=2)
    return rf.DistributedEngine(store=store, address=cluster.address, pool=pool, **settings)


@pytest.fixture
def open_engine(ray_cluster: RayCluster, tmp_path: Path) -> Iterator[Open]:
    """Opens an engine with settings for one test; its actors are stopped at the end."""
    with ExitStack() as stack:

        def open_one(**settings: Any) -> rf.DistributedEngine:
            engine = opened(ray_cluster, tmp_path, **settings)
            stack.callback(engine.shutdown)
            return engine

        yield open_one


@pytest.fixture(scope="module")
def engine(ray_cluster: RayCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[rf.DistributedEngine]:
    """An engine that parks soon, for all tests of a module."""
    engine = opened(ray_cluster, tmp_path_factory.mktemp("store"), park_idle_after=0.2)
    yield engine
    engine.shutdown()


@pytest.fixture
def driven(open_engine: Open) -> rf.DistributedEngine:
    """An engine that parks nothing during a test: every unfinished execution has, or gets, a coordinator."""
    return open_engine(park_idle_after=600.0)


def kill_coordinator(engine: rf.DistributedEngine, execution_id: str) -> None:
    """Kill the process that drives an execution.

    For executions that cannot be parked now: a step of theirs is under way, or their engine is ``driven``. A parked
    execution has no coordinator, and may never get one. If the coordinator has just died, wait for the next one.
    """
    found: list[int] = []

    def driven() -> bool:
        record = backend_of(engine).record(execution_id)
        if not record.owner:
            return False
        try:
            found.append(backend_of(engine).pid_of(record.coordinator))
        except rf.ClusterError:  # it died, and no other one has claimed the execution yet
            return False
        return True

    until(driven, f"a coordinator drives {execution_id}")
    kill(found[-1])


def until_parked(engine: rf.DistributedEngine, execution_id: str) -> None:
    """Wait until nobody drives an execution that is not over."""

    def parked() -> bool:
        record = backend_of(engine).record(execution_id)
        return (
            record.epoch > 0
            and record.owner == ""
            and not record.status.terminal
            and record.inbox_done == record.inbox_last
        )

    until(parked, f"{execution_id} is parked")
