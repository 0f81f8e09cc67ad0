"""A SQLite connection that fails on demand, as a disk does."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from typing import Any

from rayflow.storage.sqlite.store import SqliteStore


class FaultyConnection(sqlite3.Connection):
    """Fails the next statement that begins with ``on``, then the next with ``then``.

    With ``after`` the statement is done, and fails nevertheless.
    """

    on: str | None = None
    then: str | None = None
    after = False
    error: Exception = sqlite3.OperationalError("disk I/O error")

    def execute(self, statement: str, parameters: Any = (), /) -> sqlite3.Cursor:
        return self._call(statement, lambda: super(FaultyConnection, self).execute(statement, parameters))

    def executemany(self, statement: str, parameters: Iterable[Any], /) -> sqlite3.Cursor:
        return self._call(statement, lambda: super(FaultyConnection, self).executemany(statement, parameters))

    def _call(self, statement: str, call: Any) -> sqlite3.Cursor:
        cls = type(self)
        if cls.on is None or not statement.startswith(cls.on):
            made: sqlite3.Cursor = call()
            return made
        cls.on, cls.then = cls.then, None
        if cls.after:
            call()
        raise cls.error


def faulty_store(url: str) -> tuple[SqliteStore, type[FaultyConnection]]:
    """A store and the switch of its faults: a connection class of its own."""

    class Connection(FaultyConnection):
        pass

    class Faulty(SqliteStore):
        connection_class = Connection
        busy_timeout = 0.05

    return Faulty(url), Connection
