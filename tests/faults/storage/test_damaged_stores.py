"""A store that is damaged as a whole: it says which file or object, what helps, and changes nothing."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Coroutine
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from rayflow.errors import CorruptRecord, StorageUnavailable
from rayflow.storage.sqlite.store import SqliteStore
from tests.contract.operations import append, begun, done, end, everything, run, start
from tests.storage.objects.faults import FaultyBucket, World, close_all, compacted, opened, reading
from tests.storage.sqlite.stores import fill


@pytest.fixture
def file(tmp_path: Path) -> Path:
    made = tmp_path / "store.db"
    fill(made, rows=50)
    return made


def open_error(file: Path) -> str:
    store = SqliteStore(f"sqlite:///{file}")
    with pytest.raises(StorageUnavailable) as refused:
        run(store.open())
    return str(refused.value)


def test_a_file_that_lost_its_content_is_not_made_anew_over_its_log(file: Path) -> None:
    log = file.with_name("store.db-wal")
    file.write_bytes(b"")
    log.write_bytes(b"what was not yet in the file")
    assert "the file is empty, but its log (store.db-wal) is not" in open_error(file)
    assert file.read_bytes() == b""
    assert log.read_bytes() == b"what was not yet in the file"


def test_a_damaged_schema_is_told_when_the_store_is_opened(file: Path) -> None:
    with closing(sqlite3.connect(file)) as db, db:
        db.execute("PRAGMA writable_schema = ON")
        db.execute("UPDATE sqlite_master SET sql = replace(sql, 'body', 'bodx') WHERE name = 'journal'")
    before = file.read_bytes()
    said = open_error(file)
    assert str(file) in said
    assert "PRAGMA integrity_check" in said
    assert file.read_bytes() == before


# --- object storage -------------------------------------------------------------------------------------------
async def _written(world: World) -> list[object]:
    """Several checkpoints, and segments after them; answers all that is in the store."""
    store = await opened(FaultyBucket(world))
    for number in range(6):
        await begun(store, f"x{number}")
        await done(store, append(f"x{number}"), end(f"x{number}", first=2))
        await compacted(store)
    await done(store, start("last"))
    await compacted(store)
    return await everything(store)


@pytest.fixture
def world() -> World:
    return World()


def run_closed(body: Coroutine[Any, Any, None]) -> None:
    """Run it, and close its stores whatever comes of it."""

    async def within() -> None:
        try:
            await body
        finally:
            await close_all()

    run(within())


def _newest(world: World) -> str:
    return f"state/{world.names('state')[-1]}"


def _flip(data: bytes) -> bytes:
    return data[:-3] + bytes([data[-3] ^ 1]) + data[-2:]


@pytest.mark.parametrize("damage", [_flip, lambda data: data[:20], lambda _: b""], ids=["flipped", "cut off", "empty"])
def test_a_damaged_checkpoint_is_made_good_by_what_is_before_it(
    world: World, damage: Callable[[bytes], bytes], caplog: pytest.LogCaptureFixture
) -> None:
    async def body() -> None:
        written = await _written(world)
        name = _newest(world)
        world.objects[name] = damage(world.objects[name])
        assert await everything(await reading(world)) == written
        assert name in caplog.text
        # It goes on from there, and the next checkpoints are whole.
        store = await opened(FaultyBucket(world), nonce="next")
        await done(store, start("more"))
        await compacted(store)
        assert await everything(await reading(world)) == await everything(store)

    run_closed(body())


@pytest.mark.parametrize("lost", ["checkpoint", "segment"])
def test_it_is_refused_where_nothing_proves_what_was_there(world: World, lost: str) -> None:
    async def body() -> None:
        await _written(world)
        name = _newest(world)
        world.objects[name] = _flip(world.objects[name])
        before, newest = world.names("state")[-2:]
        if lost == "checkpoint":
            also = f"state/{before}"
            world.objects[also] = _flip(world.objects[also])
        else:
            also = next(f"log/{each}" for each in world.names("log") if before < each <= newest)
            del world.objects[also]
        objects = dict(world.objects)
        with pytest.raises(CorruptRecord) as refused:
            await reading(world)
        assert name in str(refused.value)
        if lost == "checkpoint":
            assert also in str(refused.value)
        assert world.objects == objects

    run_closed(body())


def test_a_damaged_segment_is_named(world: World) -> None:
    async def body() -> None:
        store = await opened(FaultyBucket(world), compact_after=100)
        await begun(store, "x")
        name = f"log/{world.names('log')[-1]}"
        world.objects[name] = _flip(world.objects[name])
        with pytest.raises(CorruptRecord, match=f"{name} does not match its checksum"):
            await reading(world)

    run_closed(body())
