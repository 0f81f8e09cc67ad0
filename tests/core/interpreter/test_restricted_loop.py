"""What asyncio offers and a workflow must not use is refused, with a word on what to do instead."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from rayflow.core.execution.actions import RunAttempt
from rayflow.core.interpreter.event_loop import DurableLoop
from rayflow.errors import SideEffectError
from tests.core.fake import Shell, Told, run, stub, sweep

one = stub("one")


def first_argument(attempt: RunAttempt) -> Any:
    return attempt.call.args[0]


def bare_loop() -> DurableLoop:
    return DurableLoop(execution=None, name="e", on_unhandled=Told())  # type: ignore[abstract]


def test_as_completed_over_bare_coroutines_is_refused() -> None:
    async def flow() -> None:
        coroutines = [one(number) for number in range(3)]
        try:
            for next_one in asyncio.as_completed(coroutines):
                await next_one
        finally:
            for coroutine in coroutines:
                coroutine.close()

    ended = Shell(flow).begin()
    assert ended.started == []
    assert ended.failure.matches(SideEffectError)
    assert "asyncio.create_task(c) for c in coros" in ended.failure.message


def test_as_completed_over_tasks_works() -> None:
    async def flow() -> list[int]:
        made = [asyncio.create_task(one(number)) for number in range(3)]
        return [await next_one for next_one in asyncio.as_completed(made)]

    ended = run(flow, first_argument)
    assert ended.result == [0, 1, 2]
    sweep(ended, first_argument)


def test_a_function_of_ones_own_may_be_called_as_completed() -> None:
    async def as_completed() -> Any:
        return await asyncio.create_task(one(1))

    assert run(as_completed, first_argument).result == 1


@pytest.mark.parametrize(
    ("name", "arguments", "what"),
    [
        ("run_in_executor", (None, print), "running a function in a thread"),
        ("call_soon_threadsafe", (print,), "running a function in a thread"),
        ("create_connection", (None, "localhost", 1), "opening a connection"),
        ("create_server", (None,), "opening a connection"),
        ("add_reader", (0, print), "opening a connection"),
        ("subprocess_exec", (None, "true"), "starting a process"),
        ("add_signal_handler", (2, print), "handling a signal"),
        ("run_until_complete", (None,), "running or closing the loop"),
        ("stop", (), "running or closing the loop"),
        ("close", (), "running or closing the loop"),
    ],
)
def test_what_no_replay_could_repeat_is_refused(name: str, arguments: tuple[Any, ...], what: str) -> None:
    with pytest.raises(SideEffectError, match=f"{what}.* inside a workflow.*Put it into a step"):
        getattr(bare_loop(), name)(*arguments)


def test_a_task_factory_of_ones_own_is_refused() -> None:
    with pytest.raises(SideEffectError, match="task factory"):
        bare_loop().set_task_factory(lambda loop, coro: None)
