"""Plain asyncio is durable in a workflow: nothing of it needs another name."""

from __future__ import annotations

import asyncio

import rayflow as rf
from rayflow.client.engine import backend_of


@rf.step
async def double(number: int) -> int:
    return 2 * number


@rf.workflow
async def gathers(count: int) -> list[int]:
    return await asyncio.gather(*(double(number) for number in range(count)))


@rf.workflow
async def produces_and_consumes(count: int) -> list[int]:
    queue: asyncio.Queue[int] = asyncio.Queue(2)
    found: list[int] = []

    async def produce() -> None:
        for number in range(count):
            await queue.put(await double(number))

    async def consume() -> None:
        for _ in range(count):
            found.append(await queue.get())  # noqa: PERF401 - the loop is the point

    async with asyncio.TaskGroup() as group:
        group.create_task(produce())
        group.create_task(consume())
    return found


@rf.workflow
async def tells(count: int) -> None:
    for number in range(count):
        rf.state["doubled"] = await double(number)


def test_many_steps_at_once_answer_in_their_order(engine: rf.LocalEngine) -> None:
    assert engine.start(gathers.options(id="one"), 200).result(60) == [2 * number for number in range(200)]
    assert len(engine.status("one").completed_steps) == 200


def test_a_hundred_steps_in_a_row_are_one_row_each(engine: rf.LocalEngine) -> None:
    engine.start(tells.options(id="one"), 100).result(60)
    assert engine.status("one").completed_steps == list(range(1, 101))
    # The start, each result, and the end: nothing is written twice.
    assert backend_of(engine).record("one").last_seq == 102


def test_tasks_and_queues_work(engine: rf.LocalEngine) -> None:
    assert engine.start(produces_and_consumes, 10).result(20) == [2 * number for number in range(10)]


def test_what_a_workflow_publishes_is_seen_in_its_state(engine: rf.LocalEngine) -> None:
    engine.start(tells.options(id="one"), 5).result(20)
    assert engine.status("one").state == {"doubled": 8}


def test_a_step_simply_runs_where_there_is_no_workflow() -> None:
    assert asyncio.run(double(4)) == 8
    assert asyncio.run(double.fn(5)) == 10
