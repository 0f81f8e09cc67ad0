"""Waiting for a result: in a thread, in asyncio, or not for ever. Who stops waiting stops nothing."""

from __future__ import annotations

import asyncio
import time

import pytest

import rayflow as rf
from rayflow.runtime.actors import base
from tests.fundamentals.tools import Gate, hold


@rf.step
def double(number: int) -> int:
    return 2 * number


@rf.workflow
async def doubled(number: int) -> int:
    return await double(number)


@rf.workflow
async def held() -> str:
    return await hold("gate")


def test_a_handle_can_be_awaited(engine: rf.LocalEngine) -> None:
    async def program() -> list[int]:
        first = await engine.start(doubled, 1)
        others = await asyncio.gather(*(engine.start(doubled, number) for number in (2, 3)))
        return [first, *others]

    assert asyncio.run(program()) == [2, 4, 6]


def test_who_stops_waiting_is_told_so_and_the_execution_goes_on(engine: rf.LocalEngine, gate: Gate) -> None:
    handle = engine.start(held.options(id="slow"))
    gate.wait_until_reached()
    with pytest.raises(rf.ResultTimeout, match=r"'slow' was still running.*it continues"):
        handle.result(timeout=0.02)
    assert not handle.done()
    gate.open()
    assert handle.result(timeout=20) == "through"


def test_awaiting_can_be_given_up_too(engine: rf.LocalEngine, gate: Gate) -> None:
    handle = engine.start(held)

    async def program() -> str:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(handle, 0.02)
        gate.open()
        return await handle

    assert asyncio.run(program()) == "through"


def test_any_handle_of_an_id_answers_as_often_as_it_is_asked(engine: rf.LocalEngine) -> None:
    handle = engine.start(doubled.options(id="one"), 21)
    assert [handle.result(timeout=20), handle.result(timeout=20), engine.handle("one").result(timeout=20)] == [42] * 3


def test_a_closed_engine_answers_at_once(store: str) -> None:
    with rf.LocalEngine(store) as engine:
        handle = engine.start(doubled, 1)
    began = time.monotonic()
    for ask in (handle.status, engine.list, engine.metrics, engine.pools.list, lambda: engine.start(doubled, 1)):
        with pytest.raises(rf.RayflowError):
            ask()
    assert time.monotonic() - began < base.RETRY_FOR / 2


def test_a_closed_engine_says_so(store: str) -> None:
    engine = rf.LocalEngine(store)
    handle = engine.start(doubled, 1)
    engine.close()
    with pytest.raises(rf.RayflowError, match="engine is closed"):
        handle.result(timeout=1)
