"""A call whose ``await`` was forgotten is named with its line."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import rayflow as rf
from tests.core.fake import Flow, Shell, stub

work = stub("work")


@rf.step
async def ask(question: Any = "x") -> Any:
    return question


@rf.workflow
async def child() -> None: ...


async def helper() -> None:
    await work()


async def step() -> None:
    ask("x")  # type: ignore[unused-coroutine]
    await work()


async def a_child() -> None:
    child()  # type: ignore[unused-coroutine]
    await work()


async def a_signal() -> None:
    rf.wait_for_signal("go")  # type: ignore[unused-coroutine]
    await work()


async def of_its_own() -> None:
    helper()  # type: ignore[unused-coroutine]
    await work()


async def kept() -> None:
    answer = ask("x")
    await work()
    del answer


@pytest.mark.parametrize(
    ("flow", "name"),
    [(step, "ask"), (a_child, "child"), (a_signal, "wait_for_signal"), (of_its_own, "helper"), (kept, "ask")],
)
def test_a_call_that_is_never_awaited_is_named_with_its_line(flow: Flow, name: str) -> None:
    shell = Shell(flow).begin().complete("work")
    line = flow.__code__.co_firstlineno + 1
    [message] = shell.told.messages
    assert message.endswith(f"{name}' was called at test_forgotten_await.py:{line} and never awaited: it did not run")


def test_a_replay_does_not_say_it_again() -> None:
    assert Shell(step).begin().restored().complete("work").told.messages == []


@pytest.mark.parametrize("make", [lambda: ask("x"), lambda: asyncio.create_task(helper())])
def test_a_forgotten_await_in_an_argument_is_named(make: Any) -> None:
    async def flow() -> Any:
        return await ask(make())

    failure = Shell(flow).begin().failure
    assert failure.matches(rf.CodecError)
    assert "was called" in failure.message
    assert "Write `await` in front of the call" in failure.message


def test_the_line_of_the_argument_is_named() -> None:
    async def flow() -> Any:
        return await ask([ask("x")])

    message = Shell(flow).begin().failure.message
    line = flow.__code__.co_firstlineno + 1
    assert f"cannot write [0][0][0]: 'ask' was called at test_forgotten_await.py:{line} without `await`" in message


@pytest.mark.filterwarnings("ignore:coroutine 'ask' was never awaited:RuntimeWarning")
def test_outside_of_workflows_python_warns_as_ever() -> None:
    Shell(step).begin()
    with pytest.warns(RuntimeWarning, match="coroutine 'ask' was never awaited"):
        ask("x")  # type: ignore[unused-coroutine]
