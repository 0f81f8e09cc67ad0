"""Workflows that the tests of durable control run. Workers import this module by reference."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path
from typing import Any

from pydantic import BaseModel

import rayflow as rf


class Verdict(BaseModel):
    """What a reviewer says."""

    ok: bool
    by: str


def note(ledger: str, *words: object) -> None:
    """Append a line; lines of several processes do not mix."""
    with Path(ledger).open("a") as file:
        file.write(" ".join(map(str, words)) + "\n")


@rf.step
def noted(ledger: str, *words: str) -> str:
    """Leaves a line."""
    note(ledger, *words)
    return words[-1]


@rf.step
def held_up(ledger: str, word: str, release: str) -> str:
    """Leaves a line, and waits until it is released."""
    note(ledger, word)
    while not Path(release).exists():
        time.sleep(0.02)
    return word


@rf.step(retry=rf.RetryPolicy(max_retries=0))
def failing() -> None:
    """Fails."""
    raise ValueError("no")


# --- signals ------------------------------------------------------------------------------------------------
@rf.workflow
async def collecting(count: int) -> list[list[int]]:
    """Receives so many items, and shows how many it has."""
    items: list[list[int]] = []
    while len(items) < count:
        items.append(await rf.wait_for_signal("item"))
        rf.state["received"] = len(items)
    return items


@rf.workflow
async def reviewed(ledger: str) -> str:
    """Waits for a verdict between two steps."""
    await noted(ledger, "before")
    verdict = await rf.wait_for_signal("review", type=Verdict)
    return await noted(ledger, "after", verdict.by)


@rf.workflow
async def asking(other: str) -> Any:
    """Sends a signal to another execution, and waits for one."""
    await rf.send_signal(other, "item", [0, 0])
    return await rf.wait_for_signal("answer", timeout=60)


# --- time ---------------------------------------------------------------------------------------------------
@rf.workflow
async def sleeping(seconds: float) -> float:
    """Sleeps; answers how late it woke."""
    due = rf.now() + seconds
    await asyncio.sleep(seconds)
    return rf.now() - due


@rf.workflow
async def waking_at(moment: float) -> float:
    """Sleeps until a moment; answers how late it woke."""
    await asyncio.sleep(moment - rf.now())
    return rf.now() - moment


@rf.workflow
async def idle() -> None:
    """Waits for a signal that nobody sends."""
    await rf.wait_for_signal("never")


# --- children -----------------------------------------------------------------------------------------------
@rf.workflow
async def child(ledger: str, number: int) -> int:
    """Leaves a line, rests, and answers its number twice."""
    await noted(ledger, "child", str(number))
    await asyncio.sleep(0.05)
    return 2 * number


@rf.workflow
async def parent(ledger: str, count: int, at_once: int) -> int:
    """Runs so many children, not more than so many at once."""
    room = asyncio.Semaphore(at_once)

    async def run(number: int) -> int:
        async with room:
            return await child(ledger, number)

    return sum(await asyncio.gather(*(run(number) for number in range(count))))


@rf.workflow
async def leaf(number: int) -> int:
    """Nothing but its number."""
    return number


@rf.workflow
async def crowd(count: int, at_once: int) -> int:
    """Runs so many small children, not more than so many at once."""
    room = asyncio.Semaphore(at_once)

    async def run(number: int) -> int:
        async with room:
            return await leaf(number)

    return sum(await asyncio.gather(*(run(number) for number in range(count))))


@rf.workflow
async def endless() -> None:
    """Never ends by itself."""
    await rf.wait_for_signal("never")


@rf.workflow
async def with_children(left: str) -> None:
    """Starts two children: one ends with it, the other goes on."""
    await rf.start_child(endless.options(id=left))
    await endless()


@rf.workflow
async def failing_child() -> None:
    """Fails."""
    await failing()


@rf.workflow
async def repaired(mended: str) -> str:
    """Its child fails until it is mended."""
    return await fragile(mended)


@rf.step(retry=rf.RetryPolicy(max_retries=0))
def needs(mended: str) -> str:
    """Works once somebody has mended it."""
    if not Path(mended).exists():
        raise ValueError("broken")
    return "mended"


@rf.workflow
async def fragile(mended: str) -> str:
    """One step that needs mending."""
    return await needs(mended)


@rf.workflow
async def patient(ledger: str) -> str:
    """Waits for a signal between two steps."""
    await noted(ledger, "patient-before")
    await rf.wait_for_signal("go")
    return await noted(ledger, "patient-after")


@rf.workflow
async def together(ledger: str, fail: str, mended: str) -> list[str]:
    """Await a child next to a step that fails on demand, until it is mended; another child ends with the parent."""
    await rf.start_child(endless.options(id="bound", on_parent_end="cancel"))

    async def late() -> str:
        await held_up(ledger, "late", fail)
        return await needs(mended)

    return list(await asyncio.gather(late(), patient(ledger)))


# --- undoing ------------------------------------------------------------------------------------------------
@rf.workflow
async def saga(ledger: str, steps: int, release: str) -> None:
    """Does things, registers how to undo them, and fails at last."""
    for number in range(steps):
        await noted(ledger, "do", str(number))
        rf.compensate(held_up, ledger, f"undo-{number}", release)
    await failing()


@rf.workflow
async def cancelled_saga(ledger: str) -> None:
    """Does one thing, and then waits to be cancelled."""
    await noted(ledger, "do")
    rf.compensate(noted, ledger, "undone")
    try:
        await rf.wait_for_signal("never")
    finally:
        await noted(ledger, "cleaned")


# --- going on -----------------------------------------------------------------------------------------------
@rf.workflow
async def looping(ledger: str, release: str, number: int, last: int) -> list[Any]:
    """Continue as new until the last number, half-way only once released; then receive a signal sent before."""
    if number == last // 2:
        await held_up(ledger, str(number), release)
    else:
        await noted(ledger, str(number))
    rf.state["number"] = number
    if number < last:
        rf.continue_as_new(ledger, release, number + 1, last)
    return [number, await rf.wait_for_signal("kept")]


# --- locks --------------------------------------------------------------------------------------------------
@rf.workflow
async def locking(ledger: str, name: str, who: str, release: str) -> int:
    """Holds a lock over a step."""
    async with rf.lock(name) as lock:
        await held_up(ledger, f"{who}-in", release)
        await noted(ledger, f"{who}-out")
        return lock.token


@rf.workflow
async def crossing(first: str, second: str) -> str:
    """Takes two locks, and gives way in a deadlock."""
    try:
        async with rf.lock(first):
            await rf.wait_for_signal("go")
            async with rf.lock(second):
                return "both"
    except rf.Deadlock:
        return "gave way"


@rf.workflow
async def failing_in_lock(name: str, mended: str) -> int:
    """Fails while it holds a lock, until it is mended."""
    async with rf.lock(name) as lock:
        await needs(mended)
        return lock.token


# --- forks, versions ----------------------------------------------------------------------------------------
@rf.workflow
async def chain(ledger: str, suffix: str) -> list[str]:
    """Three steps; the last one sees the state."""
    first = await noted(ledger, "a" + suffix)
    second = await noted(ledger, "b" + suffix)
    third = await noted(ledger, "c" + str(rf.state.get("reviewer", "nobody")))
    return [first, second, third]


@rf.workflow
async def drafted(ledger: str, release: str) -> list[Any]:
    """Steps before and after one that waits until it is released; it answers what is in its state."""
    begun = [await noted(ledger, "first"), await noted(ledger, "second")]
    checked = await held_up(ledger, "checked", release)
    await noted(ledger, "last")
    return [*begun, checked, rf.state.get("by")]


@rf.step
def pid() -> int:
    """The worker's process."""
    return os.getpid()


@rf.workflow
async def job(number: int) -> int:
    """Something for a schedule."""
    await pid()
    return number


@rf.workflow(id="greeting", version="1")
async def greeting_1() -> str:
    """Greets."""
    return f"hello {await rf.wait_for_signal('name')}"


@rf.workflow(id="greeting", version="2")
async def greeting_2() -> str:
    """Greets, politely."""
    return f"good day {await rf.wait_for_signal('name')}"
