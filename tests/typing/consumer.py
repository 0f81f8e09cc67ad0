"""A user's program as two type checkers see it. Checked by test_consumer.py; never run."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any, assert_type

import rayflow as rf


@rf.step(retry=rf.RetryPolicy(max_retries=3), timeout=timedelta(seconds=30))
async def ask(question: str) -> str:
    return question


@rf.step
def count(text: str, *, weight: int = 1) -> int:
    return len(text) * weight


@rf.workflow(version="1")
async def research(topic: str, *, depth: int = 1, id: str = "", timeout: float = 0.0) -> dict[str, int]:
    facts, doubts = await asyncio.gather(ask(topic), ask(f"doubts on {topic}"))
    assert_type(facts, str)
    assert_type(doubts, str)
    length = await count(facts, weight=depth)
    assert_type(length, int)
    assert_type(await ask.options(timeout=5)(topic), str)
    assert_type(await child(topic), list[int])
    assert_type(await child.options(id="c", on_parent_end="abandon", priority=2)(topic), list[int])
    assert_type(await rf.start_child(child.options(id="d"), topic), str)
    return {facts: length}


@rf.workflow
async def child(topic: str) -> list[int]:
    return [len(topic)]


def use(engine: rf.DistributedEngine | rf.LocalEngine) -> None:
    assert_type(engine.start(research, "rivers"), rf.ExecutionHandle[dict[str, int]])
    assert_type(engine.start(research.options(id="rivers-1", priority=3), "rivers", depth=2).result(), dict[str, int])
    assert_type(engine.execute(research, "rivers", id="a parameter", timeout=1.0), dict[str, int])
    assert_type(engine.execute(child, "rivers"), list[int])
    assert sorted(engine.execute(child, "rivers")) == [6]
    assert_type(engine.start_many(child.call(topic) for topic in ("a", "b")), list[rf.ExecutionHandle[list[int]]])
    assert_type(engine.start(rf.SavedWorkflow("research"), "rivers", depth=2), rf.ExecutionHandle[Any])
    engine.schedules.create("nightly", research.options(priority=1).call("rivers"), rf.Schedule(cron="0 2 * * *"))


async def wait(engine: rf.LocalEngine) -> None:
    assert_type(await engine.start(research, "rivers"), dict[str, int])
