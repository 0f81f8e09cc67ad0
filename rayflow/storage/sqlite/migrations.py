"""Formats of a SQLite store: the tables of each, and how a file of an older format becomes a newer one.

A file of format n becomes one of format n + 1 by the statements of ``FORMATS[n]``; an empty file has format 0. So a new
file and one that was migrated since format 1 are made by the same statements and cannot differ. All missing statements
run in one transaction, the claim of a writer: a file has the old format or the new one.

Two tables are the same in every format, so that programs of different formats understand each other: ``meta`` holds
the format, and ``writer`` the writer. A released statement is never changed, and uses no name of the program.
"""

# ruff: noqa: S608 - statements are built from names in this module, never from values
from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from rayflow.errors import StorageUnavailable


@dataclass(frozen=True, slots=True)
class Format:
    """One step of the formats.

    Args:
        statements: SQL that makes a file of this format from one of the format before.
        added: by table, the columns that the statements add, as SQL expressions with names: what a process that only
            reads finds in their place in an older file.
    """

    statements: tuple[str, ...]
    added: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


_ENDED_1 = "('completed', 'failed', 'cancelled')"

# Journal and inbox are clustered by execution: a replay reads neighbouring pages, and no second index is written.
# Values that never change after the start are apart (starts), since SQLite rewrites the whole row in an update: a
# megabyte of input would be written again with each step. Result and failure are last in the row, so that a scan of the
# other columns reads no overflow pages. Every index of executions also holds the number, so those that end with
# created_at return the order of a list without sorting.
_FORMAT_1 = (
    "CREATE TABLE meta (name TEXT PRIMARY KEY, value) WITHOUT ROWID",
    (
        "CREATE TABLE writer (id INTEGER PRIMARY KEY CHECK (id = 1), epoch INTEGER NOT NULL, nonce TEXT NOT NULL,"
        " heartbeat REAL)"
    ),
    (
        "CREATE TABLE executions (number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, workflow_id TEXT NOT NULL,"
        " version TEXT NOT NULL, priority INTEGER NOT NULL, created_at REAL NOT NULL, identity TEXT NOT NULL,"
        " start_nonce TEXT NOT NULL, parent TEXT NOT NULL, parent_step INTEGER NOT NULL, singleton TEXT NOT NULL,"
        " schedule TEXT NOT NULL, forked_from TEXT NOT NULL, status TEXT NOT NULL, updated_at REAL NOT NULL,"
        " epoch INTEGER NOT NULL, owner TEXT NOT NULL, coordinator TEXT NOT NULL, last_seq INTEGER NOT NULL,"
        " last_digest TEXT NOT NULL, inbox_last INTEGER NOT NULL, inbox_done INTEGER NOT NULL, runnable_at REAL,"
        " deadline REAL, run INTEGER NOT NULL, waits TEXT NOT NULL, waiting_for TEXT NOT NULL, claims INTEGER NOT NULL,"
        " expires_at REAL, error_type TEXT NOT NULL, error_text TEXT NOT NULL, result BLOB, failure BLOB)"
    ),
    (
        "CREATE TABLE starts (id TEXT PRIMARY KEY, input BLOB NOT NULL, code BLOB NOT NULL, options BLOB NOT NULL,"
        " environment TEXT NOT NULL, code_fingerprint TEXT NOT NULL, environment_id TEXT NOT NULL,"
        " seed INTEGER NOT NULL, trace TEXT NOT NULL, attributes TEXT NOT NULL)"
    ),
    (
        "CREATE TABLE attributes (name TEXT, type TEXT, value, created_at REAL, number INTEGER,"
        " PRIMARY KEY (name, type, value, created_at, number)) WITHOUT ROWID"
    ),
    (
        "CREATE TABLE journal (execution_id TEXT, seq INTEGER, body BLOB NOT NULL, PRIMARY KEY (execution_id, seq))"
        " WITHOUT ROWID"
    ),
    (
        "CREATE TABLE inbox (execution_id TEXT, number INTEGER, key TEXT NOT NULL, kind TEXT NOT NULL,"
        " body BLOB NOT NULL, at REAL NOT NULL, PRIMARY KEY (execution_id, number)) WITHOUT ROWID"
    ),
    (
        "CREATE TABLE definitions (workflow_id TEXT, version TEXT, name TEXT NOT NULL, description TEXT NOT NULL,"
        " code BLOB NOT NULL, source_sha256 TEXT NOT NULL, saved_at REAL NOT NULL, environment TEXT NOT NULL,"
        " UNIQUE (workflow_id, version))"
    ),
    (
        "CREATE TABLE dead_letters (execution_id TEXT NOT NULL, step INTEGER NOT NULL, seq INTEGER NOT NULL,"
        " workflow_id TEXT NOT NULL, name TEXT NOT NULL, attempts INTEGER NOT NULL, at REAL NOT NULL,"
        " began REAL NOT NULL, worker TEXT NOT NULL, failure BLOB NOT NULL, input BLOB NOT NULL,"
        " UNIQUE (execution_id, step))"
    ),
    (
        "CREATE TABLE step_notes (execution_id TEXT, step INTEGER, attempt INTEGER NOT NULL, at REAL NOT NULL,"
        " kind TEXT NOT NULL, body BLOB NOT NULL, PRIMARY KEY (execution_id, step)) WITHOUT ROWID"
    ),
    (
        "CREATE TABLE records (kind TEXT, key TEXT, body BLOB NOT NULL, at REAL NOT NULL, execution_id TEXT NOT NULL,"
        " version INTEGER NOT NULL, PRIMARY KEY (kind, key)) WITHOUT ROWID"
    ),
    (
        "CREATE TABLE locks (name TEXT PRIMARY KEY, permits INTEGER NOT NULL, last_order INTEGER NOT NULL,"
        " last_token INTEGER NOT NULL) WITHOUT ROWID"
    ),
    (
        "CREATE TABLE lock_claims (name TEXT, place INTEGER, execution_id TEXT NOT NULL, step INTEGER NOT NULL,"
        " lease TEXT NOT NULL, token INTEGER NOT NULL, expires_at REAL, at REAL NOT NULL, ttl REAL,"
        " PRIMARY KEY (name, place)) WITHOUT ROWID"
    ),
    (
        "CREATE TABLE schedules (name TEXT PRIMARY KEY, spec BLOB NOT NULL, state BLOB NOT NULL,"
        " version INTEGER NOT NULL, wake REAL, created_at REAL NOT NULL)"
    ),
    "CREATE TABLE pools (name TEXT PRIMARY KEY, config BLOB NOT NULL, saved_at REAL NOT NULL)",
    "CREATE TABLE blobs (digest TEXT PRIMARY KEY, data BLOB NOT NULL)",
    "CREATE TABLE totals (name TEXT PRIMARY KEY, value REAL NOT NULL) WITHOUT ROWID",
    (
        "CREATE TABLE large_values (digest TEXT PRIMARY KEY, size INTEGER NOT NULL, complete INTEGER NOT NULL,"
        " free_at REAL)"
    ),
    (
        "CREATE TABLE value_chunks (digest TEXT NOT NULL, number INTEGER NOT NULL, data BLOB NOT NULL,"
        " UNIQUE (digest, number))"
    ),
    (
        "CREATE TABLE value_references (execution_id TEXT, place TEXT, position INTEGER, digest TEXT,"
        " PRIMARY KEY (execution_id, place, position, digest)) WITHOUT ROWID"
    ),
    "CREATE INDEX executions_newest ON executions (created_at)",
    "CREATE INDEX executions_status ON executions (status, created_at)",
    "CREATE INDEX executions_workflow ON executions (workflow_id, created_at)",
    "CREATE INDEX executions_parent ON executions (parent, created_at) WHERE parent <> ''",
    "CREATE INDEX executions_schedule ON executions (schedule, created_at) WHERE schedule <> ''",
    "CREATE INDEX executions_fork ON executions (forked_from, created_at) WHERE forked_from <> ''",
    "CREATE INDEX executions_error ON executions (error_type, created_at, error_text) WHERE error_type <> ''",
    "CREATE INDEX executions_waiting ON executions (created_at, waiting_for) WHERE waiting_for <> ''",
    f"CREATE INDEX executions_unfinished ON executions (workflow_id, version) WHERE status NOT IN {_ENDED_1}",
    # With the plus sign a query names this index: without it, SQLite prefers executions_status, and sorts.
    f"CREATE INDEX executions_finished ON executions (updated_at) WHERE +status IN {_ENDED_1}",
    "CREATE INDEX executions_expiring ON executions (expires_at) WHERE expires_at IS NOT NULL",
    "CREATE INDEX executions_runnable ON executions (runnable_at) WHERE runnable_at IS NOT NULL",
    "CREATE INDEX executions_unread ON executions (created_at) WHERE inbox_last > inbox_done AND owner <> ''",
    "CREATE INDEX executions_stuck ON executions (waits) WHERE waits LIKE 'others %'",
    (
        "CREATE UNIQUE INDEX executions_unique ON executions (singleton)"
        f" WHERE singleton <> '' AND status NOT IN {_ENDED_1}"
    ),
    "CREATE INDEX executions_singleton ON executions (singleton, created_at) WHERE singleton <> ''",
    "CREATE INDEX attributes_number ON attributes (number)",
    "CREATE INDEX records_execution ON records (execution_id, kind) WHERE execution_id <> ''",
    "CREATE INDEX claims_execution ON lock_claims (execution_id) WHERE execution_id <> ''",
    "CREATE INDEX claims_lease ON lock_claims (name) WHERE lease <> ''",
    "CREATE INDEX inbox_key ON inbox (execution_id, key)",
    "CREATE INDEX dead_letters_newest ON dead_letters (at)",
    "CREATE INDEX dead_letters_workflow ON dead_letters (workflow_id, at)",
    "CREATE INDEX references_digest ON value_references (digest)",
    "CREATE INDEX values_free ON large_values (free_at) WHERE free_at IS NOT NULL",
    # Whichever statement adds or deletes a reference, and why: the value's row says in the same statement whether any
    # record refers to it. 0: the next collection fills in the moment, since a trigger does not know the time.
    (
        "CREATE TRIGGER value_referenced AFTER INSERT ON value_references BEGIN"
        " UPDATE large_values SET free_at = NULL WHERE digest = NEW.digest AND free_at IS NOT NULL; END"
    ),
    (
        "CREATE TRIGGER value_released AFTER DELETE ON value_references"
        " WHEN NOT EXISTS (SELECT 1 FROM value_references WHERE digest = OLD.digest) BEGIN"
        " UPDATE large_values SET free_at = 0 WHERE digest = OLD.digest; END"
    ),
    "INSERT INTO meta VALUES ('format', 1)",
    "INSERT INTO writer VALUES (1, 0, '', NULL)",
)

