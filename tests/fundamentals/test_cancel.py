"""Cancelling: the workflow's code gets a CancelledError, cleans up durably, and the execution ends as cancelled."""

from __future__ import annotations

import asyncio

import pytest

import rayflow as rf
from tests.fundamentals.tools import Gate, Ledger, hold, note


@rf.workflow
async def tidy(ledger: str) -> None:
    try:
        await hold("gate")
        await note(ledger, "too-late")
    finally:
        await note(ledger, "tidied")


@rf.workflow
async def stubborn(ledger: str) -> str:
    try:
        await asyncio.sleep(3600)
    except asyncio.CancelledError:
        await note(ledger, "heard")
    return "ended all the same"


def test_the_clean_up_runs_its_steps_and_the_end_is_cancelled(
    engine: rf.LocalEngine, ledger: Ledger, gate: Gate
) -> None:
    handle = engine.start(tidy.options(id="one"), ledger.path)
    gate.wait_until_reached()
    handle.cancel(reason="changed my mind")
    with pytest.raises(rf.ExecutionCancelled, match="changed my mind"):
        handle.result(timeout=20)
    snapshot = handle.status()
    assert snapshot.status is rf.ExecutionStatus.CANCELLED
    assert [(step.name, step.status) for step in snapshot.steps] == [("hold", "dropped"), ("note", "completed")]
    assert ledger.lines() == ["tidied"]


def test_who_swallows_the_cancellation_is_cancelled_too(engine: rf.LocalEngine, ledger: Ledger) -> None:
    handle = engine.start(stubborn, ledger.path)
    handle.cancel()
    with pytest.raises(rf.ExecutionCancelled):
        handle.result(timeout=20)
    assert handle.status().status is rf.ExecutionStatus.CANCELLED


def test_what_is_over_can_be_neither_cancelled_nor_resumed(engine: rf.LocalEngine, ledger: Ledger) -> None:
    handle = engine.start(stubborn, ledger.path)
    handle.cancel()
    with pytest.raises(rf.ExecutionCancelled):
        handle.result(timeout=20)
    with pytest.raises(rf.InvalidTransition, match=r"cannot cancel.*it is cancelled"):
        handle.cancel()
    with pytest.raises(rf.InvalidTransition, match=r"cannot resume.*it is cancelled.*another id"):
        handle.resume()
