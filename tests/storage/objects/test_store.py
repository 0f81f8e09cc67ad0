"""The store in object storage: what it writes, how it is compacted, and what damaged objects are told of."""

from __future__ import annotations

from dataclasses import replace

import pytest

from rayflow.errors import CorruptRecord, StorageError, StorageUnavailable
from rayflow.storage.base import Filter
from rayflow.storage.changes import Changes
from rayflow.storage.objects import segments
from rayflow.storage.objects.store import ObjectStore
from rayflow.storage.operations import AlreadyExists, Done, Operation, Rejected
from rayflow.storage.writer import Writer
from tests.contract import operations as ops
from tests.contract.operations import NOW, append, claim, deliver, done, everything, row, start
from tests.storage.objects.faults import FaultyBucket, World, compacted, content, new_store, opened, reading, run


async def filled(world: World, *, compact_after: int = 1000, transactions: int = 5) -> ObjectStore:
    """A store with some transactions, and all of its compaction done."""
    store = await opened(FaultyBucket(world), compact_after=compact_after)
    await done(store, start("x"), claim("x"))
    for seq in range(1, transactions):
        await done(store, append("x", first=seq))
        await compacted(store)
    return store


# --- what is written ----------------------------------------------------------------------------------------
def test_a_transaction_is_one_put_and_reads_of_the_writer_are_none() -> None:
    async def body() -> None:
        bucket = FaultyBucket(World())
        store = await opened(bucket, compact_after=1000)
        before = bucket.calls
        for i in range(10):
            await done(store, start(f"x{i}"), claim(f"x{i}"), append(f"x{i}"))
        assert bucket.calls - before == 10
        await everything(store)
        assert bucket.calls - before == 10

    run(body())


def test_what_does_not_change_is_not_written_again() -> None:
    async def body() -> None:
        world = World()
        store = await opened(FaultyBucket(world), compact_after=1000)
        large = b"x" * 100_000
        await done(store, start("x", input=large, code=large, options=large), claim("x"))
        await done(store, append("x"))
        sizes = [len(world.objects[f"log/{name}"]) for name in world.names("log")]
        assert sizes[1] > 300_000
        assert sizes[2] < 1000
        other = await reading(world)
        assert await row(other) == await row(store)
        assert (await row(other)).input == large

    run(body())


def test_what_changes_nothing_is_not_written() -> None:
    async def body() -> None:
        world = World()
        store = await filled(world)
        before = world.names("log")
        await store.commit([start("x"), claim("x"), append("nobody")])
        assert await store.delete_pool("none") is False
        assert world.names("log") == before

    run(body())


def test_a_bad_member_fails_alone_by_its_own_error() -> None:
    async def body() -> None:
        world = World()
        store = await opened(FaultyBucket(world))
        operations: list[Operation] = [
            start("a"),
            start("c", priority=2**70),
            claim("a"),
            claim("c"),
            append("a", counts={"much": 2**70}),
            append("a", first=1),
            replace(append("a", first=1), counts={"much": 2**70}),  # done already: it writes nothing
            start("a", priority=2**70),  # there already: it writes nothing, either
        ]
        answers = await store.commit(operations)
        kinds = [Done, Rejected, Done, Rejected, Rejected, Done, Done, AlreadyExists]
        assert [type(answer) for answer in answers] == kinds
        texts = [str(answer.error) for answer in answers if isinstance(answer, Rejected)]
        assert "Start of execution 'c' cannot be written" in texts[0]
        assert "no execution 'c'" in texts[1]
        assert "Append of execution 'a' cannot be written" in texts[2]
        assert [found.id for found in await store.executions(Filter())] == ["a"]
        assert content((await reading(world)).data) == content(store.data)

    run(body())


