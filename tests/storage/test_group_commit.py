"""Group commit: what becomes one transaction, and whose error is whose."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from rayflow.errors import StorageUnavailable
from rayflow.storage.group_commit import GroupCommitter
from rayflow.storage.memory import MemoryStore
from rayflow.storage.operations import Answer, Done, Operation, Rejected
from tests.contract.operations import NOW, append, claim, row, run, start


class SlowStore(MemoryStore):
    """Lets each transaction wait until the test lets it go, and notes what was in it."""

    def __init__(self) -> None:
        super().__init__()
        self.groups: list[list[str]] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.failure: Exception | None = None

    async def commit(self, operations: Sequence[Operation]) -> list[Answer]:
        self.groups.append([operation.execution_id for operation in operations])
        await self.gate.wait()
        if self.failure is not None:
            failure, self.failure = self.failure, None
            raise failure
        return await super().commit(operations)


async def slow_store() -> SlowStore:
    store = SlowStore()
    await store.open()
    await store.claim_writer("test", now=NOW, fresh_for=0)
    return store


async def turns(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


def test_an_idle_committer_writes_at_once() -> None:
    async def body() -> None:
        store = await slow_store()
        group = GroupCommitter(store)
        assert isinstance((await group.commit([start()]))[0], Done)
        await group.commit([claim()])
        assert store.groups == [["x"], ["x"]]
        assert await group.commit([]) == []

    run(body())


def test_what_arrives_meanwhile_is_the_next_transaction_in_order() -> None:
    async def body() -> None:
        store = await slow_store()
        group = GroupCommitter(store)
        store.gate.clear()
        first = asyncio.create_task(group.commit([start("a")]))
        await turns()
        later = [asyncio.create_task(group.commit([start(n), claim(n)])) for n in "bcd"]
        await turns()
        assert store.groups == [["a"]]
        store.gate.set()
        answers = await asyncio.gather(first, *later)
        assert store.groups == [["a"], ["b", "b", "c", "c", "d", "d"]]
        assert [len(each) for each in answers] == [1, 2, 2, 2]
        assert [each[1].epoch for each in answers[1:] if isinstance(each[1], Done)] == [1, 1, 1]

    run(body())


def test_a_group_is_bounded_and_a_commit_is_never_split() -> None:
    async def body() -> None:
        store = await slow_store()
        group = GroupCommitter(store, max_operations=3)
        big = [start(f"big{i}") for i in range(5)]
        await asyncio.gather(group.commit([start("a"), start("b")]), group.commit([start("c")]), group.commit(big))
        assert [len(each) for each in store.groups] == [3, 5]

    run(body())


def test_each_caller_gets_its_own_refusals() -> None:
    async def body() -> None:
        group = GroupCommitter(await slow_store())
        good, bad = await asyncio.gather(group.commit([start("a")]), group.commit([append("nobody")]))
        assert isinstance(good[0], Done)
        assert isinstance(bad[0], Rejected)

    run(body())


def test_an_error_of_the_transaction_is_everybodys_in_it_and_nobody_elses() -> None:
    async def body() -> None:
        store = await slow_store()
        group = GroupCommitter(store)
        store.gate.clear()
        store.failure = StorageUnavailable("the disk is gone")
        first = asyncio.create_task(group.commit([start("a")]))
        second = asyncio.create_task(group.commit([start("b")]))
        await turns()
        third = asyncio.create_task(group.commit([start("c")]))
        store.gate.set()
        for task in (first, second):
            with pytest.raises(StorageUnavailable, match="the disk is gone"):
                await task
        assert isinstance((await third)[0], Done)
        assert isinstance((await group.commit([start("a")]))[0], Done)
        assert store.groups == [["a", "b"], ["c"], ["a"]]

    run(body())


def test_a_cancelled_waiter_harms_nobody() -> None:
    async def body() -> None:
        store = await slow_store()
        group = GroupCommitter(store)
        store.gate.clear()
        writing = asyncio.create_task(group.commit([start("writing")]))
        beside = asyncio.create_task(group.commit([start("beside")]))
        await turns()
        waiting = asyncio.create_task(group.commit([start("waiting")]))
        after = asyncio.create_task(group.commit([start("after")]))
        await turns()
        writing.cancel()
        waiting.cancel()
        await turns()
        store.gate.set()
        assert isinstance((await beside)[0], Done)
        assert isinstance((await after)[0], Done)
        assert writing.cancelled()
        assert waiting.cancelled()
        assert store.groups == [["writing", "beside"], ["after"]]
        assert (await row(store, "writing")).id == "writing"  # it was on its way already

    run(body())


def test_all_waiters_of_a_group_may_be_cancelled() -> None:
    async def body() -> None:
        store = await slow_store()
        group = GroupCommitter(store)
        store.gate.clear()
        first = asyncio.create_task(group.commit([start("a")]))
        await turns()
        second = asyncio.create_task(group.commit([start("b")]))
        await turns()
        second.cancel()
        await turns()
        store.gate.set()
        await first
        await group.drain()
        assert store.groups == [["a"]]
        assert isinstance((await group.commit([start("c")]))[0], Done)

    run(body())


def test_drain_waits_for_everything() -> None:
    async def body() -> None:
        store = await slow_store()
        group = GroupCommitter(store)
        await group.drain()
        tasks = [asyncio.create_task(group.commit([start(f"e{i}")])) for i in range(3)]
        await turns(1)
        await group.drain()
        await turns(1)
        assert all(task.done() for task in tasks)

    run(body())


def test_a_loop_that_is_closed_leaves_nobody_waiting() -> None:
    outcomes: list[str] = []

    async def body() -> None:
        store = await slow_store()
        group = GroupCommitter(store)
        store.gate.clear()

        async def caller(name: str) -> None:
            try:
                await group.commit([start(name)])
            except asyncio.CancelledError:
                outcomes.append(name)
                raise

        tasks = [asyncio.create_task(caller("a"))]
        await turns()
        tasks.append(asyncio.create_task(caller("b")))
        await turns()
        assert group._writing is not None
        group._writing.cancel()
        await asyncio.wait(tasks)

    run(body())
    assert sorted(outcomes) == ["a", "b"]
