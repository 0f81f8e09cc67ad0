"""Workflows of which recorded stores hold executions. Those name this module, so what they do must not change."""

from __future__ import annotations

import asyncio
import os
import threading
from pathlib import Path
from typing import Any

import rayflow as rf

#: Set once the step that failed in the recording is to work.
MENDED = "RAYFLOW_TEST_MENDED"

#: A file that a step makes once it is under way, and then never ends; not set where it is to end.
HELD = "RAYFLOW_TEST_HELD"


@rf.step
def noted(word: str) -> str:
    """Answers the word."""
    return word


@rf.step(retry=rf.RetryPolicy(max_retries=0))
def needs_mending() -> str:
    """Works once somebody has mended it."""
    if MENDED not in os.environ:
        raise ValueError("not mended yet")
    return "mended"


@rf.step
def held(word: str) -> str:
    """Says how far it is, and does not end during the recording."""
    rf.step_context().heartbeat({"at": word})
    if HELD in os.environ:
        Path(os.environ[HELD]).touch()
        threading.Event().wait()
    return word


@rf.workflow
async def chain(first: str, second: str) -> list[str]:
    """Two steps, a nap, and what undoes them."""
    words = [await noted(first)]
    rf.compensate(noted, f"undo {first}")
    rf.state["first"] = first
    await asyncio.sleep(0.01)
    words.append(await noted(second))
    return words


@rf.workflow
async def failing(word: str) -> list[str]:
    """Fails in its second step, until that is mended."""
    return [await noted(word), await needs_mending()]


@rf.workflow
async def waiting(signal: str) -> Any:
    """Waits for a signal between two steps."""
    await noted("before")
    payload = await rf.wait_for_signal(signal)
    await noted("after")
    return payload


@rf.workflow
async def sleeping(seconds: float) -> str:
    """Sleeps."""
    await asyncio.sleep(seconds)
    return await noted("awake")


@rf.workflow
async def parent(signal: str) -> list[Any]:
    """Has two children: one ends, the other waits for a signal."""
    first = await chain("a", "b")
    return [first, await waiting(signal)]


@rf.workflow
async def locking(name: str, signal: str) -> Any:
    """Holds a lock until a signal comes."""
    async with rf.lock(name):
        return await rf.wait_for_signal(signal)


@rf.workflow
async def looping(number: int) -> list[Any]:
    """Continues as new twice, and then waits for a signal."""
    if number < 3:
        rf.continue_as_new(await noted_number(number) + 1)
    return [number, await rf.wait_for_signal("end")]


@rf.step
def noted_number(number: int) -> int:
    """Answers the number."""
    return number


@rf.workflow
async def holding(word: str) -> str:
    """One step that is under way when the recording ends."""
    return await held(word)


class Doubler:
    """An agent."""

    def run(self, number: int) -> int:
        """Twice the number."""
        return 2 * number


declared = rf.Workflow("recorded-declared").add_step(
    rf.SequentialStep("double", agent=Doubler(), input=lambda state: state["number"], output_key="doubled")
)


def by_value(word: str) -> Any:
    """A workflow that no other process can import."""

    @rf.workflow(id="by_value")
    async def closure(number: int) -> str:
        """Answers what it closes over."""
        return await noted(f"{word} {number}")

    return closure
