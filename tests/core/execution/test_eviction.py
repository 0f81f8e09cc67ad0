"""Dropping an execution: its clean-up runs, and nothing that it issues happens."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

import rayflow as rf
from rayflow.core.execution.actions import RunAttempt
from rayflow.core.interpreter import coroutine_cleanup
from rayflow.core.interpreter.coroutine_cleanup import CLOSINGS, Evicted
from rayflow.definition.context import current_execution
from tests.core.fake import Shell, stub, sweep

ROOT = Path(__file__).parents[3]

one = stub("one")
undo = stub("undo")


def first_argument(attempt: RunAttempt) -> Any:
    return attempt.call.args[0] if attempt.call.args else None


def test_eviction_runs_clean_up_and_issues_nothing() -> None:
    seen: list[str] = []

    async def member(number: int) -> None:
        try:
            await one(number)
        finally:
            seen.append(f"finally {number}")
            await undo(number)
            seen.append("never")

    async def flow() -> None:
        try:
            async with asyncio.TaskGroup() as group:
                for number in range(3):
                    group.create_task(member(number))
        finally:
            seen.append("finally flow")
            rf.state["state"] = "gone"

    shell = Shell(flow).begin()
    shell.execution.evict()
    assert sorted(seen) == ["finally 0", "finally 1", "finally 2", "finally flow"]
    work = shell.execution.take()
    assert (work.entries, work.actions) == ([], [])
    shell.execution.evict()
    assert len(seen) == 4
    sweep(shell.restored().finish())


async def call_directly() -> Any:
    return await one(1)


async def call_in_tasks() -> Any:
    return await asyncio.gather(one(1), one(1))


async def call_in_group() -> Any:
    async with asyncio.TaskGroup() as group:
        task = group.create_task(one(1))
    return task.result()


@pytest.mark.parametrize("retry", [call_directly, call_in_tasks, call_in_group])
def test_eviction_ends_although_the_code_swallows_it_and_tries_again(
    retry: Callable[[], Coroutine[Any, Any, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    unending: list[object] = []
    monkeypatch.setattr(coroutine_cleanup, "_unending", unending)
    free: list[int] = []

    async def flow() -> Any:
        execution = current_execution()
        assert execution is not None
        while not free:
            try:
                rf.state["tries"] = 1
                execution.stage(0, "tries", "running")
                return await retry()
            except BaseException:  # noqa: BLE001, S112 - what a careless retry loop does
                continue
        return None

    shell = Shell(flow).begin()
    entries = len(shell.journal)
    shell.execution.evict()
    work = shell.execution.take()
    assert (work.entries, work.actions) == ([], [])
    assert [getattr(kept, "__name__", "") for kept in unending] == ["flow"]
    assert "swallows every attempt to end it" in shell.told.messages[-1]
    assert len(shell.journal) == entries
    assert shell.restored().finish(first_argument).result in (1, [1, 1])
    free.append(1)  # the garbage collector may have it


def test_eviction_closes_again_what_swallows_its_end_a_few_times() -> None:
    swallowed = []

    async def flow() -> None:
        for _ in range(CLOSINGS // 2):
            try:
                await asyncio.sleep(1)
            except Evicted:
                swallowed.append(1)

    shell = Shell(flow).begin()
    shell.execution.evict()
    assert len(swallowed) == CLOSINGS // 2
    assert shell.told.messages == []


def test_a_failure_that_the_code_was_still_to_await_is_not_told_as_forgotten() -> None:
    async def flow() -> Any:
        return await asyncio.gather(one(), undo(), return_exceptions=True)

    shell = Shell(flow).begin().fail("one")
    told, again = shell.told, shell.restored()
    shell.execution.evict()
    del shell
    gc.collect()
    assert told.messages == []
    assert len(again.complete("undo").result) == 2


def test_eviction_closes_generators_too() -> None:
    seen = []

    async def generator() -> AsyncIterator[int]:
        try:
            yield 1
        finally:
            seen.append("closed")
            await undo()

    async def flow() -> None:
        found = generator()
        await anext(found)
        await one()

    shell = Shell(flow).begin()
    shell.execution.evict()
    assert seen == ["closed"]
    assert shell.told.messages == []
    assert shell.execution.take().actions == []


def test_dropping_an_execution_does_nothing_after_it_was_evicted() -> None:
    seen = []

    async def flow() -> None:
        try:
            await one()
        finally:
            seen.append(current_execution() is not None)

    shell = Shell(flow).begin()
    shell.execution.evict()
    del shell
    gc.collect()
    assert seen == [True]


DROPPED = """
import gc
from rayflow.core.interpreter.machine import Machine
from rayflow.core.events import Started
from rayflow.definition.step import step
from rayflow.storage.codec.payloads import MsgpackCodec

@step
def compensate():
    print("ran for real")

async def flow():
    try:
        await compensate()
    finally:
        await compensate()

for number in range(2):
    machine = Machine(flow, execution_id=str(number), workflow_id="w", payloads=MsgpackCodec())
    machine.apply(Started(1.0))
    if number == 0:
        del machine
        gc.collect()
print("at its end")
"""


def test_clean_up_of_a_dropped_execution_never_runs_for_real_not_even_when_the_process_ends() -> None:
    ended = subprocess.run([sys.executable, "-c", DROPPED], capture_output=True, text=True, check=True, cwd=ROOT)
    assert (ended.stdout, ended.stderr) == ("at its end\n", "")


def test_clean_up_code_sets_no_context_variables_of_the_thread() -> None:
    variable = contextvars.ContextVar("variable", default="outer")

    async def flow() -> None:
        try:
            await one()
        finally:
            variable.set("inner")

    shell = Shell(flow).begin()
    shell.execution.evict()
    assert variable.get() == "outer"
