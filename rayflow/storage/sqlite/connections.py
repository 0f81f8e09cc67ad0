"""Connections to a SQLite file, and the way to run a function on a connection's thread."""

from __future__ import annotations

import asyncio
import re
import sqlite3
import urllib.parse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

import aiosqlite

from rayflow.errors import StorageUnavailable
from rayflow.storage.sqlite import statements as sql
from rayflow.storage.sqlite.migrations import add_views, format_of, migrate, newest_format

#: Bytes that the write-ahead log keeps after a checkpoint.
LOG_BYTES = 8 << 20

#: A numbered parameter, which may be used more than once.
_NUMBERED = re.compile(r"\?\d+")

P = ParamSpec("P")
T = TypeVar("T")


async def on_thread(
    db: aiosqlite.Connection,
    function: Callable[Concatenate[sqlite3.Connection, P], T],
    *args: P.args,
    **kwargs: P.kwargs,
) -> T:
    """Run a function on a connection's thread, where no other use of that connection runs at the same time.

    Each call of an aiosqlite connection hops to its thread and back, which costs more than most statements; a function
    runs any number of statements in one hop. aiosqlite has no public call for that (0.22, core.py): ``_execute`` is
    what all its own calls use, ``_conn`` the connection.
    """
    answer: T = await db._execute(lambda: function(db._conn, *args, **kwargs))  # type: ignore[no-untyped-call]  # noqa: SLF001
    return answer


@dataclass(frozen=True, slots=True)
class SqliteFile:
    """SQLite file and the settings of its connections.

    Args:
        path: the file.
        connection_class: class of the connections.
        busy_timeout: seconds to wait for a lock of another process.
    """

    path: Path
    connection_class: type[sqlite3.Connection]
    busy_timeout: float

    async def writer(self) -> aiosqlite.Connection:
        """Return a connection for writing to an existing store."""
        db = await self._connect("mode=rw")
        await self._for_writing(db)
        return db

    async def creator(self) -> aiosqlite.Connection:
        """Return a connection for writing; create the file and its tables if they are missing.

        Raises:
            StorageUnavailable: the file is not a store, or its file system cannot hold one.
        """
        await asyncio.to_thread(self.path.parent.mkdir, parents=True, exist_ok=True)
        if await asyncio.to_thread(_has_lost_its_file, self.path):
            raise StorageUnavailable(
                f"cannot open store {self.path}: the file is empty, but its log ({self.path.name}-wal) is "
                "not, and SQLite would delete that. Restore the file from a backup, together with its log"
            )
        db = await self._connect("mode=rwc")
        try:
            await self._prepare(db)
        except BaseException:
            await db.close()
            raise
        return db

    async def reader(self, *, may_create: bool) -> tuple[aiosqlite.Connection, int]:
        """Return a connection for reading, and the format of the file. A file of an older format is read through views.

        Args:
            may_create: SQLite must be able to create files next to the store; without it, a store in a folder that is
                not writable is read as it is.
        """
        # Not "mode=ro": such a connection cannot read a WAL whose index is gone, and leaves its own index behind.
        # This one may delete its index, and refuses every change.
        db = await self._connect("mode=rw")
        try:
            found = await on_thread(db, self._for_reading)
        except sqlite3.OperationalError:
            await db.close()
            if may_create or await asyncio.to_thread(_has_log, self.path):
                raise
        except BaseException:
            await db.close()
            raise
        else:
            return db, found
        # The folder is not writable, and the file has no log: the file can only be read as it is.
        db = await self._connect("mode=ro&immutable=1")
        try:
            return db, await on_thread(db, self._for_reading)
        except BaseException:
            await db.close()
            raise

    def _for_reading(self, db: sqlite3.Connection) -> int:
        found = format_of(db, str(self.path))
        if found < newest_format():
            db.execute("PRAGMA temp_store = MEMORY")
            add_views(db, found)
        else:
            _probe(db)
        db.execute("PRAGMA query_only = ON")
        return found

    async def _connect(self, options: str) -> aiosqlite.Connection:
        uri = f"file:{urllib.parse.quote(str(self.path.absolute()))}?{options}"
        connection = aiosqlite.connect(
            uri, uri=True, isolation_level=None, timeout=self.busy_timeout, factory=self.connection_class
        )
        # A store that was not closed must not keep its process from ending; acknowledged data are on the disk.
        # (aiosqlite before 0.22: the connection is the thread.)
        thread: Any = getattr(connection, "_thread", connection)
        thread.daemon = True
        try:
            return await connection
        except BaseException:
            # aiosqlite stops its thread without waiting; the thread would report to a loop that may be closed.
            await asyncio.to_thread(thread.join)
            raise

    async def _write_ahead(self, db: aiosqlite.Connection) -> str:
        """Switch the file to a write-ahead log; return the mode that SQLite chose.

        SQLite does not apply its busy timeout when two connections switch a new file at the same moment.
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
        # The format first: another program's file must not even be switched to WAL.
        fresh = await on_thread(db, format_of, str(self.path), may_be_empty=True) == 0
        if fresh:
            # Free pages can then be returned in small steps. SQLite accepts this only in an empty file.
            await db.execute("PRAGMA auto_vacuum = INCREMENTAL")
        mode = await self._write_ahead(db)
        if mode != "wal":
            raise StorageUnavailable(
                f"cannot open store {self.path}: its file system allows no write-ahead log (SQLite chose {mode!r}). "
                "Network file systems do not; put the file on a local disk"
            )
        await self._for_writing(db)
        if fresh:
            await on_thread(db, self._create)

    async def _for_writing(self, db: aiosqlite.Connection) -> None:
        await db.execute("PRAGMA synchronous = FULL")
        await db.execute(f"PRAGMA journal_size_limit = {LOG_BYTES}")  # otherwise it never gets shorter

    def _create(self, db: sqlite3.Connection) -> None:
        db.execute("BEGIN IMMEDIATE")
        if format_of(db, str(self.path), may_be_empty=True) == 0:  # another process may have been faster
            migrate(db, str(self.path))
        db.execute("COMMIT")


def _probe(db: sqlite3.Connection) -> None:
    """Check that the schema is whole. Raises sqlite3.Error."""
    for statement in sql.PROBES:
        places = len(set(_NUMBERED.findall(statement))) or statement.count("?")
        db.execute(f"EXPLAIN {statement}", [None] * places)


def _has_lost_its_file(path: Path) -> bool:
    """Return whether the file is empty although it has a log: SQLite writes the file before the log."""
    log = path.with_name(f"{path.name}-wal")
    return log.exists() and log.stat().st_size > 0 and not (path.exists() and path.stat().st_size > 0)


def _has_log(path: Path) -> bool:
    return path.with_name(f"{path.name}-wal").exists()
