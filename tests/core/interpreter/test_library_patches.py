"""Sets of asyncio and anyio objects iterate alike in every replay, whatever their addresses are."""

from __future__ import annotations

import abc
import asyncio
import gc
from asyncio import Future as FutureImportedBefore
from asyncio import all_tasks as all_tasks_imported_before
from typing import Any

import anyio
import pytest

import rayflow as rf
from rayflow.core.events import Ended
from rayflow.core.interpreter import sandbox
from tests.core.fake import Flow, Shell, stub

work = stub("work")
GARBAGE: list[Any] = []


def replay_elsewhere(shell: Shell) -> Shell:
    """Replay where objects get other addresses, up to the last event that the code sees."""
    last = len(shell.journal) - isinstance(shell.journal[-1].event, Ended)
    for _ in range(5):
        GARBAGE.append([object() for _ in range(997)])
        again = shell.restored(entries=last)
        again.execution.evict()
    gc.collect()
    return shell.restored(entries=last)


def make_future() -> asyncio.Future[Any]:
    return asyncio.Future()


def make_future_by_name() -> asyncio.Future[Any]:
    return FutureImportedBefore()


def all_tasks_by_module() -> set[asyncio.Task[Any]]:
    return asyncio.all_tasks()


def all_tasks_by_name() -> set[asyncio.Task[Any]]:
    return all_tasks_imported_before()


class OwnFuture(asyncio.Future[Any]):
    """Made before the first engine or after it; it is a future of asyncio in either case."""


@pytest.mark.parametrize("make", [make_future, make_future_by_name])
def test_futures_made_directly_iterate_alike(make: Any) -> None:
    async def flow() -> None:
        for _ in range(3):
            futures = {make() for _ in range(20)}
            for future in futures:
                future.set_result(work(len(GARBAGE)))
            await asyncio.gather(*[await future for future in futures])

    async def order() -> list[int]:
        made = [make() for _ in range(20)]
        ready = set(made)
        return [made.index(future) for future in ready]

    shell = Shell(order).begin()
    assert shell.result == replay_elsewhere(shell).result == list(range(20))
    replay_elsewhere(Shell(flow).begin())


def test_tasks_made_directly_belong_to_the_execution() -> None:
    ended = []

    async def left() -> None:
        try:
            await asyncio.sleep(100)
        finally:
            ended.append("cancelled")

    async def flow() -> int:
        task = asyncio.Task(left(), name="left")
        await asyncio.sleep(0)
        assert task.get_name() == "left"
        return len(asyncio.all_tasks())

    assert Shell(flow).begin().result == 2
    assert ended == ["cancelled"]


@pytest.mark.parametrize("all_tasks", [all_tasks_by_module, all_tasks_by_name])
def test_all_tasks_iterate_alike(all_tasks: Any) -> None:
    async def flow() -> None:
        mine = []
        for number in range(12):
            mine.append(asyncio.create_task(work(number)))
            for _ in range(30):
                await asyncio.create_task(asyncio.sleep(0))
        await asyncio.sleep(5)
        for task in all_tasks() - {asyncio.current_task()}:
            task.cancel()
        await asyncio.gather(*mine, return_exceptions=True)

    shell = Shell(flow).begin().pass_time(5)
    assert shell.execution.outcome is not None
    other = Shell(flow).begin()  # its tasks are among all tasks of the process
    assert replay_elsewhere(shell).journal == shell.journal
    other.execution.evict()


def anyio_scopes() -> Flow:
    async def child(number: int) -> None:
        with anyio.move_on_after(1000):
            await work(number)

    async def flow() -> None:
        with anyio.move_on_after(5):
            async with anyio.create_task_group() as group:
                for number in range(12):
                    group.start_soon(child, number)
        await work("after")

    return flow


def test_scopes_of_anyio_are_cancelled_in_the_order_in_which_they_were_entered() -> None:
    shell = Shell(anyio_scopes()).begin().pass_time(5)
    assert shell.journal[-1].dropped == tuple(range(1, 13))
    replay_elsewhere(shell)


def test_task_groups_of_anyio_start_their_children() -> None:
    async def child(*, task_status: anyio.abc.TaskStatus[Any]) -> None:
        task_status.started(await work("child"))
        await work("later")

    async def flow() -> Any:
        async with anyio.create_task_group() as group:
            return await group.start(child)

    shell = Shell(flow).begin().complete("work", "started").complete("work", None)
    assert shell.result == "started"
    assert replay_elsewhere(shell).result == "started"


def test_outside_of_workflows_nothing_changes() -> None:
    sandbox.install()

    class Abstract(asyncio.Future[Any], abc.ABC):
        pass

    async def main() -> None:
        future, task = asyncio.Future[int](), asyncio.current_task()
        assert type(future) is type(asyncio.get_running_loop().create_future())
        assert isinstance(task, asyncio.Task)
        assert isinstance(task, asyncio.Future)
        assert issubclass(asyncio.Task, asyncio.Future)
        assert not isinstance(future, asyncio.Task)
        assert not isinstance(future, OwnFuture)
        assert isinstance(OwnFuture(), asyncio.Future)
        assert isinstance(Abstract(), asyncio.Future)
        assert len({Abstract(), Abstract()}) == 2
        assert asyncio.all_tasks() == {task}
        assert len(await asyncio.gather(*[asyncio.sleep(0, rf) for _ in range(3)])) == 3

    asyncio.run(main())
