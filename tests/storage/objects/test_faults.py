"""A store in object storage, whatever is lost, late, or done twice by others: nothing acknowledged is lost."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Callable, Coroutine
from typing import Any, get_args

import pytest

from rayflow.errors import StorageUnavailable
from rayflow.storage.base import Store
from rayflow.storage.changes import MemoryData, apply, parts_of, snapshot
from rayflow.storage.memory import MemoryStore
from rayflow.storage.model import StepNote
from rayflow.storage.objects.store import ObjectStore
from rayflow.storage.operations import Operation
from rayflow.storage.rules.retention import PurgeFilter
from tests.contract import operations as ops
from tests.contract.operations import NOW, append, claim, deliver, start
from tests.storage.objects.faults import (
    Fault,
    FaultyBucket,
    World,
    close_all,
    compacted,
    content,
    opened,
    reading,
    run,
)

Step = Callable[[Store], Coroutine[Any, Any, object]]


def committing(*operations: Operation) -> Step:
    return lambda store: store.commit(operations)


#: What a writer does, each a transaction of its own that may be asked again.
STEPS: list[Step] = [
    committing(start("a"), claim("a"), start("b"), claim("b")),
    committing(append("a", asks=(ops.take(), ops.start_child("a.1", parent="a"), ops.send("b")))),
    lambda store: store.save_pool(ops.pool()),
    committing(ops.fail("b", 1, 2)),
    committing(ops.note("a", StepNote(1, 1, NOW, "progress", b"half")), deliver("a", "go")),
    lambda store: store.save_schedule(ops.schedule()),
    committing(append("a", first=2, bodies=(b"2", b"3"), inbox_done=1)),
    committing(ops.rewind("b", last_seq=2), start("c", singleton="s")),
    lambda store: store.save_definition(ops.definition()),
    committing(ops.end("a", first=4)),
    lambda store: store.collect(PurgeFilter(ids=("a",))),
    lambda store: store.heartbeat(now=NOW + 1),
    committing(claim("c"), append("c", next_run=b"again")),
]


async def model() -> list[dict[str, object]]:
    """The records after none, one, … of the steps."""
    store = MemoryStore()
    await store.open()
    await store.claim_writer("test", now=NOW, fresh_for=0)
    states = [copy.deepcopy(content(store.data))]
    for step in STEPS:
        await step(store)
        states.append(copy.deepcopy(content(store.data)))
    return states


async def until_it_fails(bucket: FaultyBucket, *, waits: bool) -> int:
    """Take the steps, waiting for compaction after each or not; answers how many were acknowledged."""
    acknowledged = 0
    try:
        store = await opened(bucket)
        for step in STEPS:
            await step(store)
            acknowledged += 1
            if waits:
                await compacted(store)
    except StorageUnavailable:
        assert bucket.failed
    return acknowledged


@pytest.mark.parametrize("waits", [False, True], ids=["compacting beside", "compacting between"])
@pytest.mark.parametrize("fault", get_args(Fault))
def test_a_crash_at_any_call_leaves_what_was_acknowledged(fault: Fault, waits: bool) -> None:  # noqa: FBT001
    async def body() -> None:
        states = await model()
        for at in range(1, 1000):
            world = World()
            bucket = FaultyBucket(world, at, fault, for_good=True)
            acknowledged = await until_it_fails(bucket, waits=waits)
            await close_all()
            world.deliver()
            possible = states[acknowledged : acknowledged + 2]
            if world.objects:
                seen = content((await reading(world)).data)
                assert seen in possible, (at, acknowledged)
            store = await opened(FaultyBucket(world), "next")
            assert content(store.data) in possible, (at, acknowledged)
            for step in STEPS[acknowledged:]:
                await step(store)
            assert content(store.data) == states[-1], (at, acknowledged)
            assert content((await reading(world)).data) == states[-1]
            await close_all()
            if not bucket.failed:
                assert at > (50 if waits else len(STEPS))  # a call for each step at least, and those of compaction
                return

    run(body())


@pytest.mark.parametrize("fault", get_args(Fault))
@pytest.mark.parametrize("arrives", ["at once", "at the end"])
def test_a_call_that_fails_once_is_asked_again(fault: Fault, arrives: str) -> None:
    async def take(store: ObjectStore, step: Step, world: World) -> None:
        try:
            await step(store)
        except StorageUnavailable:
            if arrives == "at once":
                world.deliver()
            await step(store)

    async def body() -> None:
        states = await model()
        for at in range(1, 1000):
            world = World()
            bucket = FaultyBucket(world, at, fault)
            try:
                store = await opened(bucket)
            except StorageUnavailable:
                world.deliver()
                store = await opened(bucket)
            for step in STEPS:
                await take(store, step, world)
                await compacted(store)
            world.deliver()
            assert content(store.data) == states[-1], at
            assert content((await reading(world)).data) == states[-1], at
            await close_all()
            if not bucket.failed:
                return

    run(body())


def test_the_model_is_what_the_steps_make() -> None:
    states = asyncio.run(model())
    assert len(states) == len(STEPS) + 1
    last = states[-1]["executions"]
    assert isinstance(last, dict)
    assert set(last) == {"a.1", "b", "c"}


def test_a_whole_state_as_changes_makes_the_same_state() -> None:
    async def body() -> None:
        for records in await model():
            data = MemoryData(**records)  # type: ignore[arg-type]
            again = MemoryData()
            for part in parts_of(snapshot(data)):
                apply(again, part)
            assert content(again) == records

    run(body())
