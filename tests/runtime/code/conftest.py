"""A cluster, and a project of the user's that is edited while it runs."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

import rayflow as rf
from tests.runtime.cluster_fixtures import RayCluster, ray_cluster

__all__ = ["ray_cluster"]

Open = Callable[..., rf.DistributedEngine]

FLOWS = """
import {name}_helper as helper
from {name}_package import words
import rayflow as rf

FLOW = "{version}"

@rf.step
def said() -> list[str]:
    import {name}_late as late
    return ["{version}", helper.VERSION, words.VERSION, late.VERSION]

@rf.workflow
async def once() -> list[str]:
    return [*await said(), FLOW]

@rf.workflow
async def twice() -> list[str]:
    first = await said()
    await rf.wait_for_signal("go")
    {more}
    return [*first, FLOW, *await said()]

@rf.workflow
async def slept() -> list[str]:
    first = await said()
    await asyncio.sleep(4)
    return [*first, FLOW, *await said()]
"""


class Project:
    """Modules in a folder of their own: a workflow with steps, a helper, a package, and what only steps import.

    Args:
        folder: where they are.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.name = f"project_{uuid.uuid4().hex[:8]}"
        (folder / f"{self.name}_package").mkdir(parents=True)
        (folder / f"{self.name}_package" / "__init__.py").touch()
        self.edit("1")

    def edit(self, version: str, *, parts: str = "flows helper package late", more: str = "") -> None:
        """Write a version of some of the parts; all versions are as long as the others."""
        for part in parts.split():
            file = {"flows": f"{self.name}.py", "package": f"{self.name}_package/words.py"}.get(
                part, f"{self.name}_{part}.py"
            )
            text = f'VERSION = "{version}"\n'
            if part == "flows":
                text = "import asyncio\n" + FLOWS.format(name=self.name, version=version, more=more)
            (self.folder / file).write_text(text)

    @property
    def flows(self) -> Any:
        """The workflows, as this process has imported them: once, before any edit."""
        return importlib.import_module(self.name)

    def run(self, environ: dict[str, str], store: str, workflow: str = "once") -> list[str]:
        """Run a workflow from a script of the project, in a process of its own, as a user does."""
        script = (
            f"import {self.name} as flows, rayflow as rf\n"
            f"with rf.DistributedEngine(store={store!r}, pool=rf.PoolConfig(workers=2)) as engine:\n"
            f"    print(*engine.start(flows.{workflow}).result(timeout=60))\n"
        )
        (self.folder / "run.py").write_text(script)
        done = subprocess.run(
            [sys.executable, "run.py"], cwd=self.folder, env=environ, capture_output=True, text=True, check=False,
            timeout=120,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()[-1].split()


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Project]:
    """A project that this process imports from."""
    made = Project(tmp_path / "project")
    monkeypatch.syspath_prepend(str(made.folder))
    yield made
    for name in [name for name in sys.modules if name.startswith(made.name)]:
        del sys.modules[name]


@pytest.fixture
def open_engine(ray_cluster: RayCluster, tmp_path: Path) -> Iterator[Open]:
    """Opens an engine; its actors are stopped at the end."""
    with ExitStack() as stack:

        def open_one(**settings: Any) -> rf.DistributedEngine:
            store = f"sqlite:///{tmp_path}/flows.db"
            engine = rf.DistributedEngine(
                store=store, address=ray_cluster.address, pool=rf.PoolConfig(workers=2), **settings
            )
            stack.callback(engine.shutdown)
            return engine

        yield open_one


@pytest.fixture
def environ(ray_cluster: RayCluster) -> dict[str, str]:
    """The environment of a script that is to find the cluster."""
    return {**os.environ, **ray_cluster.environ, "RAY_ADDRESS": ray_cluster.address}
