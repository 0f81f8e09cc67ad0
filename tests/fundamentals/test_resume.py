"""A failed execution goes on from its failure: the failed step is tried again, what was recorded is not."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

import rayflow as rf
from tests.fundamentals.tools import Gate, Ledger, eventually, hold, note


@rf.step(retry=rf.RetryPolicy(max_retries=1, initial_delay=0.01))
def fragile(ledger: str) -> str:
    note.fn(ledger, "fragile")
    if not Path(f"{ledger}-mended").exists():
        raise ConnectionError("the service is down")
    return "up"


@rf.workflow
async def three(ledger: str) -> list[str]:
    return [await note(ledger, "first"), await fragile(ledger), await note(ledger, "last")]


@rf.workflow
async def beside(ledger: str) -> list[str]:
    async def later() -> str:
        await hold("gate")
        return await fragile(ledger)

    return list(await asyncio.gather(note(ledger, "left"), later(), note(ledger, "right")))


def mend(ledger: Ledger) -> None:
    Path(f"{ledger.path}-mended").touch()


def fail(engine: rf.LocalEngine, workflow: rf.WorkflowFunction[[str], list[str]], ledger: Ledger) -> None:
    with pytest.raises(rf.ExecutionFailed, match="the service is down"):
        engine.start(workflow.options(id="one"), ledger.path).result(20)


def test_it_goes_on_from_the_step_that_failed(engine: rf.LocalEngine, ledger: Ledger) -> None:
    fail(engine, three, ledger)
    assert ledger.lines() == ["first", "fragile", "fragile"]
    mend(ledger)
    engine.resume("one")
    assert engine.handle("one").result(timeout=20) == ["first", "up", "last"]
    assert ledger.lines() == ["first", "fragile", "fragile", "fragile", "last"]
    snapshot = engine.status("one")
    assert [(step.name, step.status) for step in snapshot.steps] == [
        ("note", "completed"),
        ("fragile", "completed"),
        ("note", "completed"),
    ]
    assert snapshot.error is None


def test_it_may_fail_again_with_fresh_retries(engine: rf.LocalEngine, ledger: Ledger) -> None:
    fail(engine, three, ledger)
    engine.resume("one")
    with pytest.raises(rf.ExecutionFailed, match="the service is down"):
        engine.handle("one").result(timeout=20)
    assert ledger.lines() == ["first", *["fragile"] * 4]
    assert engine.status("one").status is rf.ExecutionStatus.FAILED


def test_results_beside_the_failure_stay(engine: rf.LocalEngine, ledger: Ledger, gate: Gate) -> None:
    handle = engine.start(beside.options(id="one"), ledger.path)
    eventually(lambda: handle.status().completed_steps == [1, 3], "both results are recorded")
    gate.open()
    with pytest.raises(rf.ExecutionFailed, match="the service is down"):
        handle.result(timeout=20)
    mend(ledger)
    handle.resume()
    assert handle.result(timeout=20) == ["left", "up", "right"]
    assert (ledger.count("left"), ledger.count("right")) == (1, 1)


def test_another_engine_may_resume_it(store: str, ledger: Ledger) -> None:
    with rf.LocalEngine(store) as engine:
        fail(engine, three, ledger)
    mend(ledger)
    with rf.LocalEngine(store) as engine:
        assert engine.recovered == []
        engine.resume("one")
        assert engine.handle("one").result(timeout=20) == ["first", "up", "last"]
    assert ledger.count("first") == 1


def test_what_is_completed_has_nothing_to_resume(engine: rf.LocalEngine, ledger: Ledger) -> None:
    mend(ledger)
    engine.start(three.options(id="one"), ledger.path).result(20)
    with pytest.raises(rf.InvalidTransition, match=r"cannot resume.*it is completed"):
        engine.resume("one")
    with pytest.raises(rf.InvalidTransition, match=r"cannot cancel.*it is completed"):
        engine.cancel("one")
    assert ledger.count("first") == 1


def test_resuming_what_runs_changes_nothing(engine: rf.LocalEngine, ledger: Ledger) -> None:
    mend(ledger)
    handle = engine.start(three, ledger.path)
    try:
        handle.resume()
    except rf.InvalidTransition as error:
        assert error.status == "completed"  # noqa: PT017 - it may be over already
    assert handle.result(timeout=20) == ["first", "up", "last"]
    assert ledger.lines() == ["first", "fragile", "last"]
