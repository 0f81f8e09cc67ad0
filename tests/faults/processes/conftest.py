"""Engines on the shared cluster, each with a store and namespace of its own; tests of a module share theirs."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import rayflow as rf
from tests.runtime.cluster_fixtures import RayCluster, folder, ray_cluster

__all__ = ["folder", "ray_cluster"]


@pytest.fixture(scope="module")
def engine(ray_cluster: RayCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[rf.DistributedEngine]:
    """An engine on the shared cluster; its actors are stopped at the end of the module."""
    store = f"sqlite:///{tmp_path_factory.mktemp('store')}/flows.db"
    engine = rf.DistributedEngine(store=store, address=ray_cluster.address, pool=rf.PoolConfig(workers=2))
    yield engine
    engine.shutdown()


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """A folder with a short path, as the sockets of a cluster of one's own need it."""
    folder = Path(tempfile.mkdtemp(prefix="rf-"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)