def test_a_member_that_is_too_large_fails_alone() -> None:
    async def body() -> None:
        store = await opened(FaultyBucket(World()))
        store.largest = 10_000
        answers = await store.commit([start("a"), start("b", input=b"x" * 10_000), start("c")])
        assert [type(answer) for answer in answers] == [Done, Rejected, Done]
        assert isinstance(answers[1], Rejected)
        assert type(answers[1].error) is StorageError
        with pytest.raises(StorageError, match="bytes, of 10000 at most"):
            await store.commit([start(f"{i}", input=b"x" * 4_000) for i in range(3)])
        assert len(await store.executions(Filter())) == 2
        with pytest.raises(StorageError, match="cannot be written to store s3://faulty: it takes"):
            await store.save_pool(ops.pool(config=b"x" * 10_000))
        await store.save_pool(ops.pool())

    run(body())


def test_blobs_are_put_once_by_a_writer_and_again_by_the_next() -> None:
    async def body() -> None:
        world = World()
        bucket = FaultyBucket(world)
        store = await opened(bucket)
        await store.put_blob("d", b"data")
        calls = bucket.calls
        await store.put_blob("d", b"data")
        assert bucket.calls == calls + 1  # whether it still is the writer
        assert world.names("blob") == ["d"]
        del world.objects["blob/d"]
        await (await opened(FaultyBucket(world), "next")).put_blob("d", b"data")
        assert await (await reading(world)).blob("d") == b"data"

    run(body())


# --- opening and compacting ---------------------------------------------------------------------------------
def test_a_log_is_compacted_while_it_is_written() -> None:
    async def body() -> None:
        world = World()
        store = await filled(world, compact_after=4, transactions=40)
        names = world.names("log")
        assert len(names) < 12
        assert names[0] == f"{1:020d}"  # claims stay
        assert len(world.names("state")) == 2
        assert content((await reading(world)).data) == content(store.data)
        await store.close()
        again = await opened(FaultyBucket(world), "next")
        assert content(again.data) == content(store.data)
        await done(again, claim("x", expected=1), append("x", epoch=2, first=40))

    run(body())


def test_large_states_are_written_less_often() -> None:
    async def body() -> None:
        world = World()
        store = await opened(FaultyBucket(world), compact_after=2)
        store.checkpoint_patience = 10
        await done(store, *(start(f"x{i}", input=b"x" * 1000) for i in range(100)))
        await compacted(store)
        assert len(world.names("state")) == 1
        for i in range(100):
            await done(store, claim(f"x{i}"))
            await compacted(store)
        assert len(world.names("log")) > 20

    run(body())


def test_a_compaction_that_fails_is_tried_again_later(caplog: pytest.LogCaptureFixture) -> None:
    async def body() -> None:
        world = World()
        bucket = FaultyBucket(world)
        store = await opened(bucket, compact_after=3)
        await done(store, start("x"))
        bucket.at = bucket.calls + 2  # after the segment
        await done(store, claim("x"))
        await compacted(store)
        assert "compaction of the log failed, will retry later: failed, before" in caplog.text
        assert world.names("state") == []
        for seq in range(1, 5):
            await done(store, append("x", first=seq))
            await compacted(store)
        assert world.names("state") != []

    run(body())


def test_a_reader_follows_over_compactions() -> None:
    async def body() -> None:
        world = World()
        store = await filled(world, compact_after=3)
        reader = await reading(world)
        for seq in range(5, 60):
            await done(store, append("x", first=seq))
            await compacted(store)
            if seq % 7 == 0:
                assert (await row(reader)).last_seq == seq
        assert (await row(reader)).last_seq == 59
        assert content(reader.data) == content(store.data)

    run(body())


def test_reading_makes_no_store() -> None:
    async def body() -> None:
        world = World()
        with pytest.raises(StorageUnavailable, match="it does not exist, and reading does not create it"):
            await reading(world)
        assert world.objects == {}

    run(body())


def test_the_checkpoint_before_the_newest_is_enough_to_open() -> None:
    async def body() -> None:
        world = World()
        store = await filled(world, compact_after=4, transactions=40)
        del world.objects[f"state/{world.names('state')[-1]}"]
        assert content((await reading(world)).data) == content(store.data)

    run(body())


