"""A step that cannot be stopped costs its worker, and its neighbours on that worker nothing."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

import rayflow as rf
from tests.faults.processes.tools import alive, ledger_lines, until
from tests.pools.conftest import Open
from tests.pools.flows import beside_a_stubborn_one, many

pytestmark = pytest.mark.ray


@pytest.mark.system
def test_a_step_that_does_not_stop_is_fenced_and_its_worker_replaced_when_its_neighbours_are_done(
    open_engine: Open, tmp_path: Path
) -> None:
    engine, ledger = open_engine(workers=1, concurrency=3, stop_grace=0.3), tmp_path / "ledger"
    handle = engine.start(beside_a_stubborn_one, str(ledger), str(tmp_path / "go"))
    until(lambda: len(ledger_lines(ledger)) == 3, "all three run")
    [worker] = {int(pid) for _, pid in ledger_lines(ledger)}
    # The stubborn one is given up, its worker is to go, and its neighbours still run there.
    until(lambda: engine.pools.get().status().leaving == 1, "the worker is to be replaced")
    assert alive(worker)
    assert handle.status().steps[0].error is not None
    (tmp_path / "go").touch()
    assert handle.result(timeout=60) == ["attempt 2", "released", "released"]
    runs = Counter(name for name, _ in ledger_lines(ledger))
    assert runs == {"stubborn": 2, "neighbour": 2}
    until(lambda: not alive(worker), "the worker is gone, and with it what would not stop")
    assert int(ledger_lines(ledger)[-1][1]) != worker
    assert engine.start(many, str(tmp_path / "more"), 0, 4, 0.0).result(60) == 6


@pytest.mark.system
def test_a_cancelled_execution_stops_what_runs(open_engine: Open, tmp_path: Path) -> None:
    engine, ledger = open_engine(workers=1, concurrency=3, stop_grace=0.3), tmp_path / "ledger"
    handle = engine.start(beside_a_stubborn_one, str(ledger), str(tmp_path / "go"))
    until(lambda: len(ledger_lines(ledger)) == 3, "all three run")
    [worker] = {int(pid) for _, pid in ledger_lines(ledger)}
    handle.cancel()
    with pytest.raises(rf.ExecutionCancelled):
        handle.result(timeout=60)
    until(lambda: not alive(worker), "the worker is gone")
    until(lambda: engine.pools.get().status().workers == 1, "there is another one")
