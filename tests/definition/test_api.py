from __future__ import annotations

import asyncio
import contextvars
import dataclasses
import random
import threading
import uuid

import pytest

import rayflow as rf
from rayflow.definition.api import StepContext, entered
from tests.definition.fake import BEGINNING, FakeExecution, plainly


def test_clock_and_random_numbers_come_from_the_execution() -> None:
    async def body() -> tuple[float, float, uuid.UUID]:
        await asyncio.sleep(86_400)
        return rf.now(), rf.random().uniform(0, 1), rf.uuid4()

    first, again = FakeExecution().run(body), FakeExecution().run(body)
    expected = random.Random("doc-17")
    assert first == again
    assert first[:2] == (BEGINNING + 86_400, expected.uniform(0, 1))
    assert first[2].version == 4


def test_what_is_set_of_the_state_reaches_the_execution() -> None:
    async def body() -> None:
        rf.state["progress"] = 0.5

    execution = FakeExecution()
    execution.run(body)
    assert execution.log == [("state", "progress", 0.5)]


def test_outside_a_workflow_they_say_what_to_use() -> None:
    async def body() -> None:
        with pytest.raises(RuntimeError, match=r"rf.now\(\) works in a workflow's own code, .* use time.time\(\)"):
            rf.now()
        with pytest.raises(RuntimeError, match="use the random module"):
            rf.random()
        with pytest.raises(RuntimeError, match=r"use uuid.uuid4\(\)"):
            rf.uuid4()
        with pytest.raises(RuntimeError, match=r"rf\.state works in a workflow's own code"):
            rf.state["a"] = 1

    plainly(body())
    with pytest.raises(RuntimeError, match="no workflow is running here"):
        rf.now()


def context() -> StepContext:
    return StepContext("doc-17", "analyse", "extract", 3, 2, "key", 7, "worker-1")


def test_a_step_sees_its_context_and_nobody_else_does() -> None:
    with entered(context()):
        assert rf.step_context() == context()
        seen_by_thread: list[str] = []

        def look() -> None:
            seen_by_thread.append(rf.step_context().idempotency_key)

        thread = threading.Thread(target=contextvars.copy_context().run, args=(look,))
        thread.start()
        thread.join()
        assert seen_by_thread == ["key"]
    with pytest.raises(RuntimeError, match="works in a step that an engine runs; here none is running"):
        rf.step_context()


def test_a_step_learns_that_it_was_given_up() -> None:
    running = context()
    before = running.cancelled
    running.cancel.set()
    assert (before, running.cancelled) == (False, True)


def test_heartbeats_go_to_whoever_runs_the_step() -> None:
    heard: list[object] = []
    running = dataclasses.replace(context(), beat=heard.append)
    running.heartbeat()
    running.heartbeat({"done": 3})
    context().heartbeat("unheard")
    assert heard == [None, {"done": 3}]


def test_a_step_gets_what_its_pool_prepared() -> None:
    assert dataclasses.replace(context(), prepared=lambda: "client").setup == "client"
    with pytest.raises(RuntimeError, match="no setup of a pool has run where this step runs"):
        _ = context().setup
