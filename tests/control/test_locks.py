"""Locks on a cluster: held across crashes, fair, fenced, and no deadlock stays."""

from __future__ import annotations

from pathlib import Path

import pytest

import rayflow as rf
from tests.control.conftest import kill_coordinator, until_parked
from tests.control.flows import crossing, failing_in_lock, locking
from tests.faults.processes.tools import ledger_lines, until

pytestmark = pytest.mark.ray


def test_a_lock_is_held_while_the_coordinator_dies_and_goes_to_who_waited_first(
    engine: rf.DistributedEngine, tmp_path: Path
) -> None:
    ledger, release = tmp_path / "ledger", tmp_path / "release"
    handles = []
    for who in ("first", "second", "third"):
        handles.append(engine.start(locking.options(id=who), str(ledger), "l", who, str(release)))
        waits = len(handles)
        until(lambda waits=waits: sum(len(k.holders) + len(k.waiting) for k in engine.locks.list()) == waits, who)  # type: ignore[misc]
    until(lambda: ledger_lines(ledger), "the first one has it")
    until_parked(engine, "third")
    kill_coordinator(engine, "first")
    release.touch()
    tokens = [handle.result(timeout=60) for handle in handles]
    assert tokens == sorted(tokens)
    lines = [line[0] for line in ledger_lines(ledger)]
    once = list(dict.fromkeys(lines))
    assert once == ["first-in", "first-out", "second-in", "second-out", "third-in", "third-out"]
    assert engine.locks.list() == []


@pytest.mark.system
def test_scripts_and_workflows_share_locks(engine: rf.DistributedEngine, tmp_path: Path) -> None:
    ledger, release = tmp_path / "ledger", tmp_path / "release"
    release.touch()
    with engine.lock("l") as lease:
        engine.locks.check("l", lease.token)
        handle = engine.start(locking.options(id="flow"), str(ledger), "l", "flow", str(release))
        until(lambda: engine.locks.list()[0].waiting, "it waits")
        assert ledger_lines(ledger) == []
        token = lease.token
    assert handle.result(timeout=60) == token + 1
    with pytest.raises(rf.LockLost):
        engine.locks.check("l", token)


def test_two_that_wait_for_each_other_do_not_wait_for_ever(engine: rf.DistributedEngine) -> None:
    handles = [engine.start(crossing, "a", "b"), engine.start(crossing, "b", "a")]
    until(lambda: [len(lock.holders) for lock in engine.locks.list()] == [1, 1], "each has its first one")
    for handle in handles:
        handle.signal("go")
    assert sorted(handle.result(timeout=60) for handle in handles) == ["both", "gave way"]


@pytest.mark.system
def test_one_that_is_resumed_gets_its_lock_again_first(engine: rf.DistributedEngine, tmp_path: Path) -> None:
    mended, ledger, release = tmp_path / "mended", tmp_path / "ledger", tmp_path / "release"
    handle = engine.start(failing_in_lock.options(id="failed"), "l", str(mended))
    with pytest.raises(rf.ExecutionFailed):
        handle.result(timeout=60)
    other = engine.start(locking.options(id="other"), str(ledger), "l", "other", str(release))
    until(lambda: ledger_lines(ledger), "the other one has it")
    mended.touch()
    handle.resume()
    until(lambda: engine.locks.list()[0].waiting, "it waits for its lock")
    assert handle.status().status == "running"
    release.touch()
    assert handle.result(timeout=60) == other.result(timeout=60) + 1
