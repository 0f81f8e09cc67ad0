"""Workflows that need each other, for the test across executions. They are imported by reference."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

import rayflow as rf
from rayflow.errors import StepFailed

ONCE = rf.RetryPolicy(max_retries=0)

#: How many permits each lock has.
PERMITS = {"l": 1, "a": 1, "b": 1, "s": 2}


@rf.step(retry=ONCE)
def work(number: int, lock: str = "", token: int = 0) -> int:
    """Something that is done once; under a lock it knows which, and the token."""
    return 10 * number


@rf.step(retry=ONCE)
def tidy(number: int) -> int:
    """Clean-up, or a compensation."""
    return number


@rf.workflow
async def leaf(number: int) -> int:
    """A step under a lock that many want, and clean-up that takes a step."""
    try:
        async with rf.lock("l") as lock:
            return await work(number, "l", lock.token)
    finally:
        await tidy(number)


@rf.workflow
async def free(number: int) -> int:
    """What goes on when its parent has ended: two steps, and a rest between them."""
    await work(number)
    await asyncio.sleep(5)
    return await work(number)


@rf.workflow
async def family(number: int) -> list[Any]:
    """Children that are awaited, alone and together, one of them for as long as it takes, and one only started."""
    first = await leaf(number)
    started = await rf.start_child(free, number + 1)
    children = (leaf(number + 2), free.options(on_parent_end="abandon")(number + 3))
    return [first, started, *await asyncio.gather(*children, work(number))]


@rf.workflow
async def saga(number: int) -> list[int]:
    """A child that is undone when it is given up, beside a step."""
    return list(await asyncio.gather(undoing(number), work(number)))


@rf.workflow
async def thorough(number: int) -> list[Any]:
    """All that it has begun comes to its end before it fails."""
    begun = (work(number), leaf(number + 1), leaf(number + 2), work(number + 3))
    ended = await asyncio.gather(*begun, return_exceptions=True)
    for one in ended:
        if isinstance(one, BaseException):
            raise one
    return list(ended)


@rf.workflow
async def dynasty(number: int) -> list[Any]:
    """Children and grandchildren."""
    return await family(number)


@rf.workflow
async def watching(number: int) -> int:
    """Rests for a long time; its clean-up takes a step."""
    try:
        await asyncio.sleep(50)
    finally:
        await tidy(number)
    return number


@rf.workflow
async def keeping(number: int) -> list[Any]:
    """Starts one that ends with it; its clean-up, after a failure, is a child by the number of another call."""
    started = await rf.start_child(watching.options(on_parent_end="cancel"), number + 1)
    try:
        return [started, await work(number), await leaf(number + 2)]
    except StepFailed:
        await leaf(number + 3)
        raise


@rf.workflow
async def undoing(number: int) -> int:
    """What it does is undone when its child fails."""
    done = await work(number)
    rf.compensate(tidy, done)
    return await leaf(number)


@rf.workflow
async def sharing(number: int) -> list[Any]:
    """Two that it starts under ids that may be others'; it does not go on without the one that it waits for."""
    started = await rf.start_child(free.options(id=f"shared{number}"), number)
    return [started, *await asyncio.gather(leaf.options(id="wanted")(number), work(number))]


@rf.workflow
async def fleeting(number: int) -> int:
    """Ends at once, and gives up a child that may be another's."""
    calling = asyncio.create_task(leaf.options(id="wanted")(number))
    await asyncio.wait([calling], timeout=0)
    return number


@rf.workflow
async def stubborn(number: int) -> int:
    """Fails when it is cancelled; resumed, it goes on as if it had not been."""
    try:
        return await work(number)
    except asyncio.CancelledError:
        raise ValueError("not now") from None


@rf.workflow
async def clumsy(number: int) -> list[Any]:
    """A step beside a child that does not want to be cancelled."""
    return list(await asyncio.gather(stubborn(number), work(number)))


