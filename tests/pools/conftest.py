"""Engines on the shared cluster, each with a store, a namespace and a default pool of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import rayflow as rf
from tests.runtime.cluster_fixtures import RayCluster, ray_cluster

__all__ = ["ray_cluster"]

Open = Callable[..., rf.DistributedEngine]


@pytest.fixture
def open_engine(ray_cluster: RayCluster, tmp_path: Path) -> Iterator[Open]:
    """Opens an engine with a default pool as it is given; its actors are stopped at the end."""
    engines: list[rf.DistributedEngine] = []

    def opened(*, ping_timeout: float | None = None, **pool: Any) -> rf.DistributedEngine:
        engine = rf.DistributedEngine(
            store=f"sqlite:///{tmp_path}/flows.db",
            address=ray_cluster.address,
            pool=rf.PoolConfig(**pool),
            ping_timeout=ping_timeout,
        )
        engines.append(engine)
        return engine

    yield opened
    for engine in engines:
        engine.shutdown()
