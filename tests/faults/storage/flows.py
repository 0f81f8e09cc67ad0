"""Workflows that the tests of trouble run. Workers import this module by reference."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import rayflow as rf


@rf.step(retry=rf.RetryPolicy(max_retries=0))
def add(left: int, right: int) -> int:
    """A sum."""
    return left + right


@rf.step
def noted(ledger: str, line: int | str) -> int | str:
    """Leaves a line."""
    with Path(ledger).open("a") as file:
        file.write(f"{line}\n")
    return line


@rf.step
def held_up(release: str, answer: int) -> int:
    """Waits until it is released."""
    while not Path(release).exists():
        time.sleep(0.01)
    return answer


@rf.workflow
async def gated() -> int:
    """Two steps, a signal, a step: 1 + 2 + what the signal carries."""
    first = await add(1, 2)
    rf.state["first"] = first
    more: int = await rf.wait_for_signal("go", type=int)
    return await add(first, more)


@rf.workflow
async def fails() -> None:
    """Fails in its only step."""
    await add("one", 1)  # type: ignore[arg-type]


@rf.workflow
async def chain(ledger: str, length: int) -> int:
    """A chain of noted steps."""
    for number in range(length):
        await noted(ledger, number)
    return length


@rf.workflow
async def fan_out(width: int) -> int:
    """Steps side by side."""
    return sum(await asyncio.gather(*(add(number, 0) for number in range(width))))


@rf.workflow
async def due_soon(seconds: float) -> str:
    """A timer, then a step."""
    await asyncio.sleep(seconds)
    return f"woke {await add(1, 1)}"


@rf.workflow
async def long_step(release: str) -> int:
    """One step that takes its time."""
    return await held_up(release, 7)