FORMATS = (Format(_FORMAT_1),)


def newest_format() -> int:
    """Return the format that this program writes."""
    return len(FORMATS)


def format_of(db: sqlite3.Connection, path: str, *, may_be_empty: bool = False) -> int:
    """Return the format of a file; 0 for an empty one.

    Args:
        db: a connection to it.
        path: the file, for errors.
        may_be_empty: whether it may be empty.

    Raises:
        StorageUnavailable: the file is not a store, or a newer rayflow wrote it.
    """
    tables = {name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if not tables and may_be_empty:
        return 0
    found = None
    if {"meta", "executions"} <= tables:
        found = db.execute("SELECT value FROM meta WHERE name = 'format'").fetchone()
    if found is None:
        what = "another program's SQLite database" if tables else "empty, no store was made in it yet"
        raise StorageUnavailable(f"cannot open store {path}: the file is {what}. Name another file")
    if found[0] > newest_format():
        raise StorageUnavailable(
            f"cannot open store {path}: it has format {found[0]} and was written by a newer rayflow; this one knows "
            f"formats up to {newest_format()}. Install that newer version, or name another file"
        )
    return int(found[0])


def migrate(db: sqlite3.Connection, path: str) -> None:
    """Bring a file to this program's format, inside a transaction that the caller has begun.

    Raises:
        StorageUnavailable: as :func:`format_of`.
    """
    found = format_of(db, path, may_be_empty=True)
    for each in FORMATS[found:]:
        for statement in each.statements:
            db.execute(statement)
    if found != newest_format():
        db.execute("UPDATE meta SET value = ? WHERE name = 'format'", (newest_format(),))


def add_views(db: sqlite3.Connection, found: int) -> None:
    """Give a connection that only reads the newest format's view of an older file. The file stays as it is."""
    for statement in _views(found):
        db.execute(statement)


def _views(found: int) -> Iterator[str]:
    added: dict[str, tuple[str, ...]] = {}
    for each in FORMATS[found:]:
        for table, columns in each.added.items():
            added[table] = (*added.get(table, ()), *columns)
        for statement in each.statements:
            if statement.startswith("CREATE TABLE "):
                yield statement.replace("CREATE TABLE ", "CREATE TEMP TABLE ", 1)
    for table, columns in added.items():
        yield f"CREATE TEMP VIEW {table} AS SELECT *, {', '.join(columns)} FROM main.{table}"
