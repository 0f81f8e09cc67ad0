"""Steps as Ray tasks of their own, heartbeats and progress, and what can be seen of attempts."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import rayflow as rf
from tests.faults.processes.tools import ledger_lines, until
from tests.pools.conftest import Open
from tests.pools.flows import hopeless, in_processes, measuring, oversleeping, silence

pytestmark = pytest.mark.ray


def test_steps_that_reserve_resources_run_in_processes_of_their_own(open_engine: Open, tmp_path: Path) -> None:
    engine, ledger = open_engine(workers=1), tmp_path / "ledger"
    handle = engine.start(in_processes, str(ledger))
    assert handle.result(timeout=100) == [3, "lived"]
    steps = handle.status().steps
    assert [step.attempts for step in steps] == [1, 1, 1, 2]
    died = [task for task in engine.tasks(handle.id) if task.status == "failed"]
    assert [(task.name, task.attempt) for task in died] == [("own_process_dies", 1)]
    assert died[0].last_error is not None
    assert "died" in died[0].last_error.message
    assert os.getpid() not in {int(pid) for _, pid in ledger_lines(ledger)}


@pytest.mark.system
def test_one_that_takes_too_long_is_stopped(open_engine: Open, tmp_path: Path) -> None:
    engine, ledger = open_engine(workers=1), tmp_path / "ledger"
    with pytest.raises(rf.ExecutionFailed, match="took longer than its timeout of 1 s"):
        engine.start(oversleeping, str(ledger)).result(60)
    until(lambda: ledger_lines(ledger), "it has seen that it is to stop")


@pytest.mark.system
def test_one_that_no_node_can_satisfy_says_so_and_can_be_cancelled(open_engine: Open) -> None:
    engine = open_engine(workers=1)
    handle = engine.start(hopeless)
    until(lambda: handle.status().steps and handle.status().steps[0].waits_for, "the step says what it waits for")
    said = handle.status().steps[0].waits_for
    assert said.startswith("it needs 2 unobtainium, and no node has any; the nodes have 4 CPU")
    handle.cancel()
    with pytest.raises(rf.ExecutionCancelled):
        handle.result(timeout=30)
    until(lambda: engine.pools.get().status().busy == 0, "nothing is left of it")


@pytest.mark.system
def test_progress_is_seen_while_a_step_runs_and_so_is_who_runs_it(open_engine: Open, tmp_path: Path) -> None:
    engine, release = open_engine(workers=1), tmp_path / "go"
    handle = engine.start(measuring, str(release))
    until(lambda: handle.status().steps and (handle.status().steps[0].progress or {}).get("done", 0) > 5, "it is seen")
    [task] = engine.tasks(handle.id)
    assert (task.name, task.attempt, task.status, task.retries, task.last_error) == ("measured", 1, "running", 0, None)
    assert task.worker
    assert task.started_at is not None
    pool = engine.pools.get().status()
    assert (pool.busy, pool.idle, pool.queued, pool.workers) == (1, 3, 0, 1)
    release.touch()
    assert handle.result(timeout=30) > 5
    [task] = engine.tasks(handle.id)
    assert task.status == "completed"


@pytest.mark.system
def test_a_step_that_falls_silent_fails(open_engine: Open) -> None:
    engine = open_engine(workers=1)
    with pytest.raises(rf.ExecutionFailed, match=r"sent no heartbeat for its heartbeat_timeout of 0\.5 s"):
        engine.start(silence).result(60)
