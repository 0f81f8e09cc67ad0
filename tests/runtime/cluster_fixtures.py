"""One Ray cluster for all tests of a session that need one, and a separate namespace for each test.

A folder of tests gets the fixtures by importing them in its conftest.py::

    from tests.runtime.cluster_fixtures import ray_cluster, system  # noqa: F401 - fixtures

However many folders do that, there is one cluster: the first test that needs it starts it, and the end of the
session stops it.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from rayflow.runtime.actors.ray_system import RaySystem
from rayflow.runtime.cluster import connection as cluster
from rayflow.runtime.cluster import processes

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class RayCluster:
    """The shared cluster. The session's process is in it."""

    address: str
    mark: str
    environ: dict[str, str]


def own_environment(folder: Path) -> dict[str, str]:
    """The environment of a cluster that no other one gets in the way of.

    Args:
        folder: where it lives; a short path, since Ray's sockets lie below it.
    """
    return {
        **{name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"},
        "RAYFLOW_HOME": str(folder / "home"),
        "RAY_TMPDIR": str(folder),
        "RAY_worker_niceness": "0",
        "PYTHONPATH": str(ROOT),
    }


class _Shared:
    """The cluster, and for how many fixtures it is there."""

    def __init__(self) -> None:
        self.users = 0
        self.folder = Path()
        self.cluster: RayCluster | None = None
        self.patch = pytest.MonkeyPatch()

    def enter(self) -> RayCluster:
        if self.cluster is None:
            self.folder = Path(tempfile.mkdtemp(prefix="rf-"))
            environ = own_environment(self.folder)
            for name, value in environ.items():
                self.patch.setenv(name, value)
            self.patch.delenv("RAY_ADDRESS", raising=False)
            local, _ = cluster.up(num_cpus=4, dashboard=False, environ=environ)
            self.cluster = RayCluster(local.address, local.mark, environ)
        self.users += 1
        return self.cluster

    def leave(self) -> None:
        self.users -= 1
        if self.users or self.cluster is None:
            return
        try:
            cluster.down(environ=self.cluster.environ)
            assert processes.carrying(self.cluster.mark) == []
        finally:
            self.cluster = None
            self.patch.undo()
            shutil.rmtree(self.folder)


_shared = _Shared()


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[RayCluster]:
    """The shared cluster of 4 CPUs; this process is in it."""
    shared = _shared.enter()
    try:
        connection = cluster.connect(shared.address, environ=shared.environ)
        yield shared
        connection.close()
    finally:
        _shared.leave()


@pytest.fixture
def folder() -> Iterator[Path]:
    """Where a cluster of a test's own lives: a short path, since Ray's sockets lie below it."""
    folder = Path(tempfile.mkdtemp(prefix="rf-"))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def system(ray_cluster: RayCluster) -> Iterator[RaySystem]:
    """The actors of a namespace that is the test's own; those that are left at its end are killed."""
    system = RaySystem(f"test-{uuid.uuid4().hex[:8]}")
    yield system
    for name in system.names():
        system.kill(name)
