"""One writer per store, and what opening and closing mean."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest

from rayflow.errors import StorageUnavailable, WriterFenced
from rayflow.storage.base import Filter, Store
from rayflow.storage.rules.retention import PurgeFilter
from tests.contract.conftest import Stores
from tests.contract.operations import NOW, claim, definition, done, end, pool, row, run, start

WRITES: dict[str, Callable[[Store], Awaitable[object]]] = {
    "commit": lambda store: store.commit([start("late")]),
    "heartbeat": lambda store: store.heartbeat(now=NOW),
    "save_definition": lambda store: store.save_definition(definition()),
    "delete_definition": lambda store: store.delete_definition("w"),
    "put_blob": lambda store: store.put_blob("d", b""),
    "delete_dead_letters": lambda store: store.delete_dead_letters([("x", 1)]),
    "save_pool": lambda store: store.save_pool(pool()),
    "delete_pool": lambda store: store.delete_pool("gpu"),
    "collect": lambda store: store.collect(PurgeFilter(ids=("over",))),
}
READS: dict[str, Callable[[Store], Awaitable[object]]] = {
    "execution": lambda store: store.execution("x"),
    "executions": lambda store: store.executions(Filter()),
    "journal": lambda store: store.journal("x"),
    "inbox": lambda store: store.inbox("x"),
    "definition": lambda store: store.definition("w"),
    "definitions": lambda store: store.definitions(),
    "blob": lambda store: store.blob("d"),
    "dead_letters": lambda store: store.dead_letters(),
    "notes": lambda store: store.notes("x"),
    "pools": lambda store: store.pools(),
    "totals": lambda store: store.totals(),
    "collect": lambda store: store.collect(PurgeFilter(), dry_run=True),
}


def test_a_living_writer_is_not_replaced_unless_taken_over(stores: Stores) -> None:
    async def body(first: Store) -> None:
        second = stores.new()
        await second.open()
        try:
            with pytest.raises(StorageUnavailable, match=r"written by 'test'.*4\.0 s old.*--take-over"):
                await second.claim_writer("other", now=NOW + 4, fresh_for=5)
            await first.heartbeat(now=NOW + 4)
            with pytest.raises(StorageUnavailable, match="written by 'test'"):
                await second.claim_writer("other", now=NOW + 8, fresh_for=5)
            await done(first, start())
            assert await second.claim_writer("other", now=NOW + 8, fresh_for=5, take_over=True) == 2
            await done(second, claim())
            assert (await row(second)).epoch == 1
        finally:
            await second.close()

    stores.run(body)


def test_a_silent_writer_is_replaced(stores: Stores) -> None:
    async def body(first: Store) -> None:
        second = stores.new()
        await second.open()
        assert await second.claim_writer("other", now=NOW + 5, fresh_for=5) == 2
        await second.close()

    stores.run(body)


@pytest.mark.parametrize("name", WRITES)
def test_a_fenced_writer_writes_no_more_ever(stores: Stores, name: str) -> None:
    async def body(first: Store) -> None:
        await done(first, start("over"), claim("over"), end("over"))
        second = stores.new()
        await second.open()
        await second.claim_writer("other", now=NOW, fresh_for=5, take_over=True)
        with pytest.raises(WriterFenced, match="epoch 1, can no longer write"):
            await WRITES[name](first)
        await second.close()
        for late in (WRITES[name], WRITES["commit"]):
            with pytest.raises(WriterFenced, match="taken over by 'other'"):
                await late(first)
        with pytest.raises(WriterFenced):
            await first.claim_writer("test", now=NOW + 99, fresh_for=1, take_over=True)
        assert await first.execution("late") is None

    stores.run(body)


def test_a_fenced_writer_may_not_claim_before_it_noticed(stores: Stores) -> None:
    async def body(first: Store) -> None:
        second = stores.new()
        await second.open()
        await second.claim_writer("other", now=NOW, fresh_for=5, take_over=True)
        with pytest.raises(WriterFenced):
            await first.claim_writer("test", now=NOW, fresh_for=5, take_over=True)
        await done(second, start())
        await second.close()

    stores.run(body)


def test_the_same_nonce_claims_again_at_once_and_fences_its_former_self(stores: Stores) -> None:
    async def body(first: Store) -> None:
        second = stores.new()
        await second.open()
        assert await second.claim_writer("test", now=NOW, fresh_for=5) == 2
        assert await second.claim_writer("test", now=NOW, fresh_for=5) == 3
        await done(second, start())
        with pytest.raises(WriterFenced):
            await first.commit([claim()])
        await second.close()

    stores.run(body)


def test_a_closed_writer_makes_room_at_once(stores: Stores) -> None:
    async def claim_once(nonce: str) -> int:
        store = stores.new()
        await store.open()
        epoch = await store.claim_writer(nonce, now=NOW, fresh_for=1000)
        await store.close()
        await store.close()
        return epoch

    assert [run(claim_once("a")), run(claim_once("b"))] == [1, 2]


def test_the_close_of_a_fenced_writer_does_not_hide_its_successor(stores: Stores) -> None:
    async def body(first: Store) -> None:
        second, third = stores.new(), stores.new()
        await second.open()
        await third.open()
        await second.claim_writer("other", now=NOW, fresh_for=5, take_over=True)
        await first.close()
        with pytest.raises(StorageUnavailable, match="written by 'other'"):
            await third.claim_writer("third", now=NOW, fresh_for=5)
        await second.close()
        await third.close()

    stores.run(body)


@pytest.mark.parametrize("name", WRITES)
def test_writing_needs_a_claim(stores: Stores, name: str) -> None:
    async def body() -> None:
        store = stores.new()
        await store.open()
        with pytest.raises(StorageUnavailable, match="not claimed for writing"):
            await WRITES[name](store)
        await store.close()

    run(body())


@pytest.mark.parametrize("name", [*WRITES, *READS])
def test_a_closed_store_answers_nothing(stores: Stores, name: str) -> None:
    async def body() -> None:
        store = stores.new()
        for _ in range(2):
            with pytest.raises(StorageUnavailable, match="not open"):
                await {**WRITES, **READS}[name](store)
            await store.open()
            await store.close()

    run(body())


def test_reading_beside_a_writer(stores: Stores) -> None:
    async def body(writer: Store) -> None:
        reader = stores.new()
        await reader.open(read_only=True)
        assert await reader.execution("x") is None
        await done(writer, start())
        assert await reader.execution("x") == await row(writer)
        for write in WRITES.values():
            with pytest.raises(StorageUnavailable, match="read-only"):
                await write(reader)
        with pytest.raises(StorageUnavailable, match="read-only"):
            await reader.claim_writer("reader", now=NOW, fresh_for=0, take_over=True)
        await reader.close()
        await done(writer, claim())

    stores.run(body)
