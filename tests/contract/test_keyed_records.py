"""Keyed records: questions, budgets, emitted values and what comes after them."""

from __future__ import annotations

from typing import Any

from rayflow.errors import WriterFenced
from rayflow.storage.base import Store
from rayflow.storage.model import KeyedRecord
from rayflow.storage.operations import PutRecord
from tests.contract.conftest import Stores
from tests.contract.operations import NOW, append, begun, delete, done, end, refused


def question(key: str, body: bytes = b"?", *, of: str = "") -> KeyedRecord:
    return KeyedRecord("question", key, body, NOW, of)


async def listed(store: Store, kind: str = "question", **given: Any) -> list[tuple[str, bytes, int]]:
    return [(record.key, record.body, record.version) for record in await store.records(kind, **given)]


def test_they_are_written_listed_by_key_and_deleted(stores: Stores) -> None:
    async def write(store: Store) -> None:
        await done(store, PutRecord(question("b")), PutRecord(question("a")), PutRecord(question("c")))
        await done(store, PutRecord(KeyedRecord("budget", "a", b"10")), PutRecord(question("b", b"!")))

    async def read(store: Store) -> None:
        assert await listed(store) == [("a", b"?", 1), ("b", b"!", 2), ("c", b"?", 1)]
        assert await listed(store, after="a") == [("b", b"!", 2), ("c", b"?", 1)]
        assert [record.key for record in await store.records("question", limit=1)] == ["a"]
        assert await listed(store, "budget") == [("a", b"10", 1)]
        await done(store, PutRecord(question("a"), delete=True), PutRecord(question("none"), delete=True))
        assert [key for key, _, _ in await listed(store)] == ["b", "c"]
        await done(store, PutRecord(question("a")))
        assert (await store.records("question"))[0] == KeyedRecord("question", "a", b"?", NOW, "", 1)

    stores.run(write)
    stores.run(read)


def test_a_write_over_another_version_is_refused(stores: Stores) -> None:
    async def body(store: Store) -> None:
        await done(store, PutRecord(question("a"), expected=0))
        await refused(store, PutRecord(question("a"), expected=0), WriterFenced)
        error = await refused(store, PutRecord(question("b"), expected=2), WriterFenced)
        assert "question 'b' does not exist; it cannot be written over version 2" in str(error)
        await done(store, PutRecord(question("a"), expected=1), PutRecord(question("a"), expected=2))
        await refused(store, PutRecord(question("a"), expected=2, delete=True), WriterFenced)
        assert await listed(store) == [("a", b"?", 3)]

    stores.run(body)


def test_they_are_written_with_the_entries_that_need_them_or_not_at_all(stores: Stores) -> None:
    async def body(store: Store) -> None:
        await begun(store, "x", "y")
        asked = append(records=(question("x/1", of="x"), question("x/2", of="x")))
        await done(store, asked)
        await done(store, asked)  # sent again: already durable
        assert await listed(store) == [("x/1", b"?", 1), ("x/2", b"?", 1)]
        await refused(store, append(first=2, epoch=9, records=(question("x/3"),)), WriterFenced)
        await done(store, append("y", records=(question("y/1", of="y"),)))
        assert await listed(store, execution_id="x") == [("x/1", b"?", 1), ("x/2", b"?", 1)]
        await done(store, append(first=2, records=(question("x/1", b"!", of="x"),), no_records=(("question", "x/2"),)))
        assert await listed(store, execution_id="x") == [("x/1", b"!", 2)]
        assert await listed(store, execution_id="") == []
        await done(store, PutRecord(question("free")))
        assert await listed(store, execution_id="") == [("free", b"?", 1)]

    stores.run(body)


def test_they_go_with_their_execution(stores: Stores) -> None:
    async def body(store: Store) -> None:
        await begun(store, "x")
        await done(store, append(records=(question("x/1", of="x"), question("free"))), end(first=2))
        assert await delete(store, "x") == 1
        assert await listed(store) == [("free", b"?", 1)]

    stores.run(body)
