"""An id that is used again once its execution is deleted begins another execution: other keys, other numbers."""

from __future__ import annotations

from typing import Any

import pytest

import rayflow as rf
from rayflow.testing import TestEngine


@rf.step
async def pay(order: str) -> list[str]:
    return [rf.step_context().idempotency_key, order]


@rf.workflow
async def child() -> list[str]:
    return await pay(str(rf.uuid4()))


@rf.workflow
async def parent() -> list[str]:
    return [*await pay("the same"), *await child()]


@pytest.mark.parametrize("made", [rf.LocalEngine, TestEngine])
def test_an_id_used_again_has_other_idempotency_keys_and_random_numbers(made: Any) -> None:
    with made() as engine:
        results = []
        for _ in range(2):
            results.append(engine.start(parent.options(id="nightly")).result(30))
            if isinstance(engine, TestEngine):
                engine.advance(1)
            assert engine.purge(older_than=0).executions == 2
    first, second = results
    assert [old == new for old, new in zip(first, second, strict=True)] == [False, True, False, False]


def test_a_schedule_that_starts_a_deleted_due_time_again_has_other_keys() -> None:
    with TestEngine() as engine:
        engine.schedules.create("nightly", child, rf.Schedule(every=3600))
        results, began = [], engine.now()
        for _ in range(2):
            [handle] = engine.schedules.backfill("nightly", began - 3600, began - 1)
            results.append(handle.result())
            engine.advance(1)
            assert engine.purge(older_than=0).executions == 1
    assert results[0][0] != results[1][0]
    assert results[0][1] != results[1][1]


def test_a_test_draws_the_same_numbers_each_time_that_it_runs() -> None:
    results = []
    for _ in range(2):
        with TestEngine() as engine:
            results.append(engine.execute(parent.options(id="one"))[3])
    assert results[0] == results[1]


def test_a_fork_continues_with_the_numbers_of_what_it_takes_over() -> None:
    @rf.step
    def reserve(order: str) -> str:
        return f"room for {order}"

    @rf.step
    def confirm(order: str, room: str) -> str:
        return f"{order}: {room}"

    @rf.workflow
    async def book() -> str:
        order = str(rf.uuid4())
        return await confirm(order, await reserve(order))

    with rf.LocalEngine() as engine:
        first = engine.start(book.options(id="a")).result(30)
        assert engine.fork("a", before="confirm", id="b").result(timeout=30) == first
        other = engine.fork("a", before="reserve", id="c").result(timeout=30)
        assert other == first, "the numbers before the call are those of the source"
