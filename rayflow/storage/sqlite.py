"""The Store contract on one SQLite file.

Two connections, each with a thread of its own (aiosqlite): one writes, one reads, so that in WAL mode no read
waits for a commit. ``synchronous=FULL``: a commit returns when the disk has it. A transaction that failed in any
other way than by what one operation holds leaves the writing connection in doubt; it is closed and opened again
before the next use, and what is durable is found there.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import urllib.parse
from collections.abc import AsyncIterator, Sequence
from dataclasses import astuple
from pathlib import Path
from typing import Any

import aiosqlite

from rayflow.errors import Fenced, StorageUnavailable
from rayflow.storage import _sqlite as sql
from rayflow.storage._sqlite_batch import apply, pipeline, unwritable
from rayflow.storage.base import (
    Answer,
    DefinitionRecord,
    ExecutionRecord,
    Filter,
    InboxRow,
    JournalRow,
    Operation,
    Refused,
)
from rayflow.storage.rules import Writer, check_writer, next_writer


class SqliteStore:
    """A store in one SQLite file.

    Args:
        url: ``sqlite:///`` and the path of the file.
    """

    #: What the connections are made of; a subclass may put in one that fails on demand.
    connection_class: type[sqlite3.Connection] = sqlite3.Connection
    #: Seconds that a transaction waits for a lock of another process.
    busy_timeout: float = 5.0

    def __init__(self, url: str) -> None:
        self.url = url
        self._path = Path(url.removeprefix("sqlite:///")).expanduser()
        self._lock = asyncio.Lock()
        self._open = False
        self._read_only = False
        self._writer: aiosqlite.Connection | None = None
        self._reader: aiosqlite.Connection | None = None
        self._in_doubt = False
        self._epoch: int | None = None
        self._fenced: Fenced | None = None

    # --- opening -------------------------------------------------------------------------------------------
    async def open(self, *, read_only: bool = False) -> None:
        """See Store. Creates the file and its folder, unless ``read_only``."""
        if self._open:
            return
        self._read_only = read_only
        try:
            if not read_only:
                await asyncio.to_thread(self._path.parent.mkdir, parents=True, exist_ok=True)
                self._writer = await self._connect("mode=rwc")
                await self._prepare(self._writer)
            self._reader = await self._connect_reader()
        except BaseException as error:
            await self._close_connections()
            if isinstance(error, (sqlite3.Error, OSError)):
                raise self._cannot_open(error) from error
            raise
        self._open = True

    async def _connect_reader(self) -> aiosqlite.Connection:
        # Not "mode=ro": a connection that may not write cannot read a WAL whose index is gone, and leaves its own
        # index behind. This one may tidy up, and refuses to change anything.
        db = await self._connect("mode=rw")
        try:
            await db.execute("PRAGMA query_only = ON")
            await self._check_format(db)
        except sqlite3.OperationalError:
            await db.close()
            if not self._read_only or await asyncio.to_thread(_has_log, self._path):
                raise
        except BaseException:
            await db.close()
            raise
        else:
            return db
        # A folder in which SQLite may create nothing, and no log of a writer: the file can only be read as it is.
        db = await self._connect("mode=ro&immutable=1")
        await self._check_format(db)
        return db

    async def _connect(self, options: str) -> aiosqlite.Connection:
        uri = f"file:{urllib.parse.quote(str(self._path.absolute()))}?{options}"
        connection = aiosqlite.connect(
            uri, uri=True, isolation_level=None, timeout=self.busy_timeout, factory=self.connection_class
        )
        # A store that nobody closed must not keep its process from ending; what was acknowledged is on the disk.
        # (aiosqlite before 0.22: the connection is the thread.)
        thread: Any = getattr(connection, "_thread", connection)
        thread.daemon = True
        try:
            return await connection
        except BaseException:
            # aiosqlite tells its thread to stop and does not wait; it would report to a loop that may be closed.
            await asyncio.to_thread(thread.join)
            raise

    async def _write_ahead(self, db: aiosqlite.Connection) -> str:
        """Switch the file to a write-ahead log; answers what SQLite chose.

        SQLite does not wait for its busy timeout here when two connections switch a new file at the same moment.
        """
        loop = asyncio.get_running_loop()
        give_up = loop.time() + self.busy_timeout
        while True:
            try:
                [(mode,)] = await db.execute_fetchall("PRAGMA journal_mode = WAL")
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or loop.time() > give_up:
                    raise
                await asyncio.sleep(0.01)
            else:
                return str(mode)

    async def _prepare(self, db: aiosqlite.Connection) -> None:
        # The format first: a file of somebody else must not even be switched to WAL.
        fresh = await self._check_format(db, may_be_empty=True)
        mode = await self._write_ahead(db)
        if mode != "wal":
            raise StorageUnavailable(
                f"cannot open store {self._path}: its file system allows no write-ahead log (SQLite chose {mode!r}). "
                "Network file systems do not; put the file on a local disk"
            )
        await db.execute("PRAGMA synchronous = FULL")
        if not fresh:
            return
        await db.execute("BEGIN IMMEDIATE")
        if await self._check_format(db, may_be_empty=True):  # another process may have been faster
            for statement in sql.SCHEMA:
                await db.execute(statement)
        await db.commit()

    async def _check_format(self, db: aiosqlite.Connection, *, may_be_empty: bool = False) -> bool:
        """Check that the file is a store of ours; answers whether it is empty. Raises StorageUnavailable."""
        tables = {name for (name,) in await db.execute_fetchall("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if not tables and may_be_empty:
            return True
        rows = []
        if {"meta", "executions"} <= tables:
            rows = list(await db.execute_fetchall("SELECT value FROM meta WHERE name = 'format'"))
        if not rows:
            what = "another program's SQLite database" if tables else "empty, no store was made in it yet"
            raise StorageUnavailable(f"cannot open store {self._path}: the file is {what}. Name another file")
        if rows[0][0] > sql.FORMAT:
            raise StorageUnavailable(
                f"cannot open store {self._path}: it has format {rows[0][0]} and was written by a newer rayflow; this "
                f"one knows formats up to {sql.FORMAT}. Install that newer version, or name another file"
            )
        return False

    def _cannot_open(self, error: Exception) -> StorageUnavailable:
        if self._read_only and not self._path.exists():
            return StorageUnavailable(
                f"cannot open store {self._path}: there is no such file, and reading creates none"
            )
        return sql.unavailable(error, str(self._path), "open")

    async def close(self) -> None:
        """See Store."""
        async with self._lock:
            if self._open and self._epoch is not None and self._fenced is None and not self._in_doubt:
                await self._say_goodbye(self._epoch)
            self._open = False
            self._epoch = None
            await self._close_connections()

    async def _say_goodbye(self, epoch: int) -> None:
        if self._writer is None:
            return
        try:
            await self._writer.execute("UPDATE writer SET heartbeat = NULL WHERE epoch = ?", (epoch,))
        except sqlite3.Error:  # it only spares the next writer a wait for the heartbeat to grow old
            self._in_doubt = True

    async def _close_connections(self) -> None:
        reader, self._reader = self._reader, None
        writer, self._writer = self._writer, None
        for connection in (reader, writer):
            if connection is not None:
                await connection.close()

    # --- the writer ----------------------------------------------------------------------------------------
    async def claim_writer(self, nonce: str, *, now: float, fresh_for: float, take_over: bool = False) -> int:
        """See Store."""
        async with self._transaction(claimed=False) as (db, writer):
            claimed = next_writer(writer, nonce, now=now, fresh_for=fresh_for, take_over=take_over, url=self.url)
            await db.execute(sql.SET_WRITER, (claimed.epoch, claimed.nonce, claimed.heartbeat))
        self._epoch = claimed.epoch
        return claimed.epoch

    async def heartbeat(self, *, now: float) -> None:
        """See Store."""
        async with self._transaction() as (db, writer):
            await db.execute(sql.SET_WRITER, (writer.epoch, writer.nonce, now))

    @contextlib.asynccontextmanager
    async def _transaction(self, *, claimed: bool = True) -> AsyncIterator[tuple[aiosqlite.Connection, Writer]]:
        """A transaction of the writer, with the writer's row as it stands in it."""
        async with self._lock:
            db = await self._writable(claimed=claimed)
            try:
                _, rows = await pipeline(db.execute("BEGIN IMMEDIATE"), db.execute_fetchall(sql.WRITER))
                writer = Writer(*rows[0])
                if self._epoch is not None:
                    check_writer(writer, self._epoch, self.url)
                yield db, writer
            except BaseException as error:
                await self._undo(db, error)
                if isinstance(error, sqlite3.Error):
                    raise sql.unavailable(error, str(self._path), "write") from error
                raise
            try:
                await db.execute("COMMIT")
            except BaseException as error:
                # Durable or not, nobody knows: the connection goes, and whoever asks again is told what is there.
                self._in_doubt = True
                if isinstance(error, sqlite3.Error):
                    raise sql.unavailable(error, str(self._path), "commit to") from error
                raise

    async def _writable(self, *, claimed: bool) -> aiosqlite.Connection:
        if not self._open:
            raise StorageUnavailable(f"store {self.url} is not open; call open() first")
        if self._read_only:
            raise StorageUnavailable(f"store {self.url} was opened read-only; open it without read_only to write")
        if self._fenced is not None:
            raise self._fenced
        if claimed and self._epoch is None:
            raise StorageUnavailable(f"store {self.url} was not claimed for writing; call claim_writer() first")
        if self._in_doubt or self._writer is None:
            self._writer = await self._reconnect()
            self._in_doubt = False
        return self._writer

    async def _reconnect(self) -> aiosqlite.Connection:
        old, self._writer = self._writer, None
        try:
            if old is not None:
                # Closing alone is not enough: a statement that was cut off keeps its transaction, and the lock.
                with contextlib.suppress(sqlite3.Error):  # most often there is nothing to take back
                    await old.execute("ROLLBACK")
                await old.close()
            db = await self._connect("mode=rw")
            await db.execute("PRAGMA synchronous = FULL")
        except sqlite3.Error as error:
            raise sql.unavailable(error, str(self._path), "reopen") from error
        return db

    async def _undo(self, db: aiosqlite.Connection, error: BaseException) -> None:
        if isinstance(error, Fenced):
            self._fenced = error
        if not isinstance(error, Exception):  # cancelled: a statement may still be running
            self._in_doubt = True
            return
        try:
            if db.in_transaction:
                await db.execute("ROLLBACK")
        except sqlite3.Error:  # SQLite took it back already, or cannot: either way, a new connection will tell
            self._in_doubt = True

    # --- executions ----------------------------------------------------------------------------------------
    async def commit(self, operations: Sequence[Operation]) -> list[Answer]:
        """See Store."""
        async with self._transaction() as (db, _):
            try:
                return await apply(db, operations)
            except sql.MEMBER_ERRORS:
                await db.execute("ROLLBACK")
                await db.execute("BEGIN IMMEDIATE")
                return await self._one_by_one(db, operations)

    async def _one_by_one(self, db: aiosqlite.Connection, operations: Sequence[Operation]) -> list[Answer]:
        [row] = await db.execute_fetchall(sql.WRITER)  # somebody may have claimed since the first attempt
        check_writer(Writer(*row), self._epoch or 0, self.url)
        answers: list[Answer] = []
        for operation in operations:
            await db.execute("SAVEPOINT member")
            try:
                answers += await apply(db, [operation])
            except sql.MEMBER_ERRORS as error:
                await db.execute("ROLLBACK TO member")
                answers.append(Refused(unwritable(operation, error)))
            await db.execute("RELEASE member")
        return answers

    async def execution(self, execution_id: str) -> ExecutionRecord | None:
        """See Store."""
        rows = await self._read(sql.EXECUTION, (execution_id,))
        return sql.record(rows[0]) if rows else None

    async def executions(self, query: Filter) -> list[ExecutionRecord]:
        """See Store."""
        statement, values = sql.listing(query)
        return [sql.record(row) for row in await self._read(statement, values)]

    async def journal(self, execution_id: str, *, after: int = 0) -> list[JournalRow]:
        """See Store."""
        return [JournalRow(*row) for row in await self._read(sql.JOURNAL, (execution_id, after))]

    async def inbox(self, execution_id: str, *, after: int = 0) -> list[InboxRow]:
        """See Store."""
        return [InboxRow(*row) for row in await self._read(sql.INBOX, (execution_id, after))]

    async def delete_executions(self, ids: Sequence[str]) -> int:
        """See Store."""
        async with self._transaction() as (db, _):
            over = sql.as_json(name for (name,) in await db.execute_fetchall(sql.OVER, (sql.as_json(ids),)))
            deleted = 0
            for statement in sql.DELETES:
                deleted = (await db.execute(statement, (over,))).rowcount  # the executions are the last
        return deleted

    async def _read(self, statement: str, values: Sequence[Any] = ()) -> list[Any]:
        if self._reader is None:
            raise StorageUnavailable(f"store {self.url} is not open; call open() first")
        try:
            return list(await self._reader.execute_fetchall(statement, values))
        except (sqlite3.Error, ValueError) as error:  # ValueError: closed meanwhile
            raise sql.unavailable(error, str(self._path), "read") from error

    # --- the rest ------------------------------------------------------------------------------------------
    async def save_definition(self, record: DefinitionRecord) -> None:
        """See Store."""
        async with self._transaction() as (db, _):
            await db.execute(sql.SAVE_DEFINITION, astuple(record))

    async def definition(self, workflow_id: str, version: str | None = None) -> DefinitionRecord | None:
        """See Store."""
        rows = await self._read(sql.DEFINITION, (workflow_id, version))
        return DefinitionRecord(*rows[0]) if rows else None

    async def definitions(self) -> list[DefinitionRecord]:
        """See Store."""
        return [DefinitionRecord(*row) for row in await self._read(sql.DEFINITIONS)]

    async def delete_definition(self, workflow_id: str) -> bool:
        """See Store."""
        async with self._transaction() as (db, _):
            return (await db.execute(sql.DELETE_DEFINITION, (workflow_id,))).rowcount > 0

    async def put_blob(self, digest: str, data: bytes) -> None:
        """See Store."""
        async with self._transaction() as (db, _):
            await db.execute(sql.PUT_BLOB, (digest, data))

    async def blob(self, digest: str) -> bytes | None:
        """See Store."""
        rows = await self._read(sql.BLOB, (digest,))
        return rows[0][0] if rows else None

    async def totals(self) -> dict[str, float]:
        """See Store."""
        return dict(await self._read(sql.TOTALS))


def _has_log(path: Path) -> bool:
    return path.with_name(f"{path.name}-wal").exists()
