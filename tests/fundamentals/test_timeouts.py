"""Timeouts: of one attempt at a step, of a part of the workflow, and of the whole execution."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

import rayflow as rf
from tests.fundamentals.tools import Ledger, eventually, note

ONCE = rf.RetryPolicy(max_retries=0)


@rf.step(retry=ONCE, timeout=0.05)
async def endless() -> None:
    await asyncio.sleep(3600)


@rf.step(retry=ONCE)
async def untimed() -> None:
    await asyncio.sleep(3600)


@rf.workflow
async def stuck() -> None:
    await endless()


@rf.workflow
async def stuck_without_a_timeout() -> None:
    await untimed()


@rf.workflow
async def impatient() -> str:
    try:
        async with asyncio.timeout(0.05):
            await untimed()
    except TimeoutError:
        return "went on without it"
    return "never"


@rf.workflow
async def sleeps(ledger: str, seconds: float) -> str:
    try:
        await asyncio.sleep(seconds)
    finally:
        await note(ledger, "cleaned")
    return "slept"


def test_a_step_that_takes_too_long_fails_with_a_step_timeout(engine: rf.LocalEngine) -> None:
    with pytest.raises(rf.ExecutionFailed) as info:
        engine.start(stuck.options(id="one")).result(20)
    assert info.value.failure.matches(rf.StepTimeout)
    assert info.value.failure.matches(TimeoutError)
    assert engine.status("one").steps[0].status == "failed"


def test_a_step_without_a_timeout_takes_the_executions(engine: rf.LocalEngine) -> None:
    with pytest.raises(rf.ExecutionFailed) as info:
        engine.start(stuck_without_a_timeout.options(step_timeout=0.05)).result(20)
    assert info.value.failure.matches(rf.StepTimeout)


def test_a_timeout_of_asyncio_gives_the_step_up_and_the_workflow_goes_on(engine: rf.LocalEngine) -> None:
    assert engine.start(impatient.options(id="one")).result(20) == "went on without it"
    assert [step.status for step in engine.status("one").steps] == ["dropped"]


@pytest.mark.parametrize("limit", ["timeout", "deadline"])
def test_an_execution_whose_time_is_up_cleans_up_and_fails(engine: rf.LocalEngine, ledger: Ledger, limit: str) -> None:
    options: dict[str, Any] = {limit: 0.1 if limit == "timeout" else time.time() + 0.1}
    handle = engine.start(sleeps.options(**options), ledger.path, 3600.0)
    with pytest.raises(rf.ExecutionTimeout):
        handle.result(timeout=20)
    snapshot = handle.status()
    assert snapshot.status is rf.ExecutionStatus.FAILED
    assert snapshot.deadline is not None
    assert snapshot.updated_at >= snapshot.deadline
    eventually(lambda: handle.status().current_steps == [], "nothing runs any more")


def test_a_sleep_takes_at_least_its_time(engine: rf.LocalEngine, ledger: Ledger) -> None:
    began = time.time()
    assert engine.start(sleeps, ledger.path, 0.2).result(20) == "slept"
    assert time.time() - began >= 0.2
    assert ledger.lines() == ["cleaned"]
