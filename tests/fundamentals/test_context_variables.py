"""Context variables that workflow code sets are seen by its steps."""

from __future__ import annotations

import asyncio
import logging
import threading
from contextvars import ContextVar
from typing import Any

import pytest

import rayflow as rf
from rayflow.testing import TestEngine

TENANT: ContextVar[str] = ContextVar("tenant", default="nobody")
DETAILS: ContextVar[Any] = ContextVar("details")


@rf.step
async def seen() -> list[Any]:
    return [TENANT.get(), DETAILS.get(None)]


@rf.step
def seen_in_a_thread() -> list[Any]:
    return [TENANT.get(), DETAILS.get(None)]


@rf.step
def undo(notes: list[str]) -> None:
    UNDONE.append(TENANT.get())


UNDONE: list[str] = []


@rf.workflow
async def flow() -> list[Any]:
    before = await seen()
    TENANT.set("acme")
    DETAILS.set({"n": 1})

    async def other() -> list[Any]:
        TENANT.set("other")
        return await seen_in_a_thread()

    inner = await asyncio.create_task(other())
    await asyncio.sleep(0.01)
    return [before, inner, await seen(), await seen_in_a_thread()]


@rf.workflow
async def with_a_lock() -> list[Any]:
    DETAILS.set(threading.Lock())
    TENANT.set("acme")
    local: ContextVar[int] = ContextVar("of the call")
    local.set(1)
    return [await seen(), await seen()]


@rf.workflow
async def undoes() -> None:
    TENANT.set("acme")
    rf.compensate(undo, [])
    TENANT.set("later")
    raise ValueError("undo it")


@pytest.fixture(params=[rf.LocalEngine, TestEngine, lambda: TestEngine(paranoid=True)])
def engine(request: pytest.FixtureRequest) -> Any:
    with request.param() as engine:
        yield engine


def test_a_step_sees_what_its_caller_has_set(engine: Any) -> None:
    details = {"n": 1}
    assert engine.start(flow).result(30) == [
        ["nobody", None],
        ["other", details],
        ["acme", details],
        ["acme", details],
    ]


def test_one_that_cannot_be_carried_is_named_once(engine: Any, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert engine.start(with_a_lock).result(30) == [["acme", None], ["acme", None]]
    said = [record.getMessage() for record in caplog.records if "context variable" in record.getMessage()]
    assert [message.partition("context variable ")[2].partition(":")[0] for message in said] == [
        "'details'",
        "'of the call'",
    ]
    assert "cannot be serialised" in said[0]


def test_a_compensation_sees_what_was_set_when_it_was_registered(engine: Any) -> None:
    UNDONE.clear()
    with pytest.raises(rf.ExecutionFailed):
        engine.start(undoes).result(30)
    assert UNDONE == ["acme"]
