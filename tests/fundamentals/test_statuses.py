"""The words for where an execution and its steps are: programs compare them, so they do not change."""

from __future__ import annotations

import asyncio

import pytest

import rayflow as rf
from tests.fundamentals.tools import Gate, eventually, hold


@rf.step(retry=rf.RetryPolicy(max_retries=0))
def bad() -> None:
    raise ValueError("bad")


@rf.workflow
async def every_kind() -> None:
    with pytest.raises(rf.StepFailed):
        await bad()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(hold("gate"), 0.02)
    await hold("gate")


def test_the_statuses_are_these_words() -> None:
    assert [str(status) for status in rf.ExecutionStatus] == [
        "pending",
        "running",
        "paused",
        "completed",
        "failed",
        "cancelled",
    ]
    assert [status for status in rf.ExecutionStatus if status.terminal] == ["completed", "failed", "cancelled"]


def test_the_statuses_of_a_step_are_these_words(engine: rf.LocalEngine, gate: Gate) -> None:
    handle = engine.start(every_kind)
    eventually(lambda: len(handle.status().steps) == 3, "the last step is issued")
    assert [step.status for step in handle.status().steps] == ["failed", "dropped", "running"]
    gate.open()
    handle.result(timeout=20)
    assert [step.status for step in handle.status().steps] == ["failed", "dropped", "completed"]
