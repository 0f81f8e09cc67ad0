"""Workflows that the fault tests run and kill things under. Workers import this module by reference."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import rayflow as rf

ONCE = rf.RetryPolicy(max_retries=1, initial_delay=0.01)


@rf.step
def noted(ledger: str, number: int) -> int:
    """Leaves a line: which step, by which process."""
    with Path(ledger).open("a") as file:
        file.write(f"{number} {os.getpid()}\n")
    time.sleep(0.02)
    return number


@rf.step
def noted_until(ledger: str, number: int, stop: str) -> bool:
    """Append a line, and return whether the stop file exists."""
    noted.fn(ledger, number)
    return Path(stop).exists()


@rf.workflow
async def chain_until(ledger: str, stop: str) -> int:
    """Run one noted step after another until the stop file exists; return how many there were."""
    number = 0
    while not await noted_until(ledger, number, stop):
        number += 1
    return number + 1


@rf.workflow
async def ledger_chain(ledger: str, length: int) -> int:
    """A chain of noted steps."""
    total = 0
    for number in range(length):
        total += await noted(ledger, number)
    return total


class OddError(Exception):
    """Cannot be pickled: it holds a lock, and its constructor wants two arguments."""

    def __init__(self, what: str, lock: object) -> None:
        super().__init__(what)
        self.what, self.lock = what, lock


@rf.step(retry=ONCE)
def raises_unpicklable() -> None:
    """Fails with something that cannot leave the process."""
    raise OddError("out of cheese", threading.Lock())


@rf.step(retry=ONCE)
def returns_unserialisable() -> object:
    """Answers something that cannot leave the process."""
    return {"key": [threading.Lock()]}


@rf.step(retry=rf.RetryPolicy(max_retries=0))
def exits(ledger: str) -> None:
    """Kills its worker every time."""
    with Path(ledger).open("a") as file:
        file.write(f"{os.getpid()}\n")
    os._exit(1)


@rf.step(retry=ONCE, timeout=0.3)
def oversleeps() -> None:
    """Cannot be stopped from outside for a while."""
    time.sleep(1.5)


@rf.step(retry=ONCE, timeout=0.2)
async def oversleeps_async() -> None:
    """Is cancelled by its worker."""
    await asyncio.sleep(60)


@rf.step
def neighbour(number: int) -> int:
    """Something ordinary beside the trouble."""
    time.sleep(0.01)
    return number


TROUBLE: dict[str, Callable[[str], Awaitable[object]]] = {
    "raises": lambda ledger: raises_unpicklable(),
    "returns": lambda ledger: returns_unserialisable(),
    "exits": exits,
    "oversleeps": lambda ledger: oversleeps(),
    "oversleeps_async": lambda ledger: oversleeps_async(),
}


@rf.workflow
async def trouble(kind: str, ledger: str) -> None:
    """One troublesome step."""
    await TROUBLE[kind](ledger)


@rf.workflow
async def neighbours(count: int) -> int:
    """Ordinary steps, side by side."""
    return sum(await asyncio.gather(*(neighbour(number) for number in range(count))))
