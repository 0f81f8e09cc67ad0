"""Workflows that take a month, ask a model and wait for people: what tests with a virtual clock run."""

from __future__ import annotations

import asyncio

import rayflow as rf

DAY = 86_400.0
ONCE = rf.RetryPolicy(max_retries=0)


@rf.step(retry=rf.RetryPolicy(max_retries=3, initial_delay=3600, multiplier=2, max_delay=1e6, jitter=0))
async def ask(question: str) -> str:
    raise AssertionError("a test would call a model")


@rf.step
def double(number: int) -> int:
    return 2 * number


@rf.workflow
async def month(number: int) -> tuple[int, float]:
    began = rf.now()
    number = await double(number)
    await asyncio.sleep(30 * DAY)
    return await double(number), rf.now() - began


@rf.workflow
async def asking(question: str) -> tuple[str, float]:
    began = rf.now()
    return await ask(question), (rf.now() - began) / 3600


@rf.workflow
async def article(topic: str) -> str:
    text = await ask(topic)
    rf.state["phase"] = "in review"
    try:
        verdict = await rf.wait_for_signal("review", type=str, timeout=7 * DAY)
    except TimeoutError:
        return f"{text}, never reviewed"
    return f"{text}, {verdict}"
