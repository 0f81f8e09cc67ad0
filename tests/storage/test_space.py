"""Deleting gives space back: files get smaller, in short pieces of work, and memory too."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from rayflow.storage.base import Store
from rayflow.storage.objects.store import ObjectStore
from rayflow.storage.rules.retention import PurgeFilter
from rayflow.storage.sqlite.migrations import migrate
from rayflow.storage.sqlite.statements import over_listing
from tests.contract.operations import NOW, append, claim, done, end, start
from tests.storage.objects.faults import compacted
from tests.storage.sqlite.stores import new_store, opened, run

EXECUTIONS, BYTES = 200, 100_000


def on_disk(place: Path) -> int:
    """Bytes of a file with what SQLite keeps beside it, or of a folder."""
    files = place.rglob("*") if place.is_dir() else place.parent.glob(f"{place.name}*")
    return sum(path.stat().st_size for path in files if path.is_file())


async def fill(store: Store, *, first: int = 0, number: int = EXECUTIONS) -> None:
    for each in range(first, first + number):
        name = f"x{each}"
        await done(store, start(name), claim(name), append(name, bodies=[bytes([each % 256]) * BYTES]))
        await done(store, end(name, first=2, at=NOW + each))


async def collect(store: Store, over: PurgeFilter) -> int:
    """Delete and give back until there is nothing more; answers in how many pieces space was given back."""
    while (await store.collect(over)).ids:
        pass
    pieces = 1
    while await store.reclaim():
        pieces += 1
    return pieces


def test_a_file_gets_smaller_while_it_is_open_and_stays_whole(tmp_path: Path) -> None:
    file = tmp_path / "store.db"

    async def body() -> None:
        store = await opened(new_store(file))
        await fill(store)
        full = on_disk(file)
        assert full > EXECUTIONS * BYTES
        pieces = await collect(store, PurgeFilter(ended_before=NOW + EXECUTIONS - 20))
        assert pieces > 5  # none of them is long
        assert on_disk(file) < full / 2  # the log that SQLite keeps beside it is a few megabytes
        await store.close()
        assert on_disk(file) < full / 5
        with closing(sqlite3.connect(file)) as db:
            assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
            assert db.execute("SELECT count(*) FROM executions").fetchone() == (20,)

    run(body())


def test_what_is_deleted_and_added_at_the_same_rate_moves_nothing(tmp_path: Path) -> None:
    async def body() -> None:
        store = await opened(new_store(tmp_path / "store.db"))
        await fill(store)
        assert await collect(store, PurgeFilter(ended_before=NOW + 5)) == 1
        await fill(store, first=EXECUTIONS, number=5)
        [(free,)] = await store._on_reader(lambda db: db.execute("PRAGMA freelist_count").fetchall())
        assert free < 10  # what was given up is used again

    run(body())


@pytest.mark.parametrize(
    ("over", "index"),
    [
        (PurgeFilter(expired_by=NOW, after=(1.0, "x")), "executions_expiring"),
        (PurgeFilter(ended_before=NOW), "executions_finished"),
    ],
    ids=["expired", "ended"],
)
def test_what_is_over_is_found_by_an_index(over: PurgeFilter, index: str) -> None:
    with closing(sqlite3.connect(":memory:")) as db:
        migrate(db, "here")
        statement, values = over_listing(over)
        plan = " ".join(str(step[3]) for step in db.execute(f"EXPLAIN QUERY PLAN {statement}", values))
    assert f"USING INDEX {index}" in plan
    assert "SCAN" not in plan


def test_a_folder_gets_smaller_with_later_checkpoints(tmp_path: Path) -> None:
    async def body() -> None:
        store = ObjectStore(f"file://{tmp_path / 'flows'}")
        await store.open()
        await store.claim_writer("test", now=NOW, fresh_for=5)
        await fill(store, number=50)
        full = on_disk(tmp_path / "flows")
        assert full > 50 * BYTES
        await collect(store, PurgeFilter(ended_before=NOW + 40))
        held: dict[str, Any] = store.data.journals
        assert sum(len(row.body) for rows in held.values() for row in rows) < 11 * BYTES
        for number in range(2):  # the second checkpoint comes with what is written next
            await compacted(store)
            await done(store, start(f"later{number}"))
        await compacted(store)
        assert on_disk(tmp_path / "flows") < full / 2
        await store.close()

    asyncio.run(body())
