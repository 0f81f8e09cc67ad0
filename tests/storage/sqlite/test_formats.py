"""Formats of stores: how a file of an older one becomes a newer one, whatever happens during that time.

The newer format of these tests is made up: a column, a table and an index more than the newest real one.
"""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from rayflow.errors import StorageUnavailable, WriterFenced
from rayflow.storage.base import Filter
from rayflow.storage.changes import Changes
from rayflow.storage.objects import segments
from rayflow.storage.objects.store import ObjectStore
from rayflow.storage.sqlite import migrations
from rayflow.storage.sqlite.migrations import FORMATS, Format, newest_format
from rayflow.storage.writer import Writer
from tests.contract.operations import NOW, append, claim, done, everything, start
from tests.storage.objects.faults import FaultyBucket, World, close_all, new_store, opened
from tests.storage.sqlite.stores import fill, new_faulty_store, run
from tests.storage.sqlite.stores import new_store as new_file_store

NEWER = (
    *FORMATS,
    Format(
        (
            "ALTER TABLE executions ADD COLUMN colour TEXT NOT NULL DEFAULT 'blue'",
            "CREATE TABLE rooms (name TEXT PRIMARY KEY)",
            "CREATE INDEX executions_colour ON executions (colour)",
        ),
        {"executions": ("'blue' AS colour",)},
    ),
)
#: When the older file was written, and a moment at which its writer counts as gone.
WRITTEN, LATER = NOW, NOW + 1000

