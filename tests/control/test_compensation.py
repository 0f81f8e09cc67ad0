"""Compensations and runs that continue as new, on a cluster."""

from __future__ import annotations

from pathlib import Path

import pytest

import rayflow as rf
from tests.control.conftest import kill_coordinator, until_parked
from tests.control.flows import cancelled_saga, looping, saga
from tests.faults.processes.tools import ledger_lines, until

pytestmark = pytest.mark.ray


def test_compensations_go_on_where_the_coordinator_died(engine: rf.DistributedEngine, tmp_path: Path) -> None:
    ledger, release = tmp_path / "ledger", tmp_path / "release"
    handle = engine.start(saga.options(id="saga"), str(ledger), 3, str(release))
    until(lambda: ["undo-2"] in ledger_lines(ledger), "it undoes the last thing")
    kill_coordinator(engine, "saga")
    release.touch()
    with pytest.raises(rf.ExecutionFailed, match="ValueError: no"):
        handle.result(timeout=60)
    lines = [" ".join(line) for line in ledger_lines(ledger)]
    assert [line for line in lines if line.startswith("do")] == ["do 0", "do 1", "do 2"]
    assert list(dict.fromkeys(line for line in lines if line.startswith("undo"))) == ["undo-2", "undo-1", "undo-0"]
    assert [step.kind for step in handle.status().steps] == ["step"] * 4 + ["undo"] * 3
    with pytest.raises(rf.InvalidTransition):
        handle.resume()  # what it did is undone


def test_a_cancelled_one_cleans_up_and_then_undoes(engine: rf.DistributedEngine, tmp_path: Path) -> None:
    ledger = tmp_path / "ledger"
    handle = engine.start(cancelled_saga.options(id="cancelled"), str(ledger))
    until_parked(engine, "cancelled")
    handle.cancel("changed my mind")
    with pytest.raises(rf.ExecutionCancelled, match="changed my mind"):
        handle.result(timeout=60)
    assert ledger_lines(ledger) == [["do"], ["cleaned"], ["undone"]]


@pytest.mark.system
def test_an_endless_one_continues_as_new_with_its_state_and_its_signals(
    engine: rf.DistributedEngine, tmp_path: Path
) -> None:
    ledger, release = tmp_path / "ledger", tmp_path / "release"
    handle = engine.start(looping.options(id="loop"), str(ledger), str(release), 0, 10)
    handle.signal("kept", "from before")
    until(lambda: ["5"] in ledger_lines(ledger), "it is half-way")
    kill_coordinator(engine, "loop")
    release.touch()
    assert handle.result(timeout=60) == [10, "from before"]
    snapshot = handle.status()
    assert (snapshot.run, snapshot.state) == (11, {"number": 10})
    assert list(dict.fromkeys(number for [number] in ledger_lines(ledger))) == [str(n) for n in range(11)]
    assert len(snapshot.steps) == 1
