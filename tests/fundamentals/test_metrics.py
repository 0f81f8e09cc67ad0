"""What an engine counts. The totals are written in the transactions of what they count."""

from __future__ import annotations

import asyncio

import pytest

import rayflow as rf
from tests.fundamentals.tools import Gate, Ledger, eventually, hold, note


@rf.workflow
async def two(ledger: str) -> None:
    await note(ledger, "a")
    await note(ledger, "b")


@rf.step(retry=rf.RetryPolicy(max_retries=1, initial_delay=0.01))
def bad() -> None:
    raise ValueError("bad")


@rf.workflow
async def fails() -> None:
    await bad()


@rf.workflow
async def waits() -> None:
    await asyncio.sleep(3600)


@rf.workflow
async def held() -> str:
    return await hold("gate")


def test_everything_is_counted_once(store: str, ledger: Ledger) -> None:
    with rf.LocalEngine(store) as engine:
        assert engine.metrics().executions_started == 0
        engine.start(two.options(id="one"), ledger.path).result(20)
        engine.start(two.options(id="one"), ledger.path).result(20)
        with pytest.raises(rf.ExecutionFailed):
            engine.start(fails).result(20)
        handle = engine.start(waits)
        handle.cancel()
        with pytest.raises(rf.ExecutionCancelled):
            handle.result(timeout=20)
        with pytest.raises(rf.WorkflowNotRegistered):
            engine.start(rf.SavedWorkflow("nobody"))
        found = engine.metrics()
    assert (found.executions_started, found.executions_completed) == (3, 1)
    assert (found.executions_failed, found.executions_cancelled) == (1, 1)
    assert (found.tasks_enqueued, found.tasks_completed, found.tasks_failed, found.attempts_failed) == (4, 2, 1, 2)
    assert found.avg_execution_time > 0
    assert found.avg_task_duration > 0
    with rf.LocalEngine(store) as engine:
        assert engine.metrics().executions_completed == 1


def test_the_pool_is_seen_at_work(gate: Gate) -> None:
    with rf.LocalEngine(pool=rf.PoolConfig(workers=1, concurrency=1)) as engine:
        engine.start(held)
        gate.wait_until_reached()
        engine.start(held)
        eventually(lambda: engine.metrics().queue_depth == 1, "one waits for the slot")
        found = engine.metrics()
        assert (found.active_workers, found.tasks_processing) == (1, 1)
        eventually(lambda: engine.metrics().oldest_waiting > found.oldest_waiting, "it waits longer and longer")
        gate.open()
        eventually(lambda: engine.metrics().executions_completed == 2, "both are over")
        assert engine.metrics().queue_depth == 0
