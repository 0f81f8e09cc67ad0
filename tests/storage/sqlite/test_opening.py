"""Opening a SQLite file: ours, somebody else's, damaged, read-only, and beside a writer."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from rayflow.errors import StorageUnavailable
from rayflow.storage.base import Filter
from rayflow.storage.sqlite.migrations import newest_format
from tests.contract.operations import NOW, claim, done, row, start
from tests.storage.sqlite.stores import fill, new_faulty_store, new_store, opened, run


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "store.db"


async def open_error(file: Path, *, read_only: bool = False) -> str:
    store = new_store(file)
    with pytest.raises(StorageUnavailable) as caught:
        await store.open(read_only=read_only)
    await store.close()
    return str(caught.value)


# --- opening ----------------------------------------------------------------------------------------------
def test_opening_makes_the_folder_and_uses_wal_with_full_sync(tmp_path: Path) -> None:
    file = tmp_path / "a folder" / "ä?%20.db"

    async def body() -> None:
        store = await opened(new_store(file))
        assert store._writer is not None
        assert list(await store._writer.execute_fetchall("PRAGMA journal_mode")) == [("wal",)]
        assert list(await store._writer.execute_fetchall("PRAGMA synchronous")) == [(2,)]
        await store.open()  # again changes nothing
        await done(store, start())
        await store.close()

    run(body())
    assert [f.name for f in file.parent.iterdir()] == [file.name]


def test_a_newer_format_is_refused_and_left_alone(file: Path) -> None:
    fill(file)
    with closing(sqlite3.connect(file)) as db, db:
        db.execute("UPDATE meta SET value = 99 WHERE name = 'format'")
    before = file.read_bytes()
    for read_only in (False, True):
        said = run(open_error(file, read_only=read_only))
        assert f"format 99 and was written by a newer rayflow; this one knows formats up to {newest_format()}" in said
    assert file.read_bytes() == before


def test_another_programs_database_is_refused_and_left_alone(file: Path) -> None:
    with closing(sqlite3.connect(file)) as db, db:
        db.execute("CREATE TABLE executions (id)")
    before = file.read_bytes()
    assert "another program's SQLite database" in run(open_error(file))
    assert file.read_bytes() == before


def test_a_file_that_is_no_database_is_refused_and_left_alone(file: Path) -> None:
    file.write_bytes(b"this is a text, and a long one at that" * 100)
    before = file.read_bytes()
    assert "not a database. Remedy: the file was overwritten" in run(open_error(file))
    assert file.read_bytes() == before


def test_a_truncated_file_is_refused(file: Path) -> None:
    fill(file, rows=200)
    os.truncate(file, file.stat().st_size // 2)
    assert "malformed. Remedy: the file is damaged or was cut off" in run(open_error(file))


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert "cannot open store" in run(open_error(tmp_path / "file" / "store.db"))


@contextmanager
def as_nobody() -> Iterator[Path]:
    """A folder that this process may read but not write, for root too."""
    with TemporaryDirectory(dir="/var/tmp") as name:  # pytest's own folders are closed to other users
        folder = Path(name)
        folder.chmod(0o755)
        root = os.geteuid() == 0
        try:
            yield folder
        finally:
            if root:
                os.seteuid(0)
            folder.chmod(0o755)


def drop_rights(folder: Path) -> None:
    folder.chmod(0o555)
    if os.geteuid() == 0:
        os.seteuid(65534)


def test_a_folder_without_write_permission_is_told_and_still_read() -> None:
    with as_nobody() as folder:
        file = folder / "store.db"
        fill(file)
        file.chmod(0o444)
        drop_rights(folder)
        said = run(open_error(file))
        assert "readonly" in said or "unable to open" in said
        assert "writable for this user" in said
        assert "unable to open" in run(open_error(folder / "new.db"))

        async def read() -> None:
            store = new_store(file)
            await store.open(read_only=True)
            assert (await row(store)).last_seq == 1
            await store.close()

        run(read())
        assert [f.name for f in folder.iterdir()] == ["store.db"]


def test_a_store_that_fails_to_open_can_be_opened_later(file: Path) -> None:
    async def body() -> None:
        store, fault = new_faulty_store(file)
        fault.on = "CREATE TABLE journal"
        with pytest.raises(StorageUnavailable, match="disk I/O error"):
            await store.open()
        await opened(store)
        await done(store, start())
        await store.close()

    run(body())


def test_two_processes_that_create_one_store_agree(file: Path) -> None:
    async def body() -> None:
        stores = [new_store(file) for _ in range(4)]
        await asyncio.gather(*(store.open() for store in stores))
        await stores[0].claim_writer("test", now=NOW, fresh_for=0)
        await done(stores[0], start())
        for store in stores:
            assert (await row(store)).id == "x"
            await store.close()

    run(body())


# --- reading beside a writer ------------------------------------------------------------------------------
def test_reading_only_creates_nothing(file: Path) -> None:
    assert "the file does not exist, and reading does not create it" in run(open_error(file, read_only=True))
    assert list(file.parent.iterdir()) == []
    file.touch()
    assert "no store was made in it yet" in run(open_error(file, read_only=True))
    assert file.stat().st_size == 0


def test_reading_only_leaves_no_files_behind(file: Path) -> None:
    fill(file)

    async def body() -> None:
        store = new_store(file)
        await store.open(read_only=True)
        assert len(await store.executions(Filter())) == 1
        await store.close()

    before = file.read_bytes()
    run(body())
    assert [f.name for f in file.parent.iterdir()] == [file.name]
    assert file.read_bytes() == before


def test_reads_do_not_wait_for_a_transaction(file: Path) -> None:
    async def body() -> None:
        store = await opened(new_store(file))
        reader = new_store(file)
        await reader.open(read_only=True)
        await done(store, start())
        with closing(sqlite3.connect(file, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            other.execute("UPDATE executions SET priority = 9")
            for each in (store, reader):
                assert (await row(each)).priority == 5
            other.execute("COMMIT")
        for each in (store, reader):
            assert (await row(each)).priority == 9
        await reader.close()
        await done(store, claim())
        await store.close()

    run(body())
    assert [f.name for f in file.parent.iterdir()] == [file.name]
