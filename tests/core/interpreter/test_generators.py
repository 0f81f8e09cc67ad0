"""Async generators: durable with ``aclosing``, else closed at the end, when nothing can be issued any more."""

from __future__ import annotations

import asyncio
import contextlib
import gc
from collections.abc import AsyncGenerator, AsyncIterator

import pytest

import rayflow as rf
from rayflow.core.interpreter import coroutine_cleanup
from rayflow.core.interpreter.coroutine_cleanup import Evicted
from rayflow.core.interpreter.event_loop import DurableLoop
from rayflow.ids import ExecutionStatus
from tests.core.fake import run, stub, sweep

one = stub("one")
undo = stub("undo")


async def numbers() -> AsyncGenerator[int, None]:
    try:
        yield 1
        yield 2
    finally:
        await undo()


def test_an_async_generator_that_issues_a_step_after_the_end_fails_the_workflow_and_names_aclosing() -> None:
    async def flow() -> str:
        async for number in numbers():
            await one(number)
            break
        return "done"

    ended = run(flow)
    assert [name for name, _ in ended.started] == ["one"]
    assert ended.execution.outcome is not None
    assert ended.execution.outcome.status is ExecutionStatus.FAILED
    assert "contextlib.aclosing" in ended.failure.message
    assert len(ended.told.messages) == 1
    assert "numbers" in ended.told.messages[0]
    sweep(ended)


def test_a_workflow_that_failed_anyway_keeps_its_own_failure() -> None:
    async def flow() -> None:
        async for _ in numbers():
            raise ValueError("its own")

    ended = run(flow)
    assert ended.failure.message == "its own"
    assert "contextlib.aclosing" in ended.told.messages[0]


def test_with_aclosing_the_clean_up_of_a_generator_is_durable() -> None:
    async def flow() -> str:
        async with contextlib.aclosing(numbers()) as found:
            async for number in found:
                await one(number)
                break
        return "done"

    ended = run(flow)
    assert ended.started == [("one", 1), ("undo", 1)]
    assert ended.result == "done"
    assert ended.told.messages == []
    sweep(ended)


def test_a_generator_that_waits_in_its_clean_up_after_the_end_is_told_of() -> None:
    async def waiting() -> AsyncIterator[int]:
        try:
            yield 1
        finally:
            await asyncio.sleep(1)

    async def flow() -> str:
        async for _ in waiting():
            break
        return "done"

    ended = run(flow)
    assert ended.result == "done"
    assert len(ended.told.messages) == 1
    assert "waits in its clean-up" in ended.told.messages[0]
    assert "contextlib.aclosing" in ended.told.messages[0]


def test_a_generator_that_swallows_its_end_is_kept_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    unending: list[object] = []
    monkeypatch.setattr(coroutine_cleanup, "_unending", unending)
    free: list[int] = []

    async def stubborn() -> AsyncIterator[int]:
        try:
            yield 1
        finally:
            while not free:
                with contextlib.suppress(Evicted):
                    await asyncio.sleep(1)

    async def flow() -> str:
        async for _ in stubborn():
            break
        return "done"

    ended = run(flow)
    assert ended.result == "done"
    assert [getattr(kept, "__name__", "") for kept in unending] == ["stubborn"]
    free.append(1)  # the garbage collector may have it


def test_the_garbage_collector_does_not_decide_when_a_generator_is_closed() -> None:
    closed = []

    async def generator() -> AsyncIterator[int]:
        try:
            yield 1
        finally:
            closed.append(rf.now())

    async def flow() -> str:
        async for _ in generator():
            break
        gc.collect()
        await one()
        gc.collect()
        assert closed == []
        await asyncio.sleep(5)
        return "done"

    ended = run(flow)
    assert ended.result == "done"
    assert closed == [1005.0]


def test_finished_generators_are_let_go() -> None:
    async def short() -> AsyncIterator[int]:
        yield 1

    async def flow() -> int:
        total = 0
        for _ in range(500):
            async for number in short():
                total += number
        return total + len(loop_of(flow)._generators)

    def loop_of(_: object) -> DurableLoop:
        running = asyncio.get_running_loop()
        assert isinstance(running, DurableLoop)
        return running

    assert 500 < run(flow).result < 500 + 100
