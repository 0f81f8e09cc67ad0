"""SQLite implementation of the ``Store`` contract: one file.

Two connections, each with its own thread (aiosqlite): one writes, one reads, so that in WAL mode no read waits for a
commit. A transaction is one function that runs on the writing connection's thread. With ``synchronous=FULL`` a commit
returns when the data are on the disk. If a transaction fails because of the content of one operation, it is rolled back
and the connection stays in use. After any other failure the outcome is in doubt: the connection is closed, opened again
before the next use, and reads the durable state.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import astuple
from pathlib import Path
from typing import Any, TypeVar

import aiosqlite

from rayflow.core.locks.machine import Lock
from rayflow.errors import CorruptRecord, StorageUnavailable, WriterFenced
from rayflow.storage.base import Filter
from rayflow.storage.model import (
    DeadLetter,
    DefinitionRecord,
    ExecutionRecord,
    InboxRow,
    JournalRow,
    KeyedRecord,
    PoolRecord,
    ScheduleRecord,
    StepNote,
)
from rayflow.storage.operations import Answer, Operation
from rayflow.storage.rules.retention import PurgeBatch, PurgeFilter
from rayflow.storage.sqlite import large_values as values
from rayflow.storage.sqlite import rows
from rayflow.storage.sqlite import statements as sql
from rayflow.storage.sqlite.connections import SqliteFile, on_thread
from rayflow.storage.sqlite.lists import listing
from rayflow.storage.sqlite.migrations import migrate, newest_format
from rayflow.storage.sqlite.transactions import InDoubtError, collect, commit, purgeable, reclaim, transaction
from rayflow.storage.writer import Writer, check_writer, next_writer

log = logging.getLogger(__name__)
T = TypeVar("T")


class SqliteStore:
    """Store in one SQLite file.

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
        self._values = asyncio.Lock()
        self._open = False
        self._read_only = False
        self._writer: aiosqlite.Connection | None = None
        self._reader: aiosqlite.Connection | None = None
        self._in_doubt = False
        #: Of the file, as the reader finds it.
        self._format = newest_format()
        self._epoch: int | None = None
        self._fenced: WriterFenced | None = None
        self._told: set[object] = set()

    async def open(self, *, read_only: bool = False) -> None:
        """See Store. Creates the file and its folder, unless ``read_only``."""
        if self._open:
            return
        self._read_only = read_only
        file = self._file()
        try:
            if not read_only:
                self._writer = await file.creator()
            self._reader, self._format = await file.reader(may_create=not read_only)
        except BaseException as error:
            await self._close_connections()
            if isinstance(error, (sqlite3.Error, OSError, UnicodeDecodeError)):  # the last of a damaged schema
                raise self._cannot_open(error) from error
            raise
        self._open = True

    def _file(self) -> SqliteFile:
        return SqliteFile(self._path, self.connection_class, self.busy_timeout)

    def _cannot_open(self, error: Exception) -> StorageUnavailable:
        if self._read_only and not self._path.exists():
            return StorageUnavailable(
                f"cannot open store {self._path}: the file does not exist, and reading does not create it"
            )
        return sql.unavailable(error, str(self._path), "open")

    async def close(self) -> None:
        """See Store."""
        async with self._lock:
            if self._open and self._epoch is not None and self._fenced is None and not self._in_doubt:
                await self._give_up_claim(self._epoch)
            self._open = False
            self._epoch = None
            await self._close_connections()

    async def _give_up_claim(self, epoch: int) -> None:
        if self._writer is None:
            return
        try:
            await self._writer.execute("UPDATE writer SET heartbeat = NULL WHERE epoch = ?", (epoch,))
        except sqlite3.Error:  # it only saves the next writer a wait
            self._in_doubt = True

    async def _close_connections(self) -> None:
        reader, self._reader = self._reader, None
        writer, self._writer = self._writer, None
        for connection in (reader, writer):
            if connection is not None:
                await connection.close()

    async def claim_writer(self, nonce: str, *, now: float, fresh_for: float, take_over: bool = False) -> int:
        """See Store. The claim also migrates a file of an older format, since no other process writes it then."""

        def claim(db: sqlite3.Connection, writer: Writer) -> int:
            claimed = next_writer(writer, nonce, now=now, fresh_for=fresh_for, take_over=take_over, url=self.url)
            migrate(db, str(self._path))
            db.execute(sql.SET_WRITER, (claimed.epoch, claimed.nonce, claimed.heartbeat))
            return claimed.epoch

        epoch = await self._write(claim, claimed=False)
        if self._format != newest_format():
            await self._reopen_reader()
        self._epoch = epoch
        return epoch

    async def _reopen_reader(self) -> None:
        """Open the reading connection again after the file's format has changed."""
        old, self._reader = self._reader, None
        try:
            if old is not None:
                await old.close()
            self._reader, self._format = await self._file().reader(may_create=True)
        except sqlite3.Error as error:
            raise sql.unavailable(error, str(self._path), "reopen") from error

    async def heartbeat(self, *, now: float) -> None:
        """See Store."""
        await self._write(lambda db, writer: db.execute(sql.SET_WRITER, (writer.epoch, writer.nonce, now)))

    async def _write(self, body: Callable[[sqlite3.Connection, Writer], T], *, claimed: bool = True) -> T:
        """Run ``body`` in a transaction of the writer, in one hop to the connection's thread."""
        async with self._lock:
            db = await self._writable(claimed=claimed)
            try:
                return await on_thread(db, transaction, self._check, body)
            except InDoubtError as doubt:
                # The outcome is unknown: the connection is closed, and a repeated operation finds the durable state.
                self._in_doubt = True
                raise self._meaning(doubt.error, doubt.doing) from doubt.error
            except Exception as error:
                told = self._meaning(error, "write")
                if told is error:
                    raise
                raise told from error
            except BaseException:  # cancelled: the transaction may still run
                self._in_doubt = True
                raise

    def _check(self, writer: Writer) -> None:
        if self._epoch is not None:
            check_writer(writer, self._epoch, self.url)

    def _meaning(self, error: BaseException, doing: str) -> BaseException:
        """Return the caller's error for an error in a transaction."""
        if isinstance(error, WriterFenced):
            self._fenced = error
        return sql.unavailable(error, str(self._path), doing) if isinstance(error, sqlite3.Error) else error

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
            return await self._file().writer()
        except sqlite3.Error as error:
            raise sql.unavailable(error, str(self._path), "reopen") from error

    async def commit(self, operations: Sequence[Operation]) -> list[Answer]:
        """See Store."""
        return await self._write(lambda db, _: commit(db, operations, self._check))

    async def execution(self, execution_id: str) -> ExecutionRecord | None:
        """See Store."""
        found = await self._read_of(execution_id, "row", sql.EXECUTION, execution_id)
        return rows.record(found[0]) if found else None

    async def executions(self, query: Filter) -> list[ExecutionRecord]:
        """See Store."""
        statement, given = listing(query)
        return [rows.record(row) for row in await self._read(statement, given)]

    async def journal(self, execution_id: str, *, after: int = 0) -> list[JournalRow]:
        """See Store."""
        return [
            JournalRow(*row) for row in await self._read_of(execution_id, "journal", sql.JOURNAL, execution_id, after)
        ]

    async def inbox(self, execution_id: str, *, after: int = 0) -> list[InboxRow]:
        """See Store."""
        return [InboxRow(*row) for row in await self._read_of(execution_id, "inbox", sql.INBOX, execution_id, after)]

    async def locks(self, names: Sequence[str] | None = None) -> list[Lock]:
        """See Store."""
        if names is not None:
            return [lock for name in sorted(names) for lock in await self._lock_of(name)]
        found: list[Lock] = []
        for (name,) in await self._read(sql.CLAIMED):
            try:
                found += await self._lock_of(name)
            except CorruptRecord as error:  # the other locks are still listed
                if name not in self._told:
                    self._told.add(name)
                    log.error("store %s: %s", self.url, error)  # noqa: TRY400 - it says it all
        return found

    async def _lock_of(self, name: str) -> list[Lock]:
        claims = await self._read(sql.CLAIMS, (name,))
        return [rows.lock(row, claims) for row in await self._read(sql.LOCK, (name,))]

    async def save_schedule(self, record: ScheduleRecord) -> None:
        """See Store."""
        await self._write(lambda db, _: db.execute(sql.SAVE_SCHEDULE, astuple(record)))

    async def schedules(self) -> list[ScheduleRecord]:
        """See Store."""
        return [rows.kept(ScheduleRecord, row) for row in await self._read(sql.SCHEDULES)]

    async def delete_schedule(self, name: str) -> bool:
        """See Store."""
        return await self._write(lambda db, _: db.execute(sql.DELETE_SCHEDULE, (name,)).rowcount > 0)

    async def records(
        self, kind: str, *, execution_id: str | None = None, after: str = "", limit: int = 1000
    ) -> list[KeyedRecord]:
        """See Store."""
        statement, given = sql.record_listing(kind, execution_id, after, limit)
        return [rows.kept(KeyedRecord, row) for row in await self._read(statement, given)]

    async def versions(self) -> list[tuple[str, str, int]]:
        """See Store."""
        return [tuple(row) for row in await self._read(sql.VERSIONS)]

    async def notes(self, execution_id: str) -> list[StepNote]:
        """See Store."""
        return [rows.kept(StepNote, row) for row in await self._read_of(execution_id, "notes", sql.NOTES, execution_id)]

    async def collect(self, over: PurgeFilter, *, dry_run: bool = False) -> PurgeBatch:
        """See Store."""
        if not dry_run:
            async with self._lock:
                await self._writable(claimed=True)
        found = await self._on_reader(lambda db: purgeable(db, over, later=dry_run))
        if dry_run or not found.ids:  # the common case, which needs no transaction
            return found
        return await self._write(lambda db, _: collect(db, over))

    async def reclaim(self) -> bool:
        """See Store. The file gets shorter with SQLite's next checkpoint, which is made at the end."""
        more = await self._write(lambda db, _: reclaim(db))
        if not more:
            async with self._lock:
                db = await self._writable(claimed=True)
                with contextlib.suppress(sqlite3.Error):  # SQLite does it again after some transactions
                    await db.execute_fetchall("PRAGMA wal_checkpoint(PASSIVE)")
        return more

    async def _read_of(self, execution_id: str, what: str, statement: str, *values: Any) -> list[Any]:
        """Read records of one execution. If the file is damaged there, only that execution is damaged."""
        try:
            return await self._read(statement, values)
        except StorageUnavailable as error:
            if error.__cause__ is not None and rows.is_malformed(error.__cause__):
                raise CorruptRecord(execution_id, f"its {what} cannot be read. {error}") from error
            raise

    async def _read(self, statement: str, values: Sequence[Any] = ()) -> list[Any]:
        return await self._on_reader(lambda db: rows.fetch(db, statement, values))

    async def _on_reader(self, body: Callable[[sqlite3.Connection], T]) -> T:
        if self._reader is None:
            raise StorageUnavailable(f"store {self.url} is not open; call open() first")
        try:
            return await on_thread(self._reader, body)
        except (sqlite3.Error, ValueError) as error:  # ValueError: closed during the call
            raise sql.unavailable(error, str(self._path), "read") from error

    async def dead_letters(
        self,
        *,
        execution_id: str | None = None,
        workflow_id: str | None = None,
        step: int | None = None,
        limit: int = 1000,
    ) -> list[DeadLetter]:
        """See Store."""
        statement, given = sql.letter_listing(execution_id, workflow_id, step, limit)
        return [rows.kept(DeadLetter, row) for row in await self._read(statement, given)]

    async def delete_dead_letters(self, keys: Sequence[tuple[str, int]]) -> int:
        """See Store."""
        return await self._write(lambda db, _: db.executemany(sql.DELETE_LETTER, keys).rowcount)

    async def save_definition(self, record: DefinitionRecord) -> None:
        """See Store."""
        await self._write(lambda db, _: db.execute(sql.SAVE_DEFINITION, astuple(record)))

    async def definition(self, workflow_id: str, version: str | None = None) -> DefinitionRecord | None:
        """See Store."""
        found = await self._read(sql.DEFINITION, (workflow_id, version))
        return rows.kept(DefinitionRecord, found[0]) if found else None

    async def definitions(self) -> list[DefinitionRecord]:
        """See Store."""
        return [rows.kept(DefinitionRecord, row) for row in await self._read(sql.DEFINITIONS)]

    async def delete_definition(self, workflow_id: str) -> bool:
        """See Store."""
        return await self._write(lambda db, _: db.execute(sql.DELETE_DEFINITION, (workflow_id,)).rowcount > 0)

    async def save_pool(self, record: PoolRecord) -> None:
        """See Store."""
        await self._write(lambda db, _: db.execute(sql.SAVE_POOL, astuple(record)))

    async def pools(self) -> list[PoolRecord]:
        """See Store."""
        return [rows.kept(PoolRecord, row) for row in await self._read(sql.POOLS)]

    async def delete_pool(self, name: str) -> bool:
        """See Store."""
        return await self._write(lambda db, _: db.execute(sql.DELETE_POOL, (name,)).rowcount > 0)

    async def put_blob(self, digest: str, data: bytes) -> None:
        """See Store."""
        await self._write(lambda db, _: db.execute(sql.PUT_BLOB, (digest, data)))

    async def blob(self, digest: str) -> bytes | None:
        """See Store."""
        found = await self._read(sql.BLOB, (digest,))
        return found[0][0] if found else None

    async def put_value(self, digest: str, data: bytes, *, now: float) -> None:
        """See Store. One value at a time, to bound the memory; other commits run in between."""
        async with self._values:
            if not await self._write(values.begin(digest, len(data), now)):
                for chunk in values.chunks(digest, data):
                    await self._write(chunk)

    async def value(self, digest: str) -> bytes | None:
        """See Store."""
        return await self._on_reader(lambda db: values.read(db, digest))

    async def collect_values(self, *, now: float, grace: float, limit: int) -> int:
        """See Store. A value is deleted in several transactions; the first one makes it unavailable."""
        count = 0
        for digest in await self._write(values.unreferenced(now, grace, limit)):
            async with self._values:
                if await self._write(values.mark_deleted(digest, now - 2 * grace)):
                    count += 1
                    while await self._write(values.delete_chunks(digest)):
                        pass
        return count

    async def totals(self) -> dict[str, float]:
        """See Store."""
        return dict(await self._read(sql.TOTALS))
