"""Code that swallows its cancellation is ended, and the failure says so; clean-up may take as long as it wants."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest

import rayflow as rf
from tests.core.fake import Flow, Shell, stub, sweep

work, clean, undo = stub("work"), stub("clean"), stub("undo")


async def polls() -> None:
    while True:
        try:  # noqa: SIM105 - as people write it
            await asyncio.sleep(1)
        except BaseException:  # noqa: BLE001, S110 - the bare except of a polling loop
            pass


async def polls_a_step() -> None:
    for _ in range(1000):
        try:
            await work()
            await clean()
        except asyncio.CancelledError:
            continue


async def polls_in_a_child() -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(polls())
        await work()


async def polls_in_a_gather() -> None:
    await asyncio.gather(polls(), work())


async def polls_in_a_helper() -> None:
    async def fetch() -> None:
        with contextlib.suppress(BaseException):
            await rf.wait_for_signal("never")

    while True:
        await fetch()


async def polls_for_a_limited_time() -> None:
    while True:
        try:
            async with asyncio.timeout(5):
                await work()
        except BaseException:  # noqa: BLE001, S110 - the same loop, with a limit on each try
            pass


@pytest.mark.parametrize(
    "flow",
    [polls, polls_a_step, polls_in_a_child, polls_in_a_gather, polls_in_a_helper, polls_for_a_limited_time],
)
def test_code_that_swallows_its_cancellation_is_ended(flow: Flow) -> None:
    shell = Shell(flow).begin().cancel()
    assert shell.failure.matches(rf.WorkflowStalled)
    assert "swallowed its cancellation and waits at test_cancellation.py:" in shell.failure.message
    sweep(shell)


def test_code_that_swallows_the_end_of_its_time_is_ended() -> None:
    shell = Shell(polls, deadline=1010.0).begin().pass_time(10)
    assert shell.failure.matches(rf.WorkflowStalled)


def test_a_task_left_running_that_swallows_its_cancellation_is_ended() -> None:
    async def flow() -> str:
        asyncio.create_task(polls())  # noqa: RUF006 - as those who forget it
        return str(await work())

    shell = Shell(flow).begin().complete("work")
    assert shell.failure.matches(rf.WorkflowStalled)
    sweep(shell)


def test_what_it_did_is_undone() -> None:
    async def flow() -> None:
        rf.compensate(undo)
        await polls()

    shell = Shell(flow).begin().cancel().complete("undo")
    assert shell.failure.matches(rf.WorkflowStalled)


# --- what may clean up --------------------------------------------------------------------------------------------
async def cleans_up() -> None:
    try:
        await work()
    finally:
        for _ in range(3):
            await clean()


async def cleans_up_by_the_same_helper() -> None:
    async def call(name: str) -> None:
        await work(name)

    try:
        await call("first")
    finally:
        await call("second")
        await call("third")


async def retries_its_clean_up() -> None:
    try:
        await work()
    finally:
        for _ in range(3):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(5):
                    await clean()


async def children_clean_up() -> None:
    async with asyncio.TaskGroup() as group:
        for _ in range(3):
            group.create_task(cleans_up())


async def children_of_a_gather_clean_up() -> None:
    await asyncio.gather(*(cleans_up() for _ in range(3)))


async def waits_for_tasks_that_clean_up() -> None:
    tasks = [asyncio.create_task(cleans_up()) for _ in range(3)]
    try:
        await asyncio.wait(tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


async def a_generator_cleans_up() -> None:
    async def numbers() -> AsyncIterator[Any]:
        try:
            while True:
                yield await work()
        finally:
            await clean()
            await clean()

    async with contextlib.aclosing(numbers()) as them:  # type: ignore[type-var]
        async for _ in them:
            pass


async def a_context_manager_cleans_up() -> None:
    @contextlib.asynccontextmanager
    async def opened() -> AsyncIterator[None]:
        await clean()
        try:
            yield
        finally:
            await clean()
            await clean()

    async with opened():
        await work()


async def shields() -> None:
    inner = asyncio.create_task(clean())
    try:
        await asyncio.shield(inner)
    except asyncio.CancelledError:
        await inner
        raise


@pytest.mark.parametrize(
    "flow",
    [
        cleans_up,
        cleans_up_by_the_same_helper,
        retries_its_clean_up,
        children_clean_up,
        children_of_a_gather_clean_up,
        waits_for_tasks_that_clean_up,
        a_generator_cleans_up,
        a_context_manager_cleans_up,
        shields,
    ],
)
def test_clean_up_may_take_as_long_as_it_wants(flow: Flow) -> None:
    shell = Shell(flow).begin()
    if flow is a_context_manager_cleans_up:
        shell.complete("clean")
    shell.cancel()
    if flow is retries_its_clean_up:
        shell.pass_time(5).pass_time(5)
    assert shell.execution.outcome is None
    shell.finish()
    assert shell.execution.outcome is not None
    assert shell.execution.outcome.status == "cancelled"


def test_who_takes_the_cancellation_back_goes_on() -> None:
    async def flow() -> Any:
        while True:
            try:
                return await work()
            except asyncio.CancelledError:
                task = asyncio.current_task()
                assert task is not None
                task.uncancel()

    shell = Shell(flow).begin().cancel()
    assert shell.execution.outcome is None


def test_loops_over_timeouts_are_no_swallowing() -> None:
    async def flow() -> int:
        for number in range(10):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1):
                    await work()
                    return number
        return -1

    shell = Shell(flow).begin()
    for _ in range(10):
        shell.pass_time(1)
    assert shell.result == -1
