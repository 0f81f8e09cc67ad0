"""Programs over every asyncio primitive, as plain data, and the workflow code that they stand for."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from typing import Any

from hypothesis import strategies as st

import rayflow as rf
from tests.core.fake import Flow, stub

#: A node: its kind, then its parameters, of which some are nodes. Lists, so that a program survives JSON.
Node = Sequence[Any]

STEPS = {name: stub(name) for name in ("a", "b", "c", "undo")}


# --- making programs -------------------------------------------------------------------------------------------
def _leaves() -> st.SearchStrategy[Node]:
    return st.one_of(
        st.tuples(st.just("step"), st.sampled_from("abc")),
        st.tuples(st.just("sleep"), st.sampled_from([0, 1, 2.5, 60])),
        st.tuples(st.just("publish"), st.sampled_from("xyz")),
        st.tuples(st.just("queue"), st.integers(1, 3), st.integers(0, 2)),
    )


def _branches(node: st.SearchStrategy[Node]) -> st.SearchStrategy[Node]:
    nodes = st.lists(node, min_size=1, max_size=4)
    return st.one_of(
        st.tuples(st.sampled_from(["sequence", "gather", "settle", "group", "race", "eager"]), nodes),
        st.tuples(st.sampled_from(["semaphore", "generator"]), nodes, st.integers(1, 2)),
        st.tuples(st.sampled_from(["timeout", "wait_for"]), node, st.sampled_from([0, 1, 10])),
        st.tuples(st.sampled_from(["catch", "finally", "cancel", "shield", "nested"]), node),
    )


programs: st.SearchStrategy[Node] = st.recursive(_leaves(), _branches, max_leaves=10)


def flow_of(program: Node) -> Flow:
    """The program as a workflow; it answers what it saw, in order."""

    async def flow() -> list[Any]:
        seen: list[Any] = []
        await walk(program, seen)
        return seen

    return flow


# --- running them ----------------------------------------------------------------------------------------------
async def walk(node: Node, seen: list[Any]) -> Any:
    """Run one node; what happens is also noted in ``seen``, whose order replay must repeat."""
    kind, *parameters = node
    answer = await _KINDS[kind](seen, *parameters)
    seen.append([kind, answer if isinstance(answer, int) else None])
    return answer


async def _step(seen: list[Any], name: str) -> Any:
    return await STEPS[name](len(seen), rf.random().random(), str(rf.uuid4()))


async def _sleep(seen: list[Any], seconds: float) -> None:
    await asyncio.sleep(seconds)
    seen.append(rf.now())


async def _publish(seen: list[Any], key: str) -> None:
    rf.state[key] = [len(seen), rf.now(), rf.random().randint(0, 99)]


async def _queue(seen: list[Any], size: int, items: int) -> None:
    queue: asyncio.Queue[Any] = asyncio.Queue(size)

    async def produce() -> None:
        for _ in range(items):
            await queue.put(await _step(seen, "a"))
        await queue.put(None)

    async def consume() -> None:
        while await queue.get() is not None:
            await _step(seen, "b")

    await asyncio.gather(produce(), consume())


async def _sequence(seen: list[Any], nodes: Sequence[Node]) -> None:
    for node in nodes:
        await walk(node, seen)


async def _gather(seen: list[Any], nodes: Sequence[Node]) -> None:
    await asyncio.gather(*(walk(node, seen) for node in nodes))


async def _settle(seen: list[Any], nodes: Sequence[Node]) -> None:
    waiting = {asyncio.gather(walk(node, seen), return_exceptions=True) for node in nodes}
    done, _ = await asyncio.wait(waiting)
    seen.extend(type(answer).__name__ for future in done for answer in future.result())


async def _group(seen: list[Any], nodes: Sequence[Node]) -> None:
    async with asyncio.TaskGroup() as group:
        for node in nodes:
            group.create_task(walk(node, seen))


async def _race(seen: list[Any], nodes: Sequence[Node]) -> None:
    tasks = {asyncio.create_task(walk(node, seen)) for node in nodes}
    done, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in pending:
        task.cancel()
    seen.extend(task.get_name() for task in (*done, *pending))
    await asyncio.gather(*done, *pending, return_exceptions=True)


async def _eager(seen: list[Any], nodes: Sequence[Node]) -> None:
    running = asyncio.get_running_loop()
    running.set_task_factory(getattr(asyncio, "eager_task_factory", None))
    try:
        tasks = [asyncio.create_task(walk(node, seen)) for node in nodes]
    finally:
        running.set_task_factory(None)
    for first in asyncio.as_completed(tasks):
        await first


async def _semaphore(seen: list[Any], nodes: Sequence[Node], limit: int) -> None:
    semaphore = asyncio.Semaphore(limit)

    async def bounded(node: Node) -> None:
        async with semaphore:
            await walk(node, seen)

    await asyncio.gather(*map(bounded, nodes))


async def _generator(seen: list[Any], nodes: Sequence[Node], stop: int) -> None:
    async def generate(depth: int) -> AsyncGenerator[Any, None]:
        try:
            if depth:
                async with contextlib.aclosing(generate(depth - 1)) as inner:
                    async for value in inner:
                        yield value
            for node in nodes:
                yield await walk(node, seen)
        finally:
            await _step(seen, "undo")

    async with contextlib.aclosing(generate(1)) as values:
        async for _ in values:
            stop -= 1
            if stop == 0:
                break


async def _timeout(seen: list[Any], node: Node, seconds: float) -> None:
    async with asyncio.timeout(seconds):
        await walk(node, seen)


async def _wait_for(seen: list[Any], node: Node, seconds: float) -> None:
    await asyncio.wait_for(walk(node, seen), seconds)


async def _catch(seen: list[Any], node: Node) -> None:
    try:
        await walk(node, seen)
    except Exception as error:  # noqa: BLE001 - whatever it is
        seen.append(type(error).__name__)


async def _finally(seen: list[Any], node: Node) -> None:
    try:
        await walk(node, seen)
    finally:
        await _step(seen, "undo")


async def _cancel(seen: list[Any], node: Node) -> None:
    task = asyncio.create_task(walk(node, seen))
    await _step(seen, "c")
    task.cancel()
    done, _ = await asyncio.wait([task])
    seen.append([one.cancelled() for one in done])


async def _shield(seen: list[Any], node: Node) -> None:
    await asyncio.shield(asyncio.create_task(walk(node, seen)))


async def _nested(seen: list[Any], node: Node) -> None:
    """Locks, conditions and events, all at once."""
    condition, ready = asyncio.Condition(), asyncio.Event()

    async def notify() -> None:
        try:
            await walk(node, seen)
        finally:
            ready.set()
            async with condition:
                condition.notify_all()

    async with asyncio.TaskGroup() as group:
        group.create_task(notify())
        async with condition:
            await condition.wait_for(ready.is_set)


_KINDS: dict[str, Callable[..., Awaitable[Any]]] = {
    "step": _step,
    "sleep": _sleep,
    "publish": _publish,
    "queue": _queue,
    "sequence": _sequence,
    "gather": _gather,
    "settle": _settle,
    "group": _group,
    "race": _race,
    "eager": _eager,
    "semaphore": _semaphore,
    "generator": _generator,
    "timeout": _timeout,
    "wait_for": _wait_for,
    "catch": _catch,
    "finally": _finally,
    "cancel": _cancel,
    "shield": _shield,
    "nested": _nested,
}
