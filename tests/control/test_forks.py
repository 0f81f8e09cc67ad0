"""Forks on a cluster: whoever dies, there is one of them, and it repeats nothing that it has taken over."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

import rayflow as rf
from rayflow.client.engine import backend_of
from rayflow.runtime.actors import actor_names
from tests.control.conftest import Open, kill_coordinator
from tests.control.flows import drafted
from tests.faults.processes.tools import kill, ledger_lines, until
from tests.runtime.cluster_fixtures import RayCluster

pytestmark = pytest.mark.ray

FORKING = """
import sys
import rayflow as rf
with rf.DistributedEngine(store=sys.argv[1], address=sys.argv[2], pool=rf.PoolConfig(workers=2)) as engine:
    number = 0
    while True:
        engine.fork("draft", before="held_up", id=f"fork-{number}", state={"number": number})
        print(number, flush=True)
        number += 1
"""


def words(ledger: Path) -> Counter[str]:
    return Counter(line[0] for line in ledger_lines(ledger))


def until_made(engine: rf.DistributedEngine, count: int) -> int:
    """Wait until there are more executions than that; answers how many there are."""

    def made() -> int:
        return len(engine.list(workflow="drafted", limit=1_000))

    until(lambda: made() > count, "it has forked more")
    return made()


def test_a_fork_goes_on_when_its_coordinator_dies_and_repeats_nothing_of_its_prefix(
    engine: rf.DistributedEngine, tmp_path: Path
) -> None:
    ledger, release = tmp_path / "ledger", tmp_path / "release"
    source = engine.start(drafted.options(id="draft"), str(ledger), str(release))
    until(lambda: words(ledger)["checked"] == 1, "the other execution is at that step")
    fork = engine.fork("draft", before="held_up", id="fork", state={"by": "ada"})
    until(lambda: words(ledger)["checked"] == 2, "so is the fork")
    kill_coordinator(engine, "fork")
    until(lambda: words(ledger)["checked"] >= 3, "that step runs again, for it was not recorded")
    kill(backend_of(engine).pid_of(actor_names.STORE))
    # Asked for twice, made once.
    again = engine.fork("draft", before="held_up", id="fork", state={"by": "ada"})
    with pytest.raises(rf.ExecutionAlreadyExists, match="a fork needs an id that no execution has"):
        engine.fork("draft", before="held_up", id="fork", state={"by": "bob"})
    release.touch()
    assert fork.result(timeout=60) == again.result(timeout=60) == ["first", "second", "checked", "ada"]
    assert source.result(timeout=60) == ["first", "second", "checked", None]
    ran = words(ledger)
    assert (ran["first"], ran["second"], ran["last"]) == (1, 1, 2)
    assert fork.status().forked_from == "draft"


@pytest.mark.system
def test_what_a_driver_forked_that_was_killed_is_there_once(
    open_engine: Open, ray_cluster: RayCluster, tmp_path: Path
) -> None:
    """It dies in the midst of a fork, while the store's actor dies, too: whoever repeats its calls finds each once."""
    engine = open_engine(park_idle_after=0.2)
    ledger, release = tmp_path / "ledger", tmp_path / "release"
    release.touch()
    engine.start(drafted.options(id="draft"), str(ledger), str(release)).result(timeout=60)
    driver = subprocess.Popen(
        [sys.executable, "-c", FORKING, engine.store, ray_cluster.address],
        env=ray_cluster.environ,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        before = until_made(engine, 5)
        kill(backend_of(engine).pid_of(actor_names.STORE))
        until_made(engine, before + 5)
        kill(driver.pid)
    finally:
        driver.kill()
        said, _ = driver.communicate()
    told = sum(line.strip().isdigit() for line in said.splitlines())  # Ray may print among them
    made = len(engine.list(workflow="drafted", limit=1_000)) - 1
    assert told <= made <= told + 1
    forks = [
        engine.fork("draft", before="held_up", id=f"fork-{number}", state={"number": number}) for number in range(made)
    ]
    assert len(engine.list(workflow="drafted", limit=1_000)) == made + 1
    for fork in forks:
        assert fork.result(timeout=60) == ["first", "second", "checked", None]
    ran = words(ledger)
    assert (ran["first"], ran["second"]) == (1, 1)
    assert ran["checked"] >= made + 1
