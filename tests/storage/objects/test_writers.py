"""Several writers of one store in object storage: one counts, and what comes late from the others never does."""

from __future__ import annotations

import asyncio
import itertools

import pytest

from rayflow.errors import StorageUnavailable, WriterFenced
from rayflow.storage.changes import Changes
from rayflow.storage.objects.segments import encode_segment
from rayflow.storage.operations import Done
from rayflow.storage.writer import Writer
from tests.contract import operations as ops
from tests.contract.operations import NOW, claim, done, row, start
from tests.storage.objects.faults import (
    Fault,
    FaultyBucket,
    World,
    compacted,
    content,
    new_store,
    opened,
    reading,
    run,
)


def test_of_two_that_claim_at_once_one_wins() -> None:
    async def body() -> None:
        for take_over in (False, True):
            world = World()
            stores = [new_store(FaultyBucket(world)) for _ in range(5)]
            for store in stores:
                await store.open()
            told = await asyncio.gather(
                *(
                    store.claim_writer(f"w{i}", now=NOW, fresh_for=5, take_over=take_over)
                    for i, store in enumerate(stores)
                ),
                return_exceptions=True,
            )
            epochs = [each for each in told if isinstance(each, int)]
            assert epochs
            assert len(set(epochs)) == len(epochs)
            if not take_over:
                assert len(epochs) == 1
                assert sum(isinstance(each, StorageUnavailable) for each in told) == 4
            wrote = await asyncio.gather(
                *(store.commit([start(str(i))]) for i, store in enumerate(stores)), return_exceptions=True
            )
            winners = [i for i, each in enumerate(wrote) if isinstance(each, list)]
            assert len(winners) == 1
            assert list((await reading(world)).data.executions) == [str(winners[0])]

    run(body())


@pytest.mark.parametrize("later", [1, 20])
def test_a_put_of_a_fenced_writer_that_arrives_late_never_counts(later: int) -> None:
    async def body() -> None:
        world = World()
        bucket = FaultyBucket(world)
        first = await opened(bucket, "first")
        await done(first, start("a"))
        bucket.hold = asyncio.Event()
        writing = asyncio.create_task(first.commit([start("late")]))
        await bucket.holding.wait()
        second = await opened(FaultyBucket(world), "second")
        for i in range(later):
            await done(second, start(f"b{i}"))
            await compacted(second)
        assert len(world.names("log")) < 15
        bucket.hold.set()
        with pytest.raises(WriterFenced, match="taken over by 'second'"):
            await writing
        with pytest.raises(WriterFenced):
            await first.commit([start("later")])
        assert not {"late", "later"} & (await reading(world)).data.executions.keys()

    run(body())


def test_a_put_that_was_given_up_is_not_done_later_beside_the_next() -> None:
    async def body() -> None:
        world = World()
        bucket = FaultyBucket(world)
        store = await opened(bucket)
        bucket.at, bucket.fault = bucket.calls + 1, "late"
        with pytest.raises(StorageUnavailable):
            await store.commit([start("given up")])
        await done(store, start("next"))
        world.deliver()
        await done(store, start("last"))
        assert list(store.data.executions) == ["next", "last"]
        assert content((await reading(world)).data) == content(store.data)

    run(body())


def test_a_put_that_was_given_up_and_done_is_seen_with_the_next_sign_of_life() -> None:
    async def body() -> None:
        world = World()
        bucket = FaultyBucket(world)
        store = await opened(bucket)
        bucket.at, bucket.fault = bucket.calls + 1, "after"
        with pytest.raises(StorageUnavailable):
            await store.commit([start("done")])
        await store.heartbeat(now=NOW)
        assert (await row(store, "done")).id == "done"
        assert isinstance((await store.commit([claim("done")]))[0], Done)

    run(body())


def test_a_claim_that_comes_too_late_for_its_number_does_not_count() -> None:
    async def body() -> None:
        world = World()
        writer = await opened(FaultyBucket(world), "writer")
        await done(writer, start("a"))
        bucket = FaultyBucket(world)
        other = new_store(bucket)
        await other.open()
        bucket.hold = asyncio.Event()
        # It believes that the writer is gone, and is stopped just before it says so.
        claiming = asyncio.create_task(other.claim_writer("other", now=NOW + 60, fresh_for=5))
        await bucket.holding.wait()
        reader = await reading(world)
        for i in range(20):
            await done(writer, start(f"b{i}"))
            await writer.heartbeat(now=NOW + 60)
            await compacted(writer)
        assert len(world.names("log")) < 15  # its number is free again
        bucket.hold.set()
        with pytest.raises(StorageUnavailable, match="written by 'writer'"):
            await claiming
        await done(writer, start("last"))
        await reader.execution("last")
        assert content(reader.data) == content(writer.data)
        assert content((await reading(world)).data) == content(writer.data)

    run(body())