#: Every statement of the migration and those that follow; and whether it fails although it is done.
STEPS = [*NEWER[-1].statements, "UPDATE meta", "UPDATE writer", "COMMIT"]
CRASHES = [(number, after) for number in range(len(STEPS)) for after in (False, True)]


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file of the format before; its writer was killed."""
    made = tmp_path / "store.db"
    write_older(made)
    monkeypatch.setattr(migrations, "FORMATS", NEWER)
    return made


def write_older(file: Path) -> None:
    fill(file)
    with closing(sqlite3.connect(file)) as db, db:
        db.execute("UPDATE writer SET heartbeat = ?", (WRITTEN,))


def schema(file: Path) -> dict[str, Any]:
    """What a file is made of, whichever way it was made."""
    with closing(sqlite3.connect(file)) as db:
        names = [name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        made: dict[str, Any] = {name: sorted(db.execute(f"PRAGMA table_info({name})").fetchall()) for name in names}
        made["indexes"] = sorted(db.execute("SELECT name, sql FROM sqlite_master WHERE type = 'index' AND sql <> ''"))
        made["format"] = db.execute("SELECT value FROM meta WHERE name = 'format'").fetchone()
        return made


async def claimed(file: Path, **given: Any) -> int:
    store = new_file_store(file)
    await store.open()
    epoch = await store.claim_writer("next", now=LATER, fresh_for=60, **given)
    assert [record.id for record in await store.executions(Filter())] == ["x"]
    await store.close()
    return epoch


def test_an_older_file_becomes_what_a_new_one_is(file: Path, tmp_path: Path) -> None:
    fill(tmp_path / "new.db")
    assert run(claimed(file)) == 2
    assert schema(file) == schema(tmp_path / "new.db")
    before = file.read_bytes()
    assert run(claimed(file)) == 3
    assert schema(file)["format"] == (newest_format(),) == (len(FORMATS) + 1,)
    assert len(file.read_bytes()) == len(before)


def test_nothing_but_a_claim_makes_it_newer(file: Path) -> None:
    async def body() -> None:
        before = schema(file)
        store = new_file_store(file)
        await store.open()
        assert len(await store.executions(Filter())) == 1
        found = await store._read("SELECT colour FROM executions")
        assert [tuple(row) for row in found] == [("blue",)]  # what a process that only reads finds in an older file
        assert await store._read("SELECT * FROM rooms") == []
        with pytest.raises(StorageUnavailable, match="is being written by 'test'"):
            await store.claim_writer("next", now=WRITTEN + 10, fresh_for=60)
        assert schema(file) == before
        assert await store.claim_writer("next", now=WRITTEN + 10, fresh_for=60, take_over=True) == 2
        assert schema(file) != before
        await done(store, start("new"))
        assert [tuple(row) for row in await store._read("SELECT colour FROM executions")] == [("blue",)] * 2

    run(body())


@pytest.mark.parametrize(("number", "after"), CRASHES, ids=[f"{n}-{'after' if a else 'before'}" for n, a in CRASHES])
def test_a_crash_leaves_the_old_file_or_the_new_one(file: Path, tmp_path: Path, number: int, *, after: bool) -> None:
    async def body() -> None:
        store, fault = new_faulty_store(file)
        await store.open()
        fault.on, fault.after = STEPS[number], after
        with pytest.raises(StorageUnavailable, match="disk I/O error"):
            await store.claim_writer("test", now=LATER, fresh_for=60)
        assert fault.on is None
        durable = STEPS[number] == "COMMIT" and after
        assert schema(file) == (new if durable else old)
        await store.claim_writer("test", now=LATER, fresh_for=60)  # the same store tries again
        await done(store, start("new"))
        assert len(await store.executions(Filter())) == 2
        assert schema(file) == new

    old = schema(file)
    fill(tmp_path / "other.db")
    new = schema(tmp_path / "other.db")
    run(body())


def test_who_comes_at_the_same_moment_finds_one_of_the_two(file: Path) -> None:
    async def body() -> None:
        stores = [new_file_store(file) for _ in range(4)]
        readers = [new_file_store(file) for _ in range(4)]
        await asyncio.gather(*(store.open() for store in stores), *(each.open(read_only=True) for each in readers))
        claims = (store.claim_writer(f"w{i}", now=LATER, fresh_for=60) for i, store in enumerate(stores))
        answers = await asyncio.gather(*claims, return_exceptions=True)
        assert sorted(answer for answer in answers if isinstance(answer, int)) == [2]
        assert all("is being written by" in str(answer) for answer in answers if not isinstance(answer, int))
        for each in [*readers, *stores]:  # those who opened it before, too
            assert [record.id for record in await each.executions(Filter())] == ["x"]

    run(body())


def test_a_file_that_became_newer_than_the_program_is_not_claimed(file: Path) -> None:
    async def body() -> None:
        store = new_file_store(file)
        await store.open()
        with closing(sqlite3.connect(file)) as db, db:
            db.execute("UPDATE meta SET value = 99 WHERE name = 'format'")
        with pytest.raises(StorageUnavailable, match="format 99 and was written by a newer rayflow"):
            await store.claim_writer("test", now=LATER, fresh_for=60)
        with closing(sqlite3.connect(file)) as db:
            assert db.execute("SELECT epoch FROM writer").fetchone() == (1,)

    run(body())


# --- objects ------------------------------------------------------------------------------------------------
def test_older_objects_are_read_and_stay_as_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def body() -> None:
        folder = tmp_path / "objects"
        written = ObjectStore(f"file://{folder}")
        written.checkpoint_segments = 2
        await written.open()
        await written.claim_writer("test", now=WRITTEN, fresh_for=60)
        await done(written, start(), claim())
        for number in range(1, 6):
            await done(written, append(first=number))
        content = await everything(written)
        await written.close()
        before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        older = segments.FORMAT
        assert {data[8] for path, data in before.items() if path.parent.name == "state"} == {older}
        monkeypatch.setattr(segments, "FORMAT", older + 1)
        store = ObjectStore(f"file://{folder}")
        await store.open()
        assert await everything(store) == content
        await store.claim_writer("next", now=LATER, fresh_for=60)
        await done(store, start("new"))
        assert {path: path.read_bytes() for path in before} == before
        claim_made, new = sorted(set((folder / "log").iterdir()) - before.keys())
        assert (claim_made.read_bytes()[8], new.read_bytes()[8]) == (1, older + 1)
        other = ObjectStore(f"file://{folder}")
        await other.open(read_only=True)
        assert await everything(other) == await everything(store)
        await other.close()
        await store.close()

    asyncio.run(body())


def test_a_row_of_an_older_format_has_defaults_for_newer_fields() -> None:
    changes = Changes(started=[start(trace="t", number=7).record])
    whole = segments.decode_segment("here", 1, segments.encode_segment(1, Writer(1, "w"), changes))
    assert whole.changes == changes
    assert whole.changes.started[0].number == 7
    values = [getattr(changes.started[0], name) for name in segments._ROW_FIELDS]
    older = segments._execution(values[: segments._ROW_FIELDS.index("trace")])
    assert (older.trace, older.number, older.id) == ("", 0, "x")


def test_an_older_program_refuses_newer_objects_and_learns_who_took_over(monkeypatch: pytest.MonkeyPatch) -> None:
    async def body() -> None:
        world = World()
        old = await opened(FaultyBucket(world), compact_after=1000)
        await done(old, start("before"))
        idle = new_store(FaultyBucket(world))
        await idle.open()
        with monkeypatch.context() as newer:
            newer.setattr(segments, "FORMAT", segments.FORMAT + 1)
            new = await opened(FaultyBucket(world), "newer", compact_after=1000)
            with pytest.raises(WriterFenced, match="taken over by 'newer'"):  # a claim can be read by all
                await done(old, start("late"))
            await done(new, start("after"))
        with pytest.raises(StorageUnavailable, match=r"reads formats up to \d: a newer rayflow wrote the store"):
            await idle.claim_writer("older", now=NOW, fresh_for=0, take_over=True)
        with pytest.raises(StorageUnavailable, match=r"reads formats up to \d: a newer rayflow wrote the store"):
            await new_store(FaultyBucket(world)).open()
        assert len(world.names("log")) == 4

    async def within() -> None:
        try:
            await body()
        finally:
            await close_all()

    asyncio.run(within())


def test_a_claim_keeps_the_first_format(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segments, "FORMAT", 7)
    writer = Writer(3, "w", 1.0)
    assert segments.encode_segment(1, writer, Changes())[8] == 1
    assert segments.encode_segment(1, writer, Changes(counts=[("n", 1.0)]))[8] == 7
    assert segments.encode_checkpoint(1, writer, [1], [])[8] == 7
