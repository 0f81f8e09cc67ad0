"""A workflow does the same on replay. One that does not is paused, and goes on with code that does."""

from __future__ import annotations

import importlib
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import rayflow as rf
from tests.fundamentals.tools import Ledger, eventually

FLOW = """
import asyncio
import rayflow as rf
from tests.fundamentals.tools import note

@rf.step
async def first(ledger: str) -> str:
    return await note(ledger, "first")

@rf.step
async def second(ledger: str) -> str:
    return await note(ledger, "second")

@rf.workflow
async def changing(ledger: str) -> list[str]:
    return [{body}]
"""

Write = Callable[[str], rf.WorkflowFunction[[str], list[str | None]]]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Write]:
    """Writes the module anew, with another body of its workflow, and imports it as a new process would."""
    name = f"changing_{tmp_path.name}"
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def write(body: str) -> rf.WorkflowFunction[[str], list[str | None]]:
        (tmp_path / f"{name}.py").write_text(FLOW.replace("{body}", body))
        sys.modules.pop(name, None)
        importlib.invalidate_caches()
        found: rf.WorkflowFunction[[str], list[str | None]] = importlib.import_module(name).changing
        return found

    yield write
    sys.modules.pop(name, None)


def test_changed_code_is_paused_and_goes_on_once_it_is_mended(store: str, ledger: Ledger, write: Write) -> None:
    with rf.LocalEngine(store) as engine:
        handle = engine.start(write("await first(ledger), await asyncio.sleep(3600)").options(id="one"), ledger.path)
        eventually(lambda: handle.status().completed_steps == [1], "the first step is recorded")

    write("await second(ledger), await first(ledger)")
    with rf.LocalEngine(store) as engine:
        eventually(lambda: engine.status("one").status is rf.ExecutionStatus.PAUSED, "it is paused")
        error = engine.status("one").error
        assert error is not None
        assert error.matches(rf.NonDeterminismError)
        assert "'first'" in error.message
        assert "'second'" in error.message
        assert engine.status("one").completed_steps == [1]
    assert ledger.lines() == ["first"]

    write("await first(ledger), await asyncio.sleep(0.01), await second(ledger)")
    with rf.LocalEngine(store) as engine:
        assert engine.status("one").status is rf.ExecutionStatus.PAUSED
        engine.resume("one")
        assert engine.handle("one").result(timeout=20) == ["first", None, "second"]
    assert ledger.lines() == ["first", "second"]


def test_changed_source_is_refused_where_versions_are_strict(store: str, ledger: Ledger, write: Write) -> None:
    with rf.LocalEngine(store) as engine:
        flow = write("await first(ledger), await asyncio.sleep(3600)")
        handle = engine.start(flow.options(id="one", strict_versions=True), ledger.path)
        eventually(lambda: handle.status().completed_steps == [1], "the first step is recorded")
    write("await first(ledger), await second(ledger)")
    with rf.LocalEngine(store) as engine:
        eventually(lambda: engine.status("one").status is rf.ExecutionStatus.PAUSED, "it is paused")
        error = engine.status("one").error
        assert error is not None
        assert error.matches(rf.IncompatibleVersion)
    assert ledger.lines() == ["first"]


@rf.workflow
async def careless() -> None:
    time.sleep(0.1)  # noqa: ASYNC251 - that is the mistake


def test_the_outside_world_belongs_into_steps(engine: rf.LocalEngine) -> None:
    with pytest.raises(rf.ExecutionFailed, match=r"inside a workflow.*Put it into a step") as info:
        engine.start(careless).result(20)
    assert info.value.failure.matches(rf.SideEffectError)


@rf.step
def same(value: object) -> object:
    return value


@rf.workflow
async def draws() -> list[Any]:
    drawn: list[object] = [rf.random().random(), str(rf.uuid4()), rf.now()]
    return [drawn, await same(drawn)]


def test_time_and_chance_come_from_the_execution(engine: rf.LocalEngine) -> None:
    before = time.time()
    drawn, recorded = engine.start(draws.options(id="one")).result(20)
    assert drawn == recorded
    assert before <= drawn[2] <= time.time()
    assert engine.start(draws.options(id="two")).result(20)[0][:2] != drawn[:2]
