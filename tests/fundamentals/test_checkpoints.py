"""What is recorded, and when: each step before the next, each step in order, or only the ends."""

from __future__ import annotations

import asyncio

import pytest

import rayflow as rf
from rayflow.client.engine import backend_of
from rayflow.definition.options import Checkpoints
from rayflow.runtime.actors import actor_names
from rayflow.testing import TestEngine
from tests.fundamentals.tools import Gate, Ledger, eventually, hold, note


def census(engine: rf.LocalEngine) -> dict[str, int]:
    """What the engine's coordinators drive."""
    names = [name for name in backend_of(engine).system.names() if actor_names.is_coordinator(name)]
    found: dict[str, int] = {}
    for name in names:
        found.update(backend_of(engine).system.find(name).call("census"))
    return found


@rf.workflow
async def three(ledger: str) -> list[str]:
    return [await note(ledger, line) for line in ("a", "b", "c")]


@rf.workflow
async def noted_then_held(ledger: str) -> list[str]:
    return [await note(ledger, "first"), await hold("gate")]


@pytest.mark.parametrize(("mode", "recorded"), [("sync", 3), ("async", 3), ("off", 0)])
def test_every_mode_answers_the_same_and_records_what_it_says(
    engine: rf.LocalEngine, ledger: Ledger, mode: Checkpoints, recorded: int
) -> None:
    assert engine.start(three.options(id="one", checkpoints=mode), ledger.path).result(20) == ["a", "b", "c"]
    assert ledger.lines() == ["a", "b", "c"]
    snapshot = engine.status("one")
    assert (len(snapshot.completed_steps), snapshot.result) == (recorded, ["a", "b", "c"])
    eventually(lambda: census(engine) == {}, "its coordinator has let go of it")


@pytest.mark.parametrize(("mode", "runs"), [("sync", 1), ("off", 2)])
def test_after_an_interruption_what_was_recorded_is_not_run_again(
    store: str, ledger: Ledger, gate: Gate, mode: Checkpoints, runs: int
) -> None:
    with rf.LocalEngine(store, pool=rf.PoolConfig(stop_grace=0)) as engine:
        engine.start(noted_then_held.options(id="one", checkpoints=mode), ledger.path)
        gate.wait_until_reached()
        # With "sync", whoever sees the second step run can read the first one's result.
        assert len(engine.status("one").completed_steps) == 2 - runs
    gate.open()
    with rf.LocalEngine(store) as engine:
        assert engine.handle("one").result(timeout=20) == ["first", "through"]
    assert ledger.count("first") == runs


def test_a_switch_is_understood(engine: rf.LocalEngine) -> None:
    assert rf.ExecutionOptions(checkpoints=True).checkpoints == "sync"
    assert rf.ExecutionOptions(checkpoints=False).checkpoints == "off"
    with pytest.raises(rf.InvalidArgument, match="checkpoints"):
        rf.ExecutionOptions(checkpoints="sometimes")


@rf.workflow
async def waits_long(ledger: str) -> list[str]:
    lines = []
    for line in ("a", "b"):
        lines.append(await note(ledger, line))
        await asyncio.sleep(3600)
    return [*lines, await rf.wait_for_signal("go")]


@pytest.mark.parametrize("mode", ["sync", "off"])
def test_a_long_wait_begins_nothing_again(ledger: Ledger, mode: Checkpoints) -> None:
    with TestEngine() as env:
        handle = env.start(waits_long.options(checkpoints=mode), ledger.path)
        env.advance(3 * 3600)
        handle.pause()
        env.advance(3600)
        handle.resume()
        handle.signal("go", "c")
        assert handle.result() == ["a", "b", "c"]
        assert ledger.lines() == ["a", "b"]
        assert (handle.status().epoch == 1) == (mode == "off"), "what is not recorded is not parked"
