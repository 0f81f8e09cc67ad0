"""A background task that fails is reported at once, and once."""

from __future__ import annotations

import asyncio
from typing import Any

import rayflow as rf
from rayflow.core.interpreter.machine import Machine
from tests.core.fake import Shell, stub

work = stub("work")
KEPT: list[Any] = []


async def fails() -> None:
    raise ValueError("the audit loop has died")


async def background() -> Any:
    asyncio.create_task(fails())  # noqa: RUF006 - as those who forget it
    return await work()


async def referred_to() -> Any:
    task = asyncio.create_task(fails())
    await work()
    return task.done()


SAID = ["Task exception was never retrieved: the audit loop has died"]


def test_a_background_task_that_fails_is_reported_as_soon_as_it_has() -> None:
    shell = Shell(background).begin()
    assert shell.told.messages == SAID
    shell.complete("work")
    assert shell.told.messages == SAID


def test_a_replay_does_not_report_it_again() -> None:
    again = Shell(background).begin().restored()
    assert again.told.messages == []
    assert again.complete("work").told.messages == []


def test_one_that_may_yet_be_awaited_is_reported_once_nothing_refers_to_it() -> None:
    shell = Shell(referred_to).begin()
    assert shell.told.messages == []
    assert shell.complete("work").result is True
    assert shell.told.messages == SAID


def test_finished_tasks_are_not_held() -> None:
    async def flow() -> None:
        for _ in range(50):
            await asyncio.create_task(asyncio.sleep(0))
        await work()

    shell = Shell(flow).begin()
    machine: Machine = shell.machine
    assert len(machine._loop._tasks) == 1


def test_what_a_report_writes_is_not_the_workflow_s_doing(tmp_path: Any) -> None:
    def write(message: str, error: BaseException | None) -> None:
        (tmp_path / "log").write_text(message)

    async def flow() -> Any:
        asyncio.create_task(fails())  # noqa: RUF006 - as those who forget it
        return await work(rf.now())

    shell = Shell(flow)
    shell.machine._on_unhandled = write
    shell.begin()
    assert (tmp_path / "log").read_text() == "Task exception was never retrieved"