@rf.workflow
async def looping(number: int, runs: int) -> list[Any]:
    """Gives up a child and a permit that take too long, and begins anew, all under the same numbers of calls."""
    seen = rf.state.get("seen", [])
    try:
        seen = [*seen, await asyncio.wait_for(leaf(number), 5)]
    except (TimeoutError, StepFailed):
        seen = [*seen, None]
    rf.state["seen"] = seen
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(3), rf.semaphore("s", 2) as permit:
            await work(number, "s", permit.token)
    if len(seen) < runs:
        rf.continue_as_new(number + 1, runs)
    return seen


@rf.workflow
async def hasty(number: int, runs: int) -> int:
    """Claims a lock, and continues as new before it has it, or soon after."""
    claiming = asyncio.create_task(claim(number))
    await asyncio.wait([claiming], timeout=number % 3)
    if runs > 1:
        rf.continue_as_new(number + 1, runs - 1)
    return await claiming


async def claim(number: int) -> int:
    """A step under the lock."""
    async with rf.lock("l") as lock:
        return await work(number, "l", lock.token)


@rf.workflow
async def bench(number: int) -> list[int]:
    """More tasks than there are permits."""

    async def one() -> int:
        async with rf.semaphore("s", 2) as permit:
            return await work(number, "s", permit.token)

    return await asyncio.gather(*(one() for _ in range(4)))


@rf.workflow
async def crossing(number: int) -> int:
    """Two locks, in an order that depends on the number: a deadlock, some time."""
    first, second = ("a", "b") if number % 2 else ("b", "a")
    async with rf.lock(first) as one:
        await work(number, first, one.token)
        async with rf.lock(second) as two:
            return await work(number, second, two.token)


@rf.workflow
async def nested(number: int) -> int:
    """Waits for a child that wants the lock that it has: a deadlock, until it is resumed."""
    async with rf.lock("l") as lock:
        await work(number, "l", lock.token)
        return await leaf(number)


@rf.workflow
async def chatting(number: int, other: str) -> list[Any]:
    """Says hello, and waits for a hello for a while."""
    said, heard = True, None
    try:
        await rf.send_signal(other, "hello", number)
    except StepFailed:
        said = False
    with contextlib.suppress(TimeoutError):
        heard = await rf.wait_for_signal("hello", type=int, timeout=20)
    return [said, heard]


FLOWS = (
    *(leaf, free, watching, stubborn, family, thorough, dynasty, saga, keeping, undoing, sharing, fleeting, clumsy),
    *(bench, looping, hasty, crossing, nested, chatting),
)


def _of_family(result: list[Any], number: int) -> bool:
    return [*result[:1], *result[2:]] == [10 * number, 10 * (number + 2), 10 * (number + 3), 10 * number]


#: Whether a result is right, given the arguments of the first run.
RIGHT: dict[str, Callable[..., bool]] = {
    "leaf": lambda result, number: result == 10 * number,
    "watching": lambda result, number: result == number,
    "free": lambda result, number: result == 10 * number,
    "family": _of_family,
    "thorough": lambda result, number: result == [10 * (number + n) for n in range(4)],
    "dynasty": _of_family,
    "keeping": lambda result, number: result[1:] == [10 * number, 10 * (number + 2)],
    "saga": lambda result, number: result == [10 * number] * 2,
    "undoing": lambda result, number: result == 10 * number,
    "sharing": lambda result, number: result == [f"shared{number}", 10 * number, 10 * number],
    "bench": lambda result, number: result == [10 * number] * 4,
    "fleeting": lambda result, number: result == number,
    "stubborn": lambda result, number: result == 10 * number,
    "clumsy": lambda result, number: result == [10 * number] * 2,
    "looping": lambda result, number, runs: (
        len(result) == runs and all(seen in {None, 10 * (number + n)} for n, seen in enumerate(result))
    ),
    "hasty": lambda result, number, runs: result == 10 * (number + runs - 1),
    "crossing": lambda result, number: result == 10 * number,
    "nested": lambda result, number: result == 10 * number,
    "chatting": lambda result, number, other: isinstance(result[0], bool) and isinstance(result[1], int | None),
}
