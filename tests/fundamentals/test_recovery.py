"""Whatever stops an engine, the next one on the same store goes on, and nothing that was recorded runs again."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import rayflow as rf
from tests.fundamentals.chain import LENGTH, chain
from tests.fundamentals.tools import Gate, Ledger, eventually, hold, note

ROOT = Path(__file__).parents[2]


@rf.workflow
async def held_between(ledger: str) -> list[str]:
    return [await note(ledger, "first"), await hold("gate"), await note(ledger, "last")]


def test_a_chain_that_was_interrupted_is_finished(store: str, ledger: Ledger) -> None:
    with rf.LocalEngine(store) as engine:
        engine.start(chain.options(id="one"), ledger.path, LENGTH)
        eventually(lambda: len(ledger.lines()) >= LENGTH // 4, "a quarter has run")
    with rf.LocalEngine(store, recover=False) as engine:
        assert engine.recovered == []
        recorded = engine.status("one").results
        assert len(recorded) < LENGTH, "it was over before it could be interrupted"
    with rf.LocalEngine(store) as engine:
        assert engine.recovered == ["one"]
        assert engine.handle("one").result(timeout=30) == sum(range(LENGTH))
        assert engine.status("one").epoch >= 2
    assert [ledger.count(line) for line in recorded] == [1] * len(recorded)
    assert sorted(set(ledger.lines()), key=int) == [str(number) for number in range(LENGTH)]


def test_many_interruptions_change_nothing(store: str, ledger: Ledger) -> None:
    with rf.LocalEngine(store) as engine:
        engine.start(chain.options(id="one"), ledger.path, LENGTH)
    counts: dict[str, int] = {}
    for part in range(1, 5):
        with rf.LocalEngine(store) as engine:
            eventually(lambda: len(set(ledger.lines())) >= part * LENGTH // 5, "it got further")  # noqa: B023 - called here
            counts |= {line: ledger.count(line) for line in engine.status("one").results if line not in counts}
    with rf.LocalEngine(store) as engine:
        assert engine.handle("one").result(timeout=30) == sum(range(LENGTH))
    assert len(counts) >= LENGTH // 5
    assert {line: ledger.count(line) for line in counts} == counts


def test_a_step_that_was_under_way_runs_again_and_those_before_do_not(store: str, ledger: Ledger, gate: Gate) -> None:
    with rf.LocalEngine(store, pool=rf.PoolConfig(stop_grace=0)) as engine:
        engine.start(held_between.options(id="one"), ledger.path)
        gate.wait_until_reached()
    gate.open()
    with rf.LocalEngine(store) as engine:
        assert engine.handle("one").result(timeout=20) == ["first", "through", "last"]
    assert ledger.lines() == ["first", "last"]


def test_what_is_over_stays_as_it_was(store: str, ledger: Ledger) -> None:
    with rf.LocalEngine(store) as engine:
        engine.start(chain.options(id="one"), ledger.path, 3).result(20)
        before = engine.status("one")
    with rf.LocalEngine(store) as engine:
        assert engine.recovered == []
        assert engine.start(chain.options(id="one"), ledger.path, 3).result(timeout=20) == 3
        assert engine.status("one") == before
    assert ledger.lines() == ["0", "1", "2"]


def test_without_recovery_nothing_goes_on_before_it_is_asked_to(store: str, ledger: Ledger, gate: Gate) -> None:
    with rf.LocalEngine(store, pool=rf.PoolConfig(stop_grace=0)) as engine:
        engine.start(held_between.options(id="one"), ledger.path)
        gate.wait_until_reached()
    gate.open()
    with rf.LocalEngine(store, recover=False) as engine:
        assert engine.status("one").status is rf.ExecutionStatus.RUNNING
        assert ledger.lines() == ["first"]
        engine.resume("one")
        assert engine.handle("one").result(timeout=20) == ["first", "through", "last"]


def test_a_process_that_dies_is_followed_by_another(store: str, ledger: Ledger) -> None:
    died = subprocess.run(
        [sys.executable, "-m", "tests.fundamentals.chain", store, ledger.path], cwd=ROOT, check=False, timeout=60
    )
    assert died.returncode == 9
    assert ledger.lines() == ["first"]
    # It waits until the dead one's heartbeat is old: a store has one writer.
    with rf.LocalEngine(store) as engine:
        assert engine.recovered == ["one"]
        assert engine.handle("one").result(timeout=20) == ["first", "last"]
    assert ledger.lines() == ["first", "last"]


def test_a_store_has_one_engine_that_writes_it(store: str, ledger: Ledger) -> None:
    with rf.LocalEngine(store) as engine:
        with pytest.raises(rf.StorageUnavailable, match="one writer"):
            rf.LocalEngine(store)
        assert engine.start(chain, ledger.path, 3).result(20) == 3
