"""Processes of a running execution are killed; it goes on by itself, and nothing that was recorded runs again."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

import rayflow as rf
from rayflow.runtime.actors import actor_names
from tests.faults.processes.flows import ledger_chain
from tests.faults.processes.tools import kill, ledger_lines, until_longer

pytestmark = pytest.mark.ray
LENGTH = 100


def test_coordinator_worker_and_persistence_are_killed_in_the_middle(
    engine: rf.DistributedEngine, tmp_path: Path
) -> None:
    ledger = tmp_path / "ledger"
    handle = engine.start(ledger_chain, str(ledger), LENGTH)
    for victim in ("coordinator", "worker", "persistence"):
        seen = len(ledger_lines(ledger))
        until_longer(ledger, seen + 10)
        before = {step.seq - 1 for step in handle.status().steps if step.status == "completed"}
        if victim == "worker":
            pid = int(ledger_lines(ledger)[-1][1])
        else:
            name = actor_names.STORE if victim == "persistence" else handle.status().coordinator
            pid = engine.pid_of(name)
        at = len(ledger_lines(ledger))
        kill(pid)
        assert handle.status().status == "running", "whoever asks meanwhile is answered"
        until_longer(ledger, at + 2)
        again = {int(number) for number, _ in ledger_lines(ledger)[at:]}
        assert not again & before, f"steps that were recorded before {victim} was killed ran again"
    assert handle.result(timeout=60) == sum(range(LENGTH))
    runs = Counter(int(number) for number, _ in ledger_lines(ledger))
    assert set(runs) == set(range(LENGTH))
    # A step may have been on its way at each of the three kills, and only such a one runs twice.
    assert sum(runs.values()) <= LENGTH + 3
    snapshot = handle.status()
    assert [step.status for step in snapshot.steps] == ["completed"] * LENGTH
    assert snapshot.epoch == 2


def test_supervisor_and_pool_are_killed_in_the_middle(engine: rf.DistributedEngine, tmp_path: Path) -> None:
    ledger = tmp_path / "ledger"
    handle = engine.start(ledger_chain, str(ledger), LENGTH)
    for name in (actor_names.SUPERVISOR, actor_names.pool("default")):
        seen = len(ledger_lines(ledger))
        until_longer(ledger, seen + 10)
        kill(engine.pid_of(name))
    assert handle.result(timeout=60) == sum(range(LENGTH))
    runs = Counter(int(number) for number, _ in ledger_lines(ledger))
    assert sum(runs.values()) == LENGTH
    assert engine.execute(ledger_chain, str(tmp_path / "another"), 3, timeout=60) == 3
