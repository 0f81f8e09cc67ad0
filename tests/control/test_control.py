"""Forks, schedules, singletons and pauses, on a cluster."""

from __future__ import annotations

from pathlib import Path

import pytest

import rayflow as rf
from rayflow.client.engine import backend_of
from rayflow.runtime.actors import actor_names
from tests.control.conftest import kill_coordinator
from tests.control.flows import chain, idle, job, saga
from tests.faults.processes.tools import kill, ledger_lines, until

pytestmark = pytest.mark.ray


def test_a_fork_takes_over_what_was_recorded_and_does_the_rest_again(
    engine: rf.DistributedEngine, tmp_path: Path
) -> None:
    ledger = tmp_path / "ledger"
    assert engine.start(chain.options(id="one"), str(ledger), "1").result(60) == ["a1", "b1", "cnobody"]
    fork = engine.fork("one", before=3, state={"reviewer": "ada"}, id="two")
    assert fork.result(timeout=60) == ["a1", "b1", "cada"]
    other = engine.fork("one", before=2, args=(str(ledger), "2"))
    assert other.result(timeout=60) == ["a1", "b2", "cnobody"]
    assert [line[0] for line in ledger_lines(ledger)] == ["a1", "b1", "cnobody", "cada", "b2", "cnobody"]
    assert fork.status().forked_from == "one"
    with pytest.raises(rf.InvalidTransition, match="Its calls so far"):
        engine.fork("one", before="nowhere")


@pytest.mark.system
def test_a_fork_of_what_is_to_be_undone_has_to_be_told(engine: rf.DistributedEngine, tmp_path: Path) -> None:
    ledger, release = tmp_path / "ledger", tmp_path / "release"
    release.touch()
    with pytest.raises(rf.ExecutionFailed):
        engine.start(saga.options(id="undone"), str(ledger), 2, str(release)).result(60)
    with pytest.raises(rf.InvalidTransition, match="compensation 'held_up'"):
        engine.fork("undone", before="failing")


@pytest.mark.system
def test_a_schedule_goes_on_while_its_supervisor_dies(engine: rf.DistributedEngine) -> None:
    engine.schedules.create("often", job.call(7), rf.Schedule(every=1, overlap="allow"))
    until(lambda: engine.schedules.get("often").runs >= 2, "it has started two")
    kill(backend_of(engine).pid_of(actor_names.SUPERVISOR))
    until(lambda: engine.schedules.get("often").runs >= 6, "it goes on")
    engine.schedules.pause("often")
    info = engine.schedules.get("often")
    started = [snapshot.execution_id for snapshot in engine.list(workflow="job")]
    assert len(started) == len(set(started)) == info.runs
    dues = sorted(started)
    assert all(name.startswith("often@") for name in dues)
    assert info.missed == info.skipped == 0
    handle = engine.schedules.trigger("often")
    assert handle.result(timeout=60) == 7
    engine.schedules.delete("often")


def test_of_a_singleton_there_is_one_at_a_time(engine: rf.DistributedEngine) -> None:
    alone = idle.options(singleton="customer-7")
    first = engine.start(alone.options(id="first"))
    with pytest.raises(rf.SingletonConflict) as refused:
        engine.start(alone.options(id="second"))
    assert refused.value.execution_id == "first"
    assert engine.start(alone.options(id="first")).id == "first"
    first.cancel()
    until(first.done, "it is over")
    second = engine.start(alone.options(id="second"))
    second.cancel()


@pytest.mark.system
def test_a_pause_survives_the_coordinator_and_keeps_what_arrives(engine: rf.DistributedEngine, tmp_path: Path) -> None:
    ledger, release = tmp_path / "ledger", tmp_path / "release"
    handle = engine.start(saga.options(id="saga"), str(ledger), 2, str(release))
    until(lambda: ["undo-1"] in ledger_lines(ledger), "the first compensation runs")
    handle.pause("look at it")
    kill_coordinator(engine, "saga")
    release.touch()
    until(
        lambda: backend_of(engine).record("saga").epoch > 1 and not backend_of(engine).record("saga").owner,
        "another one took it up",
    )
    assert handle.status().status == "paused"
    assert ["undo-0"] not in ledger_lines(ledger), "nothing new begins"
    handle.resume()
    with pytest.raises(rf.ExecutionFailed, match="ValueError: no"):
        handle.result(timeout=60)
    assert ledger_lines(ledger)[-1] == ["undo-0"]