@pytest.mark.parametrize("later", range(1, 8))
@pytest.mark.parametrize("earlier", [1, 2])
@pytest.mark.parametrize("late", ["claim", "commit"])
def test_a_reader_is_not_misled_by_a_put_that_fills_a_hole(earlier: int, later: int, late: str) -> None:
    async def body() -> None:
        world = World()
        writer = await opened(FaultyBucket(world), "writer")
        for i in range(earlier):
            await done(writer, start(f"a{i}"))
            await compacted(writer)
        reader = await reading(world)
        records = reader._log
        assert records is not None
        epoch, number, key = 1, records.number + 1, records.next_key
        for i in range(later):
            await done(writer, start(f"b{i}"))
            await compacted(writer)
        given = Writer(epoch + 1, "late", NOW) if late == "claim" else Writer(epoch, "writer")
        changes = Changes() if late == "claim" else Changes(pools=[ops.pool("late")])
        world.create(key, encode_segment(number, given, changes))
        await reader.execution("a0")
        assert content(reader.data) == content(writer.data)
        assert content((await reading(world)).data) == content(writer.data)
        await done(writer, start("last"))

    run(body())


def test_an_answer_that_another_try_took_for_somebody_elses_is_ones_own() -> None:
    async def body() -> None:
        bucket = FaultyBucket(World())
        store = await opened(bucket)
        await store.save_pool(ops.pool())
        bucket.at, bucket.fault = bucket.calls + 1, "twice"
        assert await store.delete_pool("gpu")
        assert not await store.delete_pool("gpu")

    run(body())


def test_a_writer_that_does_not_know_whether_it_claimed_anew_claims_again() -> None:
    async def body() -> None:
        world = World()
        bucket = FaultyBucket(world)
        store = await opened(bucket)
        faults: tuple[Fault, ...] = ("before", "after")
        for fault in faults:
            bucket.calls, bucket.at, bucket.fault = 0, None, fault
            await store.claim_writer("test", now=NOW, fresh_for=5)
            calls, bucket.calls = bucket.calls, 0
            bucket.at = calls - 1  # the claim itself, before it is made sure that it counts
            with pytest.raises(StorageUnavailable, match=f"failed, {fault}"):
                await store.claim_writer("test", now=NOW, fresh_for=5)
            with pytest.raises(StorageUnavailable, match="not claimed for writing"):
                await store.commit([start()])
            await store.claim_writer("test", now=NOW, fresh_for=5)
            await done(store, start(fault))
            await compacted(store)

    run(body())


def test_a_writer_that_never_rests_gives_way_when_it_is_asked() -> None:
    async def body() -> None:
        world = World()
        busy = await opened(FaultyBucket(world), "busy", compact_after=1000)
        written: list[str] = []
        begun = asyncio.Event()

        async def write() -> None:
            for number in itertools.count():
                await done(busy, start(f"x{number}"))
                written.append(f"x{number}")
                begun.set()
                if number % 200 == 0:
                    await busy.heartbeat(now=NOW)

        writing = asyncio.create_task(write())
        await begun.wait()
        other = new_store(FaultyBucket(world))
        await other.open()
        assert await other.claim_writer("other", now=NOW, fresh_for=5, take_over=True) == 2
        with pytest.raises(WriterFenced, match="by 'other'"):
            await writing
        with pytest.raises(WriterFenced):
            await busy.commit([start("late")])
        assert list(other.data.executions) == written
        for name in ("a", "b", "c"):
            await done(other, start(name))
            await compacted(other)
        assert world.names("asked") == []

    run(body())


def test_a_process_with_the_same_nonce_does_not_take_a_claim_for_its_own() -> None:
    """The actor that was restarted uses the nonce of the one before, which may still be at it."""

    async def body() -> None:
        world = World()
        slow, quick = FaultyBucket(world), FaultyBucket(world)
        first, second = new_store(slow), new_store(quick)
        await first.open()
        await second.open()
        slow.hold = asyncio.Event()
        claiming = asyncio.create_task(first.claim_writer("same", now=NOW, fresh_for=5))
        await slow.holding.wait()
        assert await second.claim_writer("same", now=NOW, fresh_for=5) == 1
        slow.hold.set()
        assert await claiming == 2
        with pytest.raises(WriterFenced):
            await second.commit([start()])
        await done(first, start())

    run(body())


def test_a_close_does_not_wait_for_a_claim_that_nobody_answers() -> None:
    async def body() -> None:
        world = World()
        bucket = FaultyBucket(world)
        store = await opened(bucket)
        bucket.at, bucket.fault = bucket.calls + 1, "before"
        await store.close()  # its word that it is gone was lost: the next one waits, or takes over
        other = new_store(FaultyBucket(world))
        await other.open()
        with pytest.raises(StorageUnavailable, match="written by 'test'"):
            await other.claim_writer("other", now=NOW + 1, fresh_for=5)
        assert await other.claim_writer("other", now=NOW + 5, fresh_for=5) == 2

    run(body())
