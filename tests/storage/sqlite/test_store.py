"""What is SQLite's own in writing: its errors, in a transaction and of the commit, and its indexes."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import aiosqlite
import pytest

from rayflow.errors import StorageUnavailable
from rayflow.storage.base import Filter
from rayflow.storage.model import StepNote
from rayflow.storage.operations import Done, Operation, Rejected
from rayflow.storage.query.where import parse_where
from rayflow.storage.sqlite.connections import on_thread
from rayflow.storage.sqlite.lists import listing
from rayflow.storage.sqlite.statements import letter_listing
from tests.contract.operations import NOW, append, claim, deliver, done, fail, letter, note, row, start
from tests.storage.faults import FaultyConnection
from tests.storage.sqlite.stores import fill, new_faulty_store, new_store, opened, run


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "store.db"


# --- errors of a transaction -------------------------------------------------------------------------------
def test_a_lock_of_another_process_is_told_and_passes(file: Path) -> None:
    async def body() -> None:
        store, _ = new_faulty_store(file)
        await opened(store)
        with closing(sqlite3.connect(file, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(StorageUnavailable, match=r"locked\. Remedy: another process holds the file"):
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
        with pytest.raises(StorageUnavailable, match=r"full\. Remedy: free some space"):
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
        assert [type(answer) for answer in answers] == [Done, Rejected, Rejected, Done, Rejected]
        texts = [str(answer.error) for answer in answers if isinstance(answer, Rejected)]
        assert "Start of execution 'b' cannot be written" in texts[0]
        assert "Start of execution 'c' cannot be written" in texts[1]
        assert "no execution 'b'" in texts[2]
        assert [found.id for found in await store.executions(Filter())] == ["a"]
        assert (await store.totals())["executions_started"] == 1
        await store.close()

    run(body())


def test_a_dead_letter_or_note_that_cannot_be_written_fails_its_operation_alone(file: Path) -> None:
    async def body() -> None:
        store = await opened(new_store(file))
        for name in ("a", "b", "c"):
            await done(store, start(name), claim(name))
        operations: list[Operation] = [
            append("a", dead_letters=(letter("a", worker="\udc80"),)),
            fail("b", 1),
            note("c", StepNote(2**70, 1, NOW, "progress", b"")),
        ]
        answers = await store.commit(operations)
        assert [type(answer) for answer in answers] == [Rejected, Done, Rejected]
        assert [found.execution_id for found in await store.dead_letters()] == ["b"]
        assert (await store.journal("a"), await store.notes("c")) == ([], [])
        await store.close()

    run(body())


# --- one way to the connection's thread ----------------------------------------------------------------------
def test_a_function_runs_on_the_connections_own_thread(file: Path) -> None:
    async def body() -> None:
        store = await opened(new_store(file))
        assert store._writer is not None

        def function(db: sqlite3.Connection, start: int, *, step: int) -> tuple[int, int]:
            [value] = db.execute("SELECT ? + ?", (start, step)).fetchone()  # raises on any other thread
            return value, threading.get_ident()

        value, thread = await on_thread(store._writer, function, 1, step=2)
        assert value == 3
        assert thread != threading.get_ident()
        with pytest.raises(sqlite3.OperationalError, match="syntax error"):
            await on_thread(store._writer, lambda db: db.execute("nonsense"))
        await store.close()

    run(body())


def test_a_commit_is_one_way_to_the_thread_and_back(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def body() -> None:
        store = await opened(new_store(file))
        ways = []

        async def counted(self: aiosqlite.Connection, *args: Any, **kwargs: Any) -> Any:
            ways.append(args)
            return await execute(self, *args, **kwargs)

        execute: Any = aiosqlite.Connection._execute
        monkeypatch.setattr(aiosqlite.Connection, "_execute", counted)
        await done(store, start(), claim(), append(counts={"steps": 1}), deliver())
        assert len(ways) == 1
        await store.commit([start("b", workflow_id="\udc80"), start("c")])
        assert len(ways) == 2
        monkeypatch.undo()
        await store.close()

    run(body())


@pytest.mark.parametrize("statement", ["BEGIN", "SELECT", "INSERT INTO starts"])
def test_a_rollback_that_fails_costs_the_connection_only(file: Path, statement: str) -> None:
    async def body() -> None:
        store, fault = new_faulty_store(file)
        await opened(store)
        connection = store._writer

        fault.on, fault.then = statement, "ROLLBACK"
        with pytest.raises(StorageUnavailable, match=r"cannot write store .*disk I/O error"):
            await store.commit([start()])
        await done(store, start())
        assert (store._writer is connection) == (statement == "BEGIN")
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
        assert [type(answer).__name__ for answer in again] == ["Done", "Done", "AlreadyExists" if durable else "Done"]
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
        (Filter(stuck=True), "executions_stuck"),
        (Filter(parent="p"), "executions_parent"),
        (Filter(schedule="s"), "executions_schedule"),
        (Filter(ids=("x", "y")), "executions_1 (id=?)"),
        *(
            (Filter(where=parse_where(where), after=(NOW, 7)), index)
            for where, index in (
                ("status = 'failed'", "COVERING INDEX executions_status (status=? AND created_at<?)"),
                ("workflow = 'w'", "COVERING INDEX executions_workflow (workflow_id=? AND created_at<?)"),
                ("started > 5 and started < 7", "COVERING INDEX executions_newest (created_at>? AND created_at<?)"),
                ("attr.x = 'a'", "a USING PRIMARY KEY (name=? AND type=? AND value=? AND created_at<?)"),
                ("attr.x > 5", "a USING PRIMARY KEY (name=? AND type=? AND value>?)"),
                ("attr.x = 'a' and status = 'failed'", "a USING PRIMARY KEY (name=? AND type=? AND value=?"),
                ("error_type = 'E'", "COVERING INDEX executions_error (error_type=? AND created_at<?)"),
                ("error contains 'part'", "COVERING INDEX executions_error"),
                ("waiting_for = 'signal go'", "COVERING INDEX executions_waiting"),
                ("parent = 'p'", "COVERING INDEX executions_parent (parent=? AND created_at<?)"),
                ("schedule = 's'", "COVERING INDEX executions_schedule (schedule=? AND created_at<?)"),
                ("singleton = 'k'", "COVERING INDEX executions_singleton (singleton=? AND created_at<?)"),
                ("forked_from = 'f'", "COVERING INDEX executions_fork (forked_from=? AND created_at<?)"),
                ("id = 'x'", "executions_1 (id=?)"),
            )
        ),
    ],
)
def test_every_list_has_its_index(file: Path, query: Filter, index: str) -> None:
    fill(file)
    statement, values = listing(query)
    with closing(sqlite3.connect(file)) as db:
        plan = " ".join(str(step[3]) for step in db.execute(f"EXPLAIN QUERY PLAN {statement}", values))
    assert index in plan


@pytest.mark.parametrize(
    ("execution", "workflow", "index"),
    [(None, None, "dead_letters_newest"), (None, "w", "dead_letters_workflow"), ("x", None, "(execution_id=?)")],
)
def test_every_list_of_dead_letters_has_its_index(
    file: Path, execution: str | None, workflow: str | None, index: str
) -> None:
    fill(file)
    statement, values = letter_listing(execution, workflow, None, 10)
    with closing(sqlite3.connect(file)) as db:
        plan = " ".join(str(step[3]) for step in db.execute(f"EXPLAIN QUERY PLAN {statement}", values))
    assert index in plan


def test_the_switch_of_faults_works() -> None:
    class Connection(FaultyConnection):
        on = "SELECT"
        then = "SELECT 2"

    with closing(sqlite3.connect(":memory:", factory=Connection)) as db:
        with pytest.raises(sqlite3.OperationalError):
            db.execute("SELECT 1")
        with pytest.raises(sqlite3.OperationalError):
            db.execute("SELECT 2")
        assert db.execute("SELECT 1").fetchone() == (1,)
