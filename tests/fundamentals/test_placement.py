"""Where steps run: on a worker, or in the coordinator itself; and in which order they get there."""

from __future__ import annotations

import asyncio
import threading

import pytest

import rayflow as rf
from tests.fundamentals.tools import Gate, Ledger, eventually, hold, note


@rf.step
def anywhere() -> str:
    return rf.step_context().worker


@rf.step(local=True)
def at_home() -> str:
    return rf.step_context().worker


@rf.step(local=False)
def abroad() -> str:
    return rf.step_context().worker


@rf.workflow
async def places() -> list[bool]:
    """Whether each ran in the coordinator."""
    return ["coordinator" in worker for worker in (await anywhere(), await at_home(), await abroad())]


@rf.workflow
async def noted(ledger: str, line: str) -> str:
    return await note(ledger, line)


@rf.workflow
async def held() -> str:
    return await hold("gate")


@rf.step
def busy(ledger: str, number: int) -> int:
    note.fn(ledger, f"+{number}")
    threading.Event().wait(0.01)  # long enough to meet others
    note.fn(ledger, f"-{number}")
    return number


@rf.workflow
async def wide(ledger: str, count: int) -> int:
    return sum(await asyncio.gather(*(busy(ledger, number) for number in range(count))))


@pytest.mark.parametrize(("distributed", "expected"), [(True, [False, True, False]), (False, [True, True, False])])
def test_a_step_says_where_it_runs_or_its_execution_does(
    engine: rf.LocalEngine, *, distributed: bool, expected: list[bool]
) -> None:
    assert engine.start(places.options(distributed=distributed)).result(20) == expected


def test_higher_priority_first_and_then_first_come(ledger: Ledger, gate: Gate) -> None:
    with rf.LocalEngine(pool=rf.PoolConfig(workers=1, concurrency=1)) as engine:
        blocker = engine.start(held)
        gate.wait_until_reached()
        handles = []
        for line, priority in (("low", 1), ("high-1", 8), ("normal", 5), ("high-2", 8)):
            handles.append(engine.start(noted.options(priority=priority), ledger.path, line))
            # That it is recorded does not say that the pool knows of it.
            eventually(lambda: engine.metrics().queue_depth == len(handles), "it waits for the slot")
        assert ledger.lines() == []
        gate.open()
        assert [handle.result(timeout=20) for handle in handles] == ["low", "high-1", "normal", "high-2"]
        assert blocker.result(timeout=20) == "through"
    assert ledger.lines() == ["high-1", "high-2", "normal", "low"]


def test_a_priority_that_there_is_not_is_refused() -> None:
    with pytest.raises(rf.InvalidArgument, match="priority"):
        rf.ExecutionOptions(priority=10)


def test_never_more_at_once_than_there_are_slots(ledger: Ledger) -> None:
    with rf.LocalEngine(pool=rf.PoolConfig(workers=2, concurrency=2)) as engine:
        assert engine.start(wide, ledger.path, 20).result(30) == sum(range(20))
    running = most = 0
    for line in ledger.lines():
        running += 1 if line[0] == "+" else -1
        most = max(most, running)
    assert most <= 4
    assert sorted(ledger.lines()) == sorted([f"{sign}{number}" for sign in "+-" for number in range(20)])


def test_one_task_is_run_by_one_worker_however_many_there_are(ledger: Ledger) -> None:
    with rf.LocalEngine(pool=rf.PoolConfig(workers=4, concurrency=4)) as engine:
        handles = engine.start_many(noted.call(ledger.path, str(number)) for number in range(50))
        assert [handle.result(timeout=20) for handle in handles] == [str(number) for number in range(50)]
    assert sorted(ledger.lines(), key=int) == [str(number) for number in range(50)]


def test_what_needs_a_cluster_is_refused_and_says_what_can() -> None:
    with pytest.raises(rf.RequiresCluster, match=r"cannot join a cluster.*rf.DistributedEngine"):
        rf.LocalEngine(address="auto")
    with pytest.raises(rf.RequiresCluster, match="cannot keep actors in a namespace"):
        rf.LocalEngine(namespace="mine")
    with pytest.raises(rf.InvalidArgument, match="workers"):
        rf.LocalEngine(pool=rf.PoolConfig(workers=-1))
