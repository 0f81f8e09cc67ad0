"""Pools: made and found by name, limits on what runs at once and how often it starts, queues that are full."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

import rayflow as rf
from tests.fundamentals.tools import Gate, eventually, hold


class Crowd:
    """Counts how many are in it at once, and the most there were."""

    def __init__(self) -> None:
        self.now = self.most = 0
        self._lock = threading.Lock()

    def __enter__(self) -> None:
        with self._lock:
            self.now += 1
            self.most = max(self.most, self.now)

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self.now -= 1


CROWDS: dict[str, Crowd] = {}


@rf.step(concurrency_limit=2, concurrency_key=lambda crowd: crowd)
def crowded(crowd: str) -> None:
    with CROWDS[crowd]:
        time.sleep(0.01)


@rf.workflow
async def crowds(names: list[str]) -> None:
    await asyncio.gather(*(crowded(name) for name in names))


def test_no_more_of_one_key_run_at_once_than_its_limit(engine: rf.LocalEngine) -> None:
    CROWDS.update({"a": Crowd(), "b": Crowd()})
    engine.start(crowds, ["a", "b"] * 15).result(20)
    assert {name: CROWDS[name].most for name in "ab"} == {"a": 2, "b": 2}


@rf.step(concurrency_limit=1, concurrency_key=lambda: None, retry=rf.RetryPolicy(max_retries=0))
def keyless() -> None:
    raise AssertionError("it has no key")


@rf.workflow
async def without_a_key() -> None:
    await keyless()


def test_a_key_that_cannot_be_made_fails_the_step(engine: rf.LocalEngine) -> None:
    with pytest.raises(rf.ExecutionFailed, match="concurrency_key of step 'keyless' returned None"):
        engine.start(without_a_key).result(20)


@rf.step(rate_limit=rf.RateLimit(count=5, per=0.3))
def started() -> None:
    """Begins."""


@rf.workflow
async def starts(count: int) -> None:
    await asyncio.gather(*(started() for _ in range(count)))


def test_no_more_starts_in_any_window_than_the_limit(engine: rf.LocalEngine) -> None:
    handles = [engine.start(starts, 9) for _ in range(2)]
    for handle in handles:
        handle.result(timeout=20)
    # As recorded by the worker: a step may be held up between its begin and its first line.
    ordered = sorted(task.started_at or 0.0 for handle in handles for task in engine.tasks(handle.id))
    assert len(ordered) == 18
    assert all(later - earlier >= 0.3 for earlier, later in zip(ordered, ordered[5:], strict=False))


@rf.step(when_full="raise", retry=rf.RetryPolicy(max_retries=0))
def impatient(number: int) -> int:
    return number


@rf.workflow
async def crowding() -> list[object]:
    """Fills the queue, and asks for more while it is full and afterwards."""
    held = asyncio.gather(*(hold("gate") for _ in range(4)))
    found: list[object] = []
    while not found:
        await asyncio.sleep(0.1)
        try:
            await impatient(0)
        except rf.StepFailed as error:
            found.append(error.failure.type)
    rf.state["refused"] = len(found)
    await held
    return [*found, await impatient(1)]


def test_what_is_not_to_wait_fails_while_the_queue_is_full_and_not_afterwards(gate: Gate) -> None:
    with rf.LocalEngine(pool=rf.PoolConfig(workers=1, concurrency=1, queue_limit=2)) as engine:
        handle = engine.start(crowding)
        eventually(lambda: handle.status().state.get("refused"), "a step was refused")
        with pytest.raises(rf.QueueFull, match='limit of 2 tasks, and when_full="raise" was given'):
            engine.start(crowding.options(id="other", when_full="raise"))
        with pytest.raises(rf.ExecutionNotFound):
            engine.status("other")
        gate.open()
        assert handle.result(timeout=20) == ["rayflow.errors.QueueFull", 1]


@rf.step(pool="nowhere", retry=rf.RetryPolicy(max_retries=5))
def lost() -> None: ...


@rf.workflow
async def astray() -> None:
    await lost()


def test_a_step_whose_pool_is_not_there_says_which_are(engine: rf.LocalEngine) -> None:
    with pytest.raises(
        rf.ExecutionFailed, match=r"no worker pool is named 'nowhere'; existing pools: default\. Create it with"
    ):
        engine.start(astray).result(20)


def test_a_pool_that_is_made_again_is_the_same_and_keeps_its_size(engine: rf.LocalEngine) -> None:
    config = rf.PoolConfig(name="nowhere", workers=1, concurrency=2)
    engine.pools.create(config).scale(3)
    assert engine.pools.create(config).status().config.workers == 3
    with pytest.raises(rf.PoolExists, match=r"with other settings: concurrency=3 \(existing: 2\)"):
        engine.pools.create(config.replace(concurrency=3))
    engine.start(astray).result(20)
    engine.pools.get("nowhere").delete()
    with pytest.raises(rf.PoolNotFound, match="no worker pool is named 'nowhere'; existing pools: default"):
        engine.pools.get("nowhere")
    with pytest.raises(rf.InvalidArgument, match="the default pool 'default' cannot be deleted"):
        engine.pools.get().delete(force=True)


@pytest.mark.parametrize("given", [{}, {"workers": 2, "max_workers": 3}])
def test_scaling_needs_a_size_or_bounds(engine: rf.LocalEngine, given: dict[str, int]) -> None:
    with pytest.raises(rf.InvalidArgument, match="takes either a number of workers, or min_workers and max_workers"):
        engine.pools.get().scale(**given)
