"""Engines on the shared cluster, and how to kill what drives an execution."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import rayflow as rf
from tests.faults.tools import kill, until
from tests.runtime.cluster_fixtures import RayCluster, ray_cluster

__all__ = ["ray_cluster"]

Open = Callable[..., rf.DistributedEngine]


@pytest.fixture
def open_engine(ray_cluster: RayCluster, tmp_path: Path) -> Iterator[Open]:
    """Opens an engine with settings; its actors are stopped at the end."""
    engines: list[rf.DistributedEngine] = []

    def opened(**settings: Any) -> rf.DistributedEngine:
        engine = rf.DistributedEngine(
            store=f"sqlite:///{tmp_path}/flows.db",
            address=ray_cluster.address,
            pool=rf.PoolConfig(workers=2),
            **settings,
        )
        engines.append(engine)
        return engine

    yield opened
    for engine in engines:
        engine.shutdown()


@pytest.fixture
def engine(open_engine: Open) -> rf.DistributedEngine:
    """An engine that parks soon."""
    return open_engine(park_after=0.2)


def kill_coordinator(engine: rf.DistributedEngine, execution_id: str) -> None:
    """Kill the process that drives an execution."""
    until(lambda: engine.record(execution_id).owner, f"somebody drives {execution_id}")
    kill(engine.pid_of(engine.record(execution_id).coordinator))


def until_parked(engine: rf.DistributedEngine, execution_id: str) -> None:
    """Wait until nobody drives an execution that is not over."""

    def parked() -> bool:
        record = engine.record(execution_id)
        return (
            record.epoch > 0
            and record.owner == ""
            and not record.status.terminal
            and record.inbox_done == record.inbox_last
        )

    until(parked, f"{execution_id} is parked")
