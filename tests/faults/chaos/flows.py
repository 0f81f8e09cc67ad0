"""The workflows of a run. Workers import this module by reference; ``expected.py`` says what they come to."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import rayflow as rf
from tests.faults.chaos.ledger import noted
from tests.faults.chaos.plan import CHILD_STEPS, JOB_STEPS, RUN_STEPS, RUNS, mix, pause

#: Blows cost no retries but where a step runs alone under suspicion; a plan never fails because of them.
PATIENT = rf.RetryPolicy(max_retries=20, initial_delay=0.05, max_delay=0.5)

Worked = dict[str, Any]


class PlannedError(Exception):
    """What a program fails by, because it is meant to."""


# --- steps --------------------------------------------------------------------------------------------------
@rf.step(retry=PATIENT)
def work(place: str, seed: int, number: int, value: int) -> Worked:
    """Computes, takes a while, and leaves its two lines."""
    with noted(place) as nonce:
        time.sleep(pause(seed, number))
    return {"value": mix(seed, number, value), "by": nonce}


@rf.step(retry=PATIENT)
async def work_async(place: str, seed: int, number: int, value: int) -> Worked:
    """The same on the worker's loop."""
    with noted(place) as nonce:
        await asyncio.sleep(pause(seed, number))
    return {"value": mix(seed, number, value), "by": nonce}


@rf.step(retry=PATIENT)
def guarded(place: str, seed: int, number: int, value: int, *, lock: str, token: int) -> Worked:
    """The same under a lock."""
    with noted(place, lock, token) as nonce:
        time.sleep(pause(seed, number))
    return {"value": mix(seed, number, value), "by": nonce}


@rf.step(retry=PATIENT)
def shaky(place: str, seed: int, number: int, value: int) -> Worked:
    """Fails at its first attempt."""
    with noted(place) as nonce:
        if rf.step_context().attempt == 1:
            raise PlannedError("at first")
    return {"value": mix(seed, number, value), "by": nonce}


@rf.step(retry=PATIENT)
def undone(place: str, seed: int, number: int) -> Worked:
    """Undoes what the step of that number did."""
    with noted(place) as nonce:
        time.sleep(pause(seed, number))
    return {"value": number, "by": nonce}


# --- workflows ----------------------------------------------------------------------------------------------
async def _chain(place: str, seed: int, size: int, value: int, first: int = 0) -> int:
    for number in range(first, first + size):
        step = work_async if number % 3 == 2 else work
        done: Worked = await step(place, seed, number, value)
        value = int(done["value"])
    return value


@rf.workflow
async def chain(place: str, seed: int, size: int) -> int:
    """Steps one after another."""
    return await _chain(place, seed, size, seed)


@rf.workflow
async def fan(place: str, seed: int, size: int) -> int:
    """Two rounds of steps side by side; the second needs all of the first."""
    first = await asyncio.gather(*(work(place, seed, number, 0) for number in range(size)))
    value = sum(int(done["value"]) for done in first) % 2**40
    second = await asyncio.gather(*(work_async(place, seed, size + number, value) for number in range(size)))
    return sum(int(done["value"]) for done in second) % 2**40


@rf.workflow
async def signals(place: str, seed: int, count: int) -> dict[str, Any]:
    """Receives so many signals, with a step after each; answers what it received, in its order."""
    items: list[list[int]] = []
    value = seed
    for number in range(count):
        items.append(await rf.wait_for_signal("item"))
        value = (await work(place, seed, number, value))["value"]
    return {"value": value, "items": items}


@rf.workflow
async def rest(place: str, seed: int, nights: int) -> dict[str, Any]:
    """Sleeps long enough to be parked before each step; answers whether it ever woke too early."""
    value, early = seed, False
    for number in range(nights):
        due = rf.now() + 3.2 + mix(seed, number) % 2000 / 1000
        await asyncio.sleep(due - rf.now())
        early = early or rf.now() < due - 0.001  # what floats round off is not early
        value = (await work(place, seed, number, value))["value"]
    return {"value": value, "early": early}


@rf.workflow
async def family(place: str, seed: int, size: int) -> int:
    """Children side by side."""
    children = (chain(place, mix(seed, "child", number), CHILD_STEPS) for number in range(size))
    return sum(await asyncio.gather(*children)) % 2**40


@rf.workflow
async def guard(place: str, seed: int, size: int, name: str) -> int:
    """Steps under a lock that others want as well, each time anew."""
    value = seed
    for number in range(size):
        async with rf.lock(name) as lock:
            value = (await guarded(place, seed, number, value, lock=name, token=lock.token))["value"]
    return value


@rf.workflow
async def saga(place: str, seed: int, size: int) -> None:
    """Does things, registers how to undo them, and fails."""
    value = seed
    for number in range(size):
        value = (await work(place, seed, number, value))["value"]
        rf.compensate(undone, place, seed, number)
    raise PlannedError("as planned")


@rf.workflow
async def again(place: str, seed: int, run: int, value: int) -> int:
    """A few steps, and the same in another run of the same execution."""
    value = await _chain(place, seed, RUN_STEPS, value, run * RUN_STEPS)
    if run + 1 < RUNS:
        rf.continue_as_new(place, seed, run + 1, value)
    return value


@rf.workflow
async def flaky(place: str, seed: int, size: int) -> int:
    """Steps that fail at their first attempts."""
    value = seed
    for number in range(size):
        value = (await shaky(place, seed, number, value))["value"]
    return value


@rf.workflow
async def job(place: str, seed: int) -> int:
    """What schedules start."""
    return await _chain(place, seed, JOB_STEPS, seed)


#: By the kind of a program. What is forked is a chain.
WORKFLOWS: dict[str, rf.WorkflowFunction[..., Any]] = {
    "chain": chain,
    "fan": fan,
    "signals": signals,
    "rest": rest,
    "family": family,
    "fork": chain,
    "guard": guard,
    "saga": saga,
    "again": again,
    "flaky": flaky,
}
