"""The head dies with all that is on it; a new cluster on the same store goes on, whatever kind of store it is."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import rayflow as rf
from tests.clusters import PATIENT, ManyNodes
from tests.faults.nodes.node_flows import check, read, stop_file
from tests.faults.nodes.node_hands import Driver
from tests.faults.processes.tools import until

pytestmark = [pytest.mark.system, pytest.mark.cluster, pytest.mark.timeout(300)]

#: Two for each store, so that one coordinator may be on the head and one elsewhere.
CHAINS = 2
OPTIONS = {"pool": rf.PoolConfig(workers=2), "max_coordinators": 2, "standby_coordinators": 0}


@pytest.fixture
def cluster(folder: Path) -> Iterator[ManyNodes]:
    """A head, and a node that is left without it."""
    cluster = ManyNodes(folder / "a", settings=PATIENT)
    try:
        cluster.add()
        yield cluster
    finally:
        cluster.down()


def test_a_new_cluster_goes_on_with_what_the_head_left(cluster: ManyNodes, folder: Path) -> None:
    stores = {"file": f"sqlite:///{folder}/flows.db", "objects": f"file://{folder}/flows"}
    ledgers = {f"{kind}-{number}": folder / f"{kind}-{number}" for kind in stores for number in range(CHAINS)}
    recorded: dict[str, dict[int, str]] = {}
    with Driver.begun(cluster.environ) as driver:
        for kind, store in stores.items():
            hands = driver.open(store, cluster.address, **OPTIONS)
            for name in [name for name in ledgers if name.startswith(kind)]:
                hands.start(name, str(ledgers[name]), 0.1)
        until(lambda: all(len(read(ledger)) > 10 for ledger in ledgers.values()), "all chains are under way")
        for kind, store in stores.items():
            hands = driver.open(store, cluster.address, **OPTIONS)
            recorded |= {name: hands.recorded(name) for name in ledgers if name.startswith(kind)}
    cluster.lose_head()
    before = {name: len(read(ledger)) for name, ledger in ledgers.items()}

    successor = ManyNodes(folder / "b", settings=PATIENT)
    try:
        with Driver.begun(successor.environ) as driver:
            for kind, store in stores.items():
                hands = driver.open(store, successor.address, **OPTIONS)
                mine = [name for name in ledgers if name.startswith(kind)]
                assert sorted(hands.recovered()) == mine
                up = time.time()
                for name in mine:
                    until(lambda name=name: len(read(ledgers[name])) > before[name] + 5, f"{name} goes on")  # type: ignore[misc]
                    assert read(ledgers[name])[-1].at > up - 30
                    stop_file(ledgers[name]).touch()
                for name in mine:
                    check(read(ledgers[name]), hands.result(name, 60.0), recorded[name])
                hands.shutdown()
    finally:
        successor.down()
