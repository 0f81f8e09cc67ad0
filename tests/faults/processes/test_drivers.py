"""Drivers come and go; what they started goes on, each with its own code."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import rayflow as rf
from tests.faults.processes.flows import ledger_chain
from tests.faults.processes.tools import alive, kill, ledger_lines, until, until_longer
from tests.runtime.cluster_fixtures import RayCluster

pytestmark = pytest.mark.ray

DRIVER = """
import sys, time
import rayflow as rf
from tests.faults.processes.flows import chain_until
engine = rf.DistributedEngine(store=sys.argv[1], address=sys.argv[2], pool=rf.PoolConfig(workers=2))
handle = engine.start(chain_until.options(id="survivor"), *sys.argv[3:])
print("started", flush=True)
handle.result()
"""

FLOWS = """
import rayflow as rf

@rf.step
def who() -> str:
    return {name!r}

@rf.workflow
async def introduce() -> str:
    return await who()
"""

INTRODUCE = """
import sys
import rayflow as rf
import flows
with rf.DistributedEngine(store=sys.argv[1], address=sys.argv[2], pool=rf.PoolConfig(workers=2)) as engine:
    print([engine.start(flows.introduce).result(60) for _ in range(3)])
"""


def test_an_execution_outlives_its_driver(
    engine: rf.DistributedEngine, ray_cluster: RayCluster, tmp_path: Path
) -> None:
    ledger, stop = tmp_path / "ledger", tmp_path / "stop"
    driver = subprocess.Popen(
        [sys.executable, "-c", DRIVER, engine.store, ray_cluster.address, str(ledger), str(stop)],
        env=ray_cluster.environ,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert driver.stdout is not None
        until(lambda: len(ledger_lines(ledger)) > 5, "the execution is under way")
        kill(driver.pid)
    finally:
        driver.kill()
        driver.communicate()
    assert not alive(driver.pid)
    until_longer(ledger, len(ledger_lines(ledger)) + 5)
    stop.touch()
    length = engine.handle("survivor").result(timeout=60)
    assert [int(number) for number, _ in ledger_lines(ledger)] == list(range(length))


def test_the_same_id_is_one_execution(engine: rf.DistributedEngine, tmp_path: Path) -> None:
    ledger = str(tmp_path / "ledger")
    first = engine.start(ledger_chain.options(id="once"), ledger, 5)
    second = engine.start(ledger_chain.options(id="once"), ledger, 5)
    assert first.result(timeout=60) == second.result(timeout=60) == 10
    assert engine.start(ledger_chain.options(id="once"), ledger, 5).result(timeout=60) == 10
    assert len(ledger_lines(Path(ledger))) == 5
    with pytest.raises(rf.ExecutionAlreadyExists, match="another input"):
        engine.start(ledger_chain.options(id="once"), ledger, 6)
    assert [found.execution_id for found in engine.list(workflow="ledger_chain")].count("once") == 1


def test_two_folders_with_modules_of_the_same_name(ray_cluster: RayCluster, tmp_path: Path) -> None:
    """Each driver's executions run the code of its own folder, although both call it ``flows``."""
    store = f"sqlite:///{tmp_path}/flows.db"
    drivers = {}
    for name in ("one", "another"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "flows.py").write_text(FLOWS.format(name=name))
        (folder / "main.py").write_text(INTRODUCE)
        drivers[name] = subprocess.Popen(
            [sys.executable, "main.py", store, ray_cluster.address],
            cwd=folder,
            env=ray_cluster.environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
    try:
        for name, driver in drivers.items():
            out, err = driver.communicate(timeout=120)
            assert str([name] * 3) in out.splitlines(), out + err  # Ray may print warnings after it
    finally:
        for driver in drivers.values():
            driver.kill()
            driver.communicate()
        engine = rf.DistributedEngine(store=store, address=ray_cluster.address)
        engine.shutdown()
