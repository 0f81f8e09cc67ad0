"""A paused execution starts nothing new. What was under way is recorded, and applied when it goes on."""

from __future__ import annotations

import asyncio

import pytest

import rayflow as rf
from rayflow.client.engine import backend_of
from rayflow.testing import TestEngine
from tests.fundamentals.tools import Gate, Ledger, eventually, hold, note

PAUSED, COMPLETED = rf.ExecutionStatus.PAUSED, rf.ExecutionStatus.COMPLETED


@rf.workflow
async def held_then_noted(ledger: str) -> list[str]:
    return [await hold("gate"), await note(ledger, "after")]


@rf.workflow
async def naps(ledger: str) -> str:
    await note(ledger, "before")
    await asyncio.sleep(0.5)
    return await note(ledger, "after")


def test_what_arrives_meanwhile_is_applied_when_it_goes_on(engine: rf.LocalEngine, ledger: Ledger, gate: Gate) -> None:
    handle = engine.start(held_then_noted.options(id="one"), ledger.path)
    gate.wait_until_reached()
    handle.pause(reason="lunch")
    snapshot = handle.status()
    assert snapshot.status is PAUSED
    assert snapshot.error is not None
    assert snapshot.error.message == "lunch"
    gate.open()
    eventually(lambda: backend_of(engine).record("one").inbox_last == 2, "the result has joined the pause in the inbox")
    assert (handle.status().status, ledger.lines()) == (PAUSED, [])
    handle.resume()
    assert handle.result(timeout=20) == ["through", "after"]
    assert ledger.lines() == ["after"]


def test_a_pause_survives_the_engine(store: str, ledger: Ledger, gate: Gate) -> None:
    with rf.LocalEngine(store) as engine:
        engine.start(held_then_noted.options(id="one"), ledger.path)
        gate.wait_until_reached()
        engine.pause("one")
        gate.open()
    with rf.LocalEngine(store) as engine:
        assert engine.status("one").status is PAUSED
        assert ledger.lines() == []
        engine.resume("one")
        assert engine.handle("one").result(timeout=20) == ["through", "after"]
    assert ledger.lines() == ["after"]


def test_a_timer_that_was_due_during_the_pause_fires_afterwards(env: TestEngine, ledger: Ledger) -> None:
    handle = env.start(naps, ledger.path)
    assert handle.status().completed_steps == [1], "it has lain down"
    handle.pause()
    env.advance(1.0)
    assert handle.status().status is PAUSED
    assert ledger.lines() == ["before"]
    handle.resume()
    assert handle.result() == "after"
    assert ledger.lines() == ["before", "after"]


def test_pausing_twice_is_pausing_once(engine: rf.LocalEngine, ledger: Ledger, gate: Gate) -> None:
    handle = engine.start(held_then_noted, ledger.path)
    handle.pause()
    handle.pause()
    handle.resume()
    gate.open()
    assert handle.result(timeout=20) == ["through", "after"]


def test_what_is_over_cannot_be_paused(engine: rf.LocalEngine, ledger: Ledger) -> None:
    handle = engine.start(naps, ledger.path)
    handle.result(timeout=20)
    with pytest.raises(rf.InvalidTransition, match=r"cannot pause.*it is completed"):
        handle.pause()
    assert handle.status().status is COMPLETED


def test_a_paused_execution_can_be_cancelled(engine: rf.LocalEngine, ledger: Ledger, gate: Gate) -> None:
    handle = engine.start(held_then_noted, ledger.path)
    gate.wait_until_reached()
    handle.pause()
    handle.cancel()
    gate.open()
    with pytest.raises(rf.ExecutionCancelled):
        handle.result(timeout=20)
    assert ledger.lines() == []
