"""A lock, semaphore, event or queue at module level belongs to one execution at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

import rayflow as rf
from rayflow.core.interpreter import sandbox
from rayflow.errors import SideEffectError
from tests.core.fake import Shell, run, stub, sweep

work = stub("work")

LIMIT = asyncio.Semaphore(2)
LOCK = asyncio.Lock()
GATE = asyncio.Event()
ROOM = asyncio.Condition()
LINE: asyncio.Queue[int] = asyncio.Queue()


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    global LIMIT, LOCK, GATE, ROOM, LINE
    yield
    LIMIT, LOCK, GATE, ROOM, LINE = (
        asyncio.Semaphore(2),
        asyncio.Lock(),
        asyncio.Event(),
        asyncio.Condition(),
        asyncio.Queue(),
    )


async def limited() -> list[Any]:
    async def one(number: int) -> Any:
        async with LIMIT:
            return await work(number)

    return list(await asyncio.gather(*(one(number) for number in range(5))))


async def locked() -> list[Any]:
    async def one(number: int) -> Any:
        async with LOCK:
            return await work(number)

    return list(await asyncio.gather(*(one(number) for number in range(3))))


async def gated() -> Any:
    async def opens() -> None:
        await work("open")
        GATE.set()

    async with asyncio.TaskGroup() as group:
        group.create_task(opens())
        await GATE.wait()
        return await work("inside")


async def notified() -> Any:
    async def notifies() -> None:
        await work("notify")
        async with ROOM:
            ROOM.notify_all()

    async with asyncio.TaskGroup() as group:
        group.create_task(notifies())
        async with ROOM:
            await ROOM.wait()
        return await work("after")


async def queued() -> int:
    async def puts() -> None:
        for number in range(3):
            await work(number)
            LINE.put_nowait(number)

    async with asyncio.TaskGroup() as group:
        group.create_task(puts())
        return sum([await LINE.get() for _ in range(3)])


@pytest.mark.parametrize("flow", [limited, locked, gated, notified, queued])
def test_within_one_execution_they_work_and_replay(flow: Any) -> None:
    sweep(run(flow))


@pytest.mark.parametrize("flow", [limited, locked, gated, notified, queued])
def test_executions_one_after_the_other_find_them_as_new(flow: Any) -> None:
    first, second = run(flow), run(flow)
    assert first.journal == second.journal


def test_a_replay_finds_them_as_they_were_before_the_execution() -> None:
    shell = Shell(locked).begin()
    shell.execution.evict()
    again = shell.restored()
    assert again.started == [("work", 1)]
    assert again.finish().result == [None] * 3


@pytest.mark.parametrize(
    ("flow", "name"), [(limited, "LIMIT"), (locked, "LOCK"), (gated, "GATE"), (notified, "ROOM"), (queued, "LINE")]
)
def test_use_by_a_second_execution_is_refused_with_the_object_and_the_line(flow: Any, name: str) -> None:
    first = Shell(flow, execution_id="first").begin()
    second = Shell(flow, execution_id="second").begin()
    failure = str(second.failure)
    for part in (name, "test_shared_objects.py:", "execution 'first'", "rf.semaphore()", "inside the workflow"):
        assert part in failure
    assert first.finish().execution.outcome is not None


def test_a_replay_that_is_refused_says_why_and_not_that_it_differs() -> None:
    shell = Shell(locked, execution_id="first").begin()
    shell.execution.evict()
    other = Shell(locked, execution_id="other").begin()
    with pytest.raises(SideEffectError, match=r"LOCK.*execution 'other'"):
        shell.restored()
    other.finish()
    assert shell.restored().finish().result == [None] * 3


def test_what_code_outside_of_workflows_waits_for_is_refused_in_a_workflow_and_the_other_way_round() -> None:
    sandbox.install()

    async def main() -> str:
        async with LOCK:
            waiter = asyncio.create_task(LOCK.acquire())
            await asyncio.sleep(0)
            failure = await asyncio.to_thread(lambda: str(Shell(locked).begin().failure))
        await waiter
        LOCK.release()
        return failure

    assert "LOCK" in asyncio.run(main())

    shell = Shell(limited, execution_id="mine").begin()

    async def other() -> None:
        async with LIMIT:
            pass

    with pytest.raises(RuntimeError, match=r"LIMIT.*execution 'mine'.*belongs to that execution"):
        asyncio.run(other())
    shell.finish()
    asyncio.run(other())


def test_outside_of_workflows_they_are_as_ever() -> None:
    sandbox.install()
    assert asyncio.iscoroutinefunction(asyncio.Lock.acquire)

    async def main() -> int:
        lock, queue = asyncio.Lock(), asyncio.Queue[int]()
        async with lock:
            await queue.put(1)
        return await queue.get()

    assert [asyncio.run(main()), asyncio.run(main())] == [1, 1]
    assert rf.__version__
