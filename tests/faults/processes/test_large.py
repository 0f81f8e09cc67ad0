"""Large values outlive whoever holds them: the worker that made one, the store's actor, the coordinator."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rayflow as rf
from rayflow.client.engine import backend_of
from rayflow.runtime.actors import actor_names
from tests.faults.processes.tools import kill, ledger_lines, until

pytestmark = pytest.mark.ray
SIZE = 500_000


def mark(ledger: str, word: str) -> None:
    with Path(ledger).open("a") as file:
        file.write(f"{word} {os.getpid()}\n")


@rf.step
def made(ledger: str) -> np.ndarray[Any, Any]:
    mark(ledger, "made")
    return np.arange(float(SIZE))


@rf.step(retry=rf.RetryPolicy(max_retries=0))
def summed(ledger: str, parts: dict[str, Any]) -> float:
    mark(ledger, "summed")
    return float(parts["array"].sum())


@rf.step
def bumped(ledger: str, array: np.ndarray[Any, Any], gate: str = "") -> np.ndarray[Any, Any]:
    mark(ledger, "bumped")
    time.sleep(0.05)
    while gate and not Path(gate).exists():
        time.sleep(0.01)
    return array + 1


@rf.step
def opened(gate: str) -> None:
    while not Path(gate).exists():
        time.sleep(0.01)


@rf.workflow
async def in_two(ledger: str, gate: str) -> float:
    array = await made(ledger)
    await opened(gate)
    return await summed(ledger, {"array": array})


@rf.workflow
async def chained(ledger: str, length: int, gate: str = "") -> Any:
    """Run `length` steps in a row; the middle one waits until the gate file exists."""
    array = await made(ledger)
    for number in range(length):
        array = await bumped(ledger, array, gate if number == length // 2 else "")
    return array


def test_the_worker_that_made_it_is_killed(engine: rf.DistributedEngine, tmp_path: Path) -> None:
    ledger, gate = tmp_path / "ledger", tmp_path / "gate"
    handle = engine.start(in_two, str(ledger), str(gate))
    until(lambda: handle.status().completed_steps, "it is made")
    kill(int(ledger_lines(ledger)[0][1]))  # while its coordinator has the handle on what it made
    gate.touch()
    assert handle.result(timeout=60) == np.arange(float(SIZE)).sum()
    assert [word for word, _ in ledger_lines(ledger)] == ["made", "summed"]


def test_the_coordinator_that_has_the_handles_is_killed(engine: rf.DistributedEngine, tmp_path: Path) -> None:
    ledger, gate = tmp_path / "ledger", tmp_path / "gate"
    handle = engine.start(chained, str(ledger), 8, str(gate))
    until(lambda: len(ledger_lines(ledger)) == 6, "the step at the gate is under way")
    kill(backend_of(engine).pid_of(handle.status().coordinator))
    gate.touch()
    assert np.array_equal(handle.result(timeout=60), np.arange(float(SIZE)) + 8)
    assert handle.status().epoch == 2
    assert len(ledger_lines(ledger)) <= 10, "at most the one under way ran again"


def test_the_store_is_stopped_and_killed_while_values_are_put(engine: rf.DistributedEngine, tmp_path: Path) -> None:
    ledger = tmp_path / "ledger"
    handle = engine.start(chained, str(ledger), 8)
    for done in (2, 5):
        until(lambda done=done: len(ledger_lines(ledger)) > done, "some steps are done")  # type: ignore[misc]
        pid = backend_of(engine).pid_of(actor_names.STORE)
        os.kill(pid, signal.SIGSTOP)  # so that the value of the step under way is on its way
        lines = len(ledger_lines(ledger))
        time.sleep(0.3)
        kill(pid)
        assert len(ledger_lines(ledger)) <= lines + 1
    assert np.array_equal(handle.result(timeout=60), np.arange(float(SIZE)) + 8)
    assert len(ledger_lines(ledger)) == 9, "each step ran once: results wait for the store"
