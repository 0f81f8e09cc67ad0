"""Two clusters that point at one store: the second is refused, or takes it over; nothing is ever shared."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from multiprocessing.managers import RemoteError
from pathlib import Path

import pytest

import rayflow as rf
from rayflow.errors import WriterFenced
from tests.clusters import PATIENT, ManyNodes
from tests.faults.nodes.node_flows import check, read, stop_file
from tests.faults.nodes.node_hands import Driver
from tests.faults.processes.tools import until

pytestmark = [pytest.mark.system, pytest.mark.cluster, pytest.mark.timeout(300)]

OPTIONS = {"pool": rf.PoolConfig(workers=1), "max_coordinators": 1, "standby_coordinators": 0}


@pytest.fixture
def clusters(folder: Path) -> Iterator[list[ManyNodes]]:
    """Two that know nothing of each other."""
    with ExitStack() as down:
        made = []
        for name in ("a", "b"):
            made.append(ManyNodes(folder / name, settings=PATIENT))
            down.callback(made[-1].down)
        yield made


def test_the_second_cluster_is_refused_or_takes_over(clusters: list[ManyNodes], folder: Path) -> None:
    first, second = clusters
    store, ledger = f"sqlite:///{folder}/flows.db", folder / "ledger"
    with Driver.begun(first.environ) as driver, Driver.begun(second.environ) as rival:
        theirs = driver.open(store, first.address, **OPTIONS)
        theirs.start("chain", str(ledger), 0.1)
        until(lambda: len(read(ledger)) > 5, "the first cluster is at work")
        with pytest.raises(RemoteError, match=r"is being written by namespace .* of Ray cluster .*--take-over"):
            rival.open(store, second.address, **OPTIONS)
        before = len(read(ledger))
        until(lambda: len(read(ledger)) > before + 5, "the first cluster goes on")
        assert {line.epoch for line in read(ledger)} == {1}

        ours = rival.open(store, second.address, take_over=True, **OPTIONS)
        assert ours.recovered() == ["chain"]
        until(lambda: any(line.epoch > 1 for line in read(ledger)), "the second cluster goes on with it")
        with pytest.raises(WriterFenced, match="was taken over by namespace"):
            theirs.status("chain")
        with pytest.raises(WriterFenced, match="was taken over by namespace"):
            theirs.start("late", str(folder / "late"), 0.1)
        until(lambda: not any("coordinator" in name for name in theirs.pids()), "the first one has stopped driving")
        recorded = ours.recorded("chain")
        stop_file(ledger).touch()
        check(read(ledger), ours.result("chain", 60.0), recorded)
        assert not (folder / "late").exists()
        ours.shutdown()
