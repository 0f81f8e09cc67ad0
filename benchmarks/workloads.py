"""The workflows that are measured. A module of its own, so that workers import it by reference."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

import rayflow as rf


@rf.step
def nothing(number: int) -> int:
    """A step that does nothing."""
    return number


@rf.workflow
async def fan_out(width: int) -> int:
    """``width`` steps side by side."""
    return len(await asyncio.gather(*(nothing(number) for number in range(width))))


@rf.workflow
async def chain(length: int) -> int:
    """``length`` steps, one after another."""
    value = 0
    for _ in range(length):
        value = await nothing(value) + 1
    return value


@rf.workflow
async def single(value: int) -> int:
    """One step."""
    return await nothing(value)


@rf.step
def noted(ledger: str, number: int) -> int:
    """Appends when it began to a ledger, and takes a moment, so that a kill meets it at work."""
    with Path(ledger).open("a") as file:
        file.write(f"{number} {time.time():.6f} {os.getpid()}\n")
    time.sleep(0.02)
    return number


@rf.workflow
async def ledger_chain(ledger: str, length: int) -> int:
    """A chain whose steps leave a line each in a file."""
    total = 0
    for number in range(length):
        total += await noted(ledger, number)
    return total


@rf.workflow
async def sleeping(moment: float) -> float:
    """Sleeps until a moment; answers how late it woke, in seconds."""
    await asyncio.sleep(moment - rf.now())
    return rf.now() - moment


@rf.workflow
async def awaiting() -> None:
    """Waits for a signal."""
    await rf.wait_for_signal("go")
