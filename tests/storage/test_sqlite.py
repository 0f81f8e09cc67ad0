"""What is SQLite's own: the file, its errors, and what another process may do meanwhile."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import Coroutine, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import pytest

from rayflow.errors import StorageUnavailable
from rayflow.storage._sqlite import listing
from rayflow.storage.base import Done, Filter, Operation, Refused
from rayflow.storage.sqlite import SqliteStore
from tests.contract.operations import NOW, append, claim, deliver, done, row, start
from tests.storage.faults import FaultyConnection, faulty_store

T = TypeVar("T")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "store.db"


def url_of(file: Path) -> str:
    return f"sqlite:///{file}"


_made: list[SqliteStore] = []


def new_store(file: Path) -> SqliteStore:
    _made.append(SqliteStore(url_of(file)))
    return _made[-1]


def new_faulty_store(file: Path) -> tuple[SqliteStore, type[FaultyConnection]]:
    store, fault = faulty_store(url_of(file))
    _made.append(store)
    return store, fault


def run(body: Coroutine[Any, Any, T]) -> T:
    """Run it, and close what it made, also when it fails."""

    async def within() -> T:
        try:
            return await body
        finally:
            while _made:
                await _made.pop().close()

    return asyncio.run(within())


async def opened(store: SqliteStore) -> SqliteStore:
    await store.open()
    await store.claim_writer("test", now=NOW, fresh_for=0)
    return store


def fill(file: Path, *, rows: int = 1) -> None:
    async def body() -> None:
        store = await opened(new_store(file))
        await done(store, start(), claim(), append(bodies=[b"x" * 1000] * rows))
        await store.close()

    run(body())


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
        assert "format 99 and was written by a newer rayflow; this one knows formats up to 1" in said
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
    assert "not a database. What helps: the file was overwritten" in run(open_error(file))
    assert file.read_bytes() == before


def test_a_truncated_file_is_refused(file: Path) -> None:
    fill(file, rows=200)
    os.truncate(file, file.stat().st_size // 2)
    assert "malformed. What helps: the file is damaged; restore a backup" in run(open_error(file))


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


# --- reading beside a writer ------------------------------------------------------------------------------
def test_reading_only_creates_nothing(file: Path) -> None:
    assert "there is no such file, and reading creates none" in run(open_error(file, read_only=True))
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


# --- errors of a transaction -------------------------------------------------------------------------------
def test_a_lock_of_another_process_is_told_and_passes(file: Path) -> None:
    async def body() -> None:
        store, _ = new_faulty_store(file)
        await opened(store)
        with closing(sqlite3.connect(file, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(StorageUnavailable, match=r"locked\. What helps: another process holds the file"):
                await store.commit([start()])
        await done(store, start())
        await store.close()

    run(body())


def test_a_full_disk_is_told_and_passes(file: Path) -> None:
    async def body() -> None:
        store = await opened(new_store(file))
        await done(store, start(), claim(), append())
        big = append(first=2, bodies=[b"x" * 100_000])
        assert store._writer is not None
        await store._writer.execute("PRAGMA max_page_count = 30")  # the disk is "full"
        with pytest.raises(StorageUnavailable, match=r"full\. What helps: free some space"):
            await store.commit([big, deliver()])
        assert ((await row(store)).last_seq, await store.inbox("x")) == (1, [])
        await done(store, append(first=2))  # a small one still fits
        await store._writer.execute("PRAGMA max_page_count = 1000000")
        await done(store, append(first=3, bodies=[b"x" * 100_000]), deliver())
        await store.close()

    run(body())


@pytest.mark.parametrize("statement", ["BEGIN", "SELECT", "UPDATE executions", "INSERT INTO journal"])
def test_an_error_in_the_transaction_changes_nothing(file: Path, statement: str) -> None:
    async def body() -> None:
        store, fault = new_faulty_store(file)
        await opened(store)
        await done(store, start(), claim())
        before = await row(store)
        fault.on = statement
        with pytest.raises(StorageUnavailable, match="disk I/O error"):
            await store.commit([append(), deliver()])
        assert await row(store) == before
        await done(store, append(), deliver())
        assert [r.seq for r in await store.journal("x")] == [1]
        await store.close()

    run(body())


def test_a_bad_member_fails_alone_by_its_own_error(file: Path) -> None:
    async def body() -> None:
        store = await opened(new_store(file))
        operations: list[Operation] = [
            start("a"),
            start("b", workflow_id="\udc80"),
            start("c", priority=2**70),
            claim("a"),
            claim("b"),
        ]
        answers = await store.commit(operations)
        assert [type(answer) for answer in answers] == [Done, Refused, Refused, Done, Refused]
        texts = [str(answer.error) for answer in answers if isinstance(answer, Refused)]
        assert "Start of execution 'b' cannot be written" in texts[0]
        assert "Start of execution 'c' cannot be written" in texts[1]
        assert "no execution 'b'" in texts[2]
        assert [found.id for found in await store.executions(Filter())] == ["a"]
        assert (await store.totals())["executions_started"] == 1
        await store.close()

    run(body())


# --- errors of the commit itself -----------------------------------------------------------------------------
@pytest.mark.parametrize("durable", [False, True])
def test_after_an_error_of_commit_nobody_is_answered_and_the_truth_is_read_back(file: Path, *, durable: bool) -> None:
    async def body() -> None:
        store, fault = new_faulty_store(file)
        await opened(store)
        await done(store, start(), claim())
        operations: list[Operation] = [append(counts={"steps": 1}), deliver(), start("y")]
        connection = store._writer
        fault.on, fault.after = "COMMIT", durable
        with pytest.raises(StorageUnavailable, match=r"cannot commit to store .*disk I/O error"):
            await store.commit(operations)
        assert (await row(store)).last_seq == (1 if durable else 0)
        again = await store.commit(operations)
        assert [type(answer).__name__ for answer in again] == ["Done", "Done", "Existing" if durable else "Done"]
        assert store._writer is not connection
        assert [r.seq for r in await store.journal("x")] == [1]
        assert [r.number for r in await store.inbox("x")] == [1]
        assert await store.totals() == {"executions_started": 2, "steps": 1}
        await store.close()

    run(body())


def test_a_connection_that_cannot_be_reopened_is_tried_again(file: Path) -> None:
    async def body() -> None:
        store, fault = new_faulty_store(file)
        await opened(store)
        fault.on = "COMMIT"
        with pytest.raises(StorageUnavailable):
            await store.commit([start()])
        fault.on = "PRAGMA synchronous"
        with pytest.raises(StorageUnavailable, match="cannot reopen store"):
            await store.commit([start()])
        await done(store, start())
        await store.close()

    run(body())


def test_a_cancelled_commit_leaves_a_store_that_goes_on(file: Path) -> None:
    async def body() -> None:
        store = await opened(new_store(file))
        for turns in range(12):  # cancelled at each of its waits, and after the last
            name = f"x{turns}"
            task = asyncio.ensure_future(store.commit([start(name), claim(name)]))
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task])
            answers = await store.commit([start(name), claim(name)])
            assert isinstance(answers[1], Done)
            assert (await row(store, name)).epoch == 1
        await store.close()

    run(body())


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


def test_the_heartbeat_of_a_broken_store_is_no_reason_not_to_close(file: Path) -> None:
    async def body() -> None:
        store, fault = new_faulty_store(file)
        await opened(store)
        fault.on = "UPDATE writer"
        await store.close()
        other = new_store(file)
        await other.open()
        with pytest.raises(StorageUnavailable, match="written by 'test'"):
            await other.claim_writer("other", now=NOW, fresh_for=1)
        await other.close()

    run(body())


# --- plans --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("query", "index"),
    [
        (Filter(), "executions_newest"),
        (Filter(workflow_id="w"), "executions_workflow"),
        (Filter(runnable_before=NOW), "executions_runnable"),
        (Filter(unread_inbox=True), "executions_unread"),
    ],
)
def test_every_list_has_its_index(file: Path, query: Filter, index: str) -> None:
    fill(file)
    statement, values = listing(query)
    with closing(sqlite3.connect(file)) as db:
        plan = " ".join(str(step[3]) for step in db.execute(f"EXPLAIN QUERY PLAN {statement}", values))
    assert index in plan


def test_the_switch_of_faults_works() -> None:
    class Connection(FaultyConnection):
        on = "SELECT"

    with closing(sqlite3.connect(":memory:", factory=Connection)) as db:
        with pytest.raises(sqlite3.OperationalError):
            db.execute("SELECT 1")
        assert db.execute("SELECT 1").fetchone() == (1,)