# --- damage -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", ["log", "state"])
@pytest.mark.parametrize("damage", ["cut off", "altered", "emptied", "swapped", "foreign"])
def test_a_damaged_object_is_named(kind: str, damage: str, caplog: pytest.LogCaptureFixture) -> None:
    async def body() -> None:
        world = World()
        store = await filled(world, compact_after=4, transactions=40)
        name = world.names(kind)[-1]
        key, given = f"{kind}/{name}", world.objects[f"{kind}/{world.names(kind)[-1]}"]
        world.objects[key] = {
            "cut off": given[:-1],
            "altered": given[:-3] + bytes([given[-3] ^ 1]) + given[-2:],
            "emptied": b"",
            "swapped": world.objects[f"{kind}/{world.names(kind)[-2]}"],
            "foreign": b"<html>not what was asked for</html>",
        }[damage]
        if kind == "state":  # what is before it is there, and says the same
            assert content((await reading(world)).data) == content(store.data)
            assert f"corrupt record: s3://faulty/{key} " in caplog.text
            return
        with pytest.raises(CorruptRecord, match=rf"^corrupt record: s3://faulty/{kind}/{name} "):
            await reading(world)

    run(body())


@pytest.mark.parametrize("position", range(13))
def test_each_byte_of_a_header_counts(position: int) -> None:
    data = segments.encode_segment(7, Writer(1, "w"), Changes(pools=[ops.pool()]))
    assert segments.decode_segment("it", 7, data).changes.pools == [ops.pool()]
    altered = data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :]
    with pytest.raises(CorruptRecord, match="it "):
        segments.decode_segment("it", 7, altered)


def test_a_missing_segment_is_named() -> None:
    async def body() -> None:
        world = World()
        store = await filled(world)
        reader = await reading(world)
        await done(store, deliver("x", "a"))
        await done(store, deliver("x", "b"))
        del world.objects[f"log/{7:020d}"]
        for open_or_read in (reading(world), reader.execution("x"), reader.execution("x")):
            with pytest.raises(CorruptRecord, match=rf"s3://faulty/log/{7:020d} is missing"):
                await open_or_read

    run(body())


def test_segments_that_do_not_belong_together_are_refused() -> None:
    async def body() -> None:
        world, other = World(), World()
        await filled(world)
        store = await opened(FaultyBucket(other), compact_after=1000)
        for name in ("a", "b", "c", "d"):
            await done(store, start(name), claim(name))
        await done(store, append("d"))
        last = f"log/{6:020d}"
        world.objects[last] = other.objects[last]
        with pytest.raises(CorruptRecord, match="does not fit what is before it: KeyError"):
            await reading(world)
        world.objects[last] = segments.encode_segment(6, Writer(3, "w"), Changes())
        with pytest.raises(CorruptRecord, match="is of writer epoch 3, where 1 is due"):
            await reading(world)

    run(body())


def test_a_store_of_a_newer_format_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    async def body() -> None:
        world = World()
        with monkeypatch.context() as patch:
            patch.setattr(segments, "FORMAT", 99)
            await filled(world)
        with pytest.raises(StorageUnavailable, match=r"has format 99, .* formats up to \d: a newer rayflow wrote"):
            await reading(world)

    run(body())


def test_an_unreadable_sign_of_life_is_none() -> None:
    async def body() -> None:
        world = World()
        await filled(world)
        world.objects[f"beat/{1:020d}"] = b"\xff?"
        other = new_store(FaultyBucket(world))
        await other.open()
        with pytest.raises(StorageUnavailable, match="written by 'test'"):
            await other.claim_writer("other", now=NOW + 1, fresh_for=5)
        assert await other.claim_writer("other", now=NOW + 6, fresh_for=5) == 2

    run(body())


# --- records as bytes ---------------------------------------------------------------------------------------
def test_a_record_that_was_written_with_fewer_fields_is_read() -> None:
    record = ops.record(priority=7, runnable_at=None)
    values = list(segments._GETTERS[type(record)](record))
    assert segments._execution(values[:15]) == replace(record, epoch=0)
    with pytest.raises(ValueError, match="are known"):
        segments._execution([*values, "new"])
