"""Processes of a running execution are killed; it goes on by itself, and nothing that was recorded runs again."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

import rayflow as rf
from rayflow.client.engine import backend_of
from rayflow.runtime.actors import actor_names
from tests.faults.processes.flows import chain_until, ledger_chain
from tests.faults.processes.tools import kill, ledger_lines, until_longer

pytestmark = pytest.mark.ray


def test_coordinator_worker_and_persistence_are_killed_in_the_middle(
    engine: rf.DistributedEngine, tmp_path: Path
) -> None:
    ledger, stop = tmp_path / "ledger", tmp_path / "stop"
    handle = engine.start(chain_until, str(ledger), str(stop))
    for victim in ("coordinator", "worker", "persistence"):
        seen = len(ledger_lines(ledger))
        until_longer(ledger, seen + 10)
        before = {step.seq - 1 for step in handle.status().steps if step.status == "completed"}
        if victim == "worker":
            pid = int(ledger_lines(ledger)[-1][1])
        else:
            name = actor_names.STORE if victim == "persistence" else handle.status().coordinator
            pid = backend_of(engine).pid_of(name)
        at = len(ledger_lines(ledger))
        kill(pid)
        assert handle.status().status == "running", "whoever asks meanwhile is answered"
        until_longer(ledger, at + 2)
        again = {int(number) for number, _ in ledger_lines(ledger)[at:]}
        assert not again & before, f"steps that were recorded before {victim} was killed ran again"
    stop.touch()
    length = handle.result(timeout=60)
    runs = Counter(int(number) for number, _ in ledger_lines(ledger))
    assert set(runs) == set(range(length))
    # A step may have been on its way at each of the three kills, and only such a one runs twice.
    assert sum(runs.values()) <= length + 3
    snapshot = handle.status()
    assert [step.status for step in snapshot.steps] == ["completed"] * length
    assert snapshot.epoch == 2


def test_supervisor_and_pool_are_killed_in_the_middle(engine: rf.DistributedEngine, tmp_path: Path) -> None:
    ledger, stop = tmp_path / "ledger", tmp_path / "stop"
    handle = engine.start(chain_until, str(ledger), str(stop))
    for name in (actor_names.SUPERVISOR, actor_names.pool("default")):
        seen = len(ledger_lines(ledger))
        until_longer(ledger, seen + 10)
        kill(backend_of(engine).pid_of(name))
    stop.touch()
    length = handle.result(timeout=60)
    runs = Counter(int(number) for number, _ in ledger_lines(ledger))
    assert runs == dict.fromkeys(range(length), 1)
    assert engine.start(ledger_chain, str(tmp_path / "another"), 3).result(60) == 3
