"""Large values outlive crashes; the store may be away, or have lost one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rayflow as rf
from rayflow.errors import StorageUnavailable
from rayflow.runtime.coordinator import code_registry
from rayflow.runtime.coordinator.worker_client import ObjectRefCache
from rayflow.storage.codec.large_values import LazyValue
from tests.fundamentals.large import SIZE, Reads, bump, make, reads, total
from tests.fundamentals.test_large import echo
from tests.fundamentals.tools import Ledger, eventually, note

__all__ = ["reads"]


@rf.workflow
async def resumed(ledger: str) -> float:
    array = await make(SIZE)
    await note(ledger, "made")
    await rf.wait_for_signal("go")
    return await total({"array": await bump(array)})


def test_another_process_goes_on_with_the_values(store: str, ledger: Ledger) -> None:
    with rf.LocalEngine(store) as engine:
        handle = engine.start(resumed.options(id="r"), ledger.path)
        eventually(lambda: handle.status().waiting_for, "it waits")
    with rf.LocalEngine(store) as engine:
        engine.signal("r", "go")
        assert engine.handle("r").result(timeout=30) == np.arange(float(SIZE)).sum() + SIZE
    assert ledger.lines() == ["made"]


def unavailable(times: int) -> list[Exception]:
    return [StorageUnavailable("the disk is away") for _ in range(times)]


def test_a_result_waits_for_the_store_and_is_not_lost(reads: Reads, engine: rf.LocalEngine, ledger: Ledger) -> None:
    reads.failing_puts = unavailable(3)
    assert engine.start(noted, ledger.path).result(30) == 1.0
    assert ledger.count("ran") == 1


def test_a_result_that_waits_for_the_store_is_in_time(reads: Reads, engine: rf.LocalEngine, ledger: Ledger) -> None:
    reads.failing_puts = unavailable(15)
    assert engine.start(hurried, ledger.path).result(30) == 1.0
    assert not reads.failing_puts
    assert ledger.lines() == ["ran"]


@rf.workflow
async def hurried(ledger: str) -> float:
    array = await make_noted.options(timeout=2.0)(ledger)
    return float(array[1])


@rf.step(retry=rf.RetryPolicy(max_retries=0))
def make_noted(ledger: str) -> np.ndarray[Any, Any]:
    with Path(ledger).open("a") as file:
        file.write("ran\n")
    return np.arange(float(SIZE))


@rf.workflow
async def noted(ledger: str) -> float:
    array = await make_noted(ledger)
    return float(array[1])


def test_code_waits_for_a_value_while_the_store_is_away(reads: Reads, engine: rf.LocalEngine, ledger: Ledger) -> None:
    reads.failing = unavailable(3)
    assert engine.start(noted, ledger.path).result(30) == 1.0
    assert ledger.count("ran") == 1


def test_code_that_cannot_wait_longer_begins_anew(
    reads: Reads, engine: rf.LocalEngine, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(code_registry, "PATIENCE", 0.0)
    reads.failing = unavailable(2)
    handle = engine.start(caught, ledger.path)
    assert handle.result(timeout=30) == 1.0
    assert ledger.lines() == ["ran", "after"], "what it did without the value has not happened"
    assert handle.status().epoch > 1


@rf.workflow
async def caught(ledger: str) -> float:
    array = await make_noted(ledger)
    try:
        value = float(array[1])
    except StorageUnavailable:
        await note(ledger, "caught")
        raise
    await note(ledger, "after")
    return value


@pytest.fixture
def nothing_held(monkeypatch: pytest.MonkeyPatch) -> None:
    """As after a crash."""
    monkeypatch.setattr(ObjectRefCache, "of", lambda self, digests: {})


@pytest.mark.usefixtures("nothing_held")
@pytest.mark.parametrize("how", ["missing", "damaged"])
@pytest.mark.parametrize("who", ["step", "code"])
def test_a_damaged_value_sets_its_execution_aside(
    reads: Reads, engine: rf.LocalEngine, ledger: Ledger, how: str, who: str
) -> None:
    flow = resumed if who == "step" else waits_and_looks
    handle = engine.start(flow, ledger.path)
    eventually(lambda: handle.status().waiting_for, "it waits")
    value = handle.status().steps[0].result
    assert isinstance(value, LazyValue)
    digest = value._self_reference.digest
    getattr(reads, how).add(digest)
    engine.signal(handle.id, "go")
    eventually(lambda: handle.status().status is rf.ExecutionStatus.PAUSED, "it is set aside")
    error = handle.status().error
    assert error is not None
    assert error.matches(rf.CorruptRecord)
    assert handle.id in error.message
    assert digest in error.message
    assert engine.start(echo, 1).result(30) == 1, "the others go on"
    getattr(reads, how).clear()
    engine.resume(handle.id)
    assert handle.result(timeout=30) > 0
    assert ledger.lines() == ["made"]


@rf.workflow
async def waits_and_looks(ledger: str) -> float:
    array = await make(SIZE)
    await note(ledger, "made")
    await rf.wait_for_signal("go")
    try:
        return float(array[1])
    except Exception:
        await note(ledger, "caught")
        raise


@rf.step(retry=rf.RetryPolicy(max_retries=0))
def fails_at_first(ledger: str, array: np.ndarray[Any, Any]) -> float:
    lines = Path(ledger).read_text().split() if Path(ledger).exists() else []
    if not lines:
        Path(ledger).write_text("failed\n")
        raise ValueError("not yet")
    return float(array.sum())


@rf.workflow
async def with_letter(ledger: str) -> float:
    return await fails_at_first(ledger, await make(SIZE))


def test_a_dead_letter_keeps_what_the_step_was_given(engine: rf.LocalEngine, ledger: Ledger) -> None:
    handle = engine.start(with_letter, ledger.path)
    with pytest.raises(rf.ExecutionFailed):
        handle.result(timeout=30)
    [letter] = engine.dead_letters.list()
    shown = engine.dead_letters.show(letter.execution_id, letter.step)
    assert repr(shown.args[1]).startswith("<ndarray, 800.")
    assert np.array_equal(shown.args[1], np.arange(float(SIZE)))
    engine.dead_letters.requeue(letter.execution_id, letter.step)
    assert handle.result(timeout=30) == np.arange(float(SIZE)).sum()
