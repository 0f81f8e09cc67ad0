"""The formats of a SQLite store: what a file holds, and how an older one becomes a newer one.

A file of format n becomes one of format n + 1 by the statements of ``FORMATS[n]``; an empty file has format 0. A new
file is made by the same statements as one that has come along since format 1, and the two cannot differ. All that are
missing are run in one transaction, that in which somebody becomes the writer: a file has the old format, or the new.

What holds for every format, so that programs of different formats understand each other: ``meta`` says the format, and
``writer`` who writes. A statement that has been released is never changed, and names nothing of the program.
"""

# ruff: noqa: S608 - statements are put together from names in this module, never from values
from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from rayflow.errors import StorageUnavailable


@dataclass(frozen=True, slots=True)
class Format:
    """What is new in a format.

    Args:
        statements: make it of a file of the format before.
        added: the columns that tables get, by table: what somebody reads in their place who finds an older file and
            only reads, as SQL expressions with names.
    """

    statements: tuple[str, ...]
    added: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


_UNFINISHED_1 = "status NOT IN ('completed', 'failed', 'cancelled')"

# Journal and inbox are clustered by execution: a replay reads neighbouring pages, and no second index is written.
# What never changes of an execution stands apart (starts), since SQLite rewrites the whole row in an update: a
# megabyte of input would be written again with each step.
_FORMAT_1 = (
    "CREATE TABLE meta (name TEXT PRIMARY KEY, value) WITHOUT ROWID",
    (
        "CREATE TABLE writer (id INTEGER PRIMARY KEY CHECK (id = 1), epoch INTEGER NOT NULL, nonce TEXT NOT NULL,"
        " heartbeat REAL)"
    ),
    (
        "CREATE TABLE executions (number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, workflow_id TEXT NOT NULL,"
        " version TEXT NOT NULL, status TEXT NOT NULL, priority INTEGER NOT NULL, created_at REAL NOT NULL,"
        " updated_at REAL NOT NULL, identity TEXT NOT NULL, start_nonce TEXT NOT NULL, environment TEXT NOT NULL,"
        " epoch INTEGER NOT NULL, owner TEXT NOT NULL, coordinator TEXT NOT NULL, last_seq INTEGER NOT NULL,"
        " last_digest TEXT NOT NULL, inbox_last INTEGER NOT NULL, inbox_done INTEGER NOT NULL, runnable_at REAL,"
        " deadline REAL, result BLOB, failure BLOB, parent TEXT NOT NULL, parent_step INTEGER NOT NULL,"
        " run INTEGER NOT NULL, singleton TEXT NOT NULL, schedule TEXT NOT NULL, forked_from TEXT NOT NULL,"
        " waits TEXT NOT NULL, claims INTEGER NOT NULL)"
    ),
    "CREATE TABLE starts (id TEXT PRIMARY KEY, input BLOB NOT NULL, code BLOB NOT NULL, options BLOB NOT NULL)",
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
        "CREATE TABLE notes (execution_id TEXT, step INTEGER, attempt INTEGER NOT NULL, at REAL NOT NULL,"
        " kind TEXT NOT NULL, body BLOB NOT NULL, PRIMARY KEY (execution_id, step)) WITHOUT ROWID"
    ),
    (
        "CREATE TABLE locks (name TEXT PRIMARY KEY, permits INTEGER NOT NULL, last_order INTEGER NOT NULL,"
        " last_token INTEGER NOT NULL) WITHOUT ROWID"
    ),
    (
        "CREATE TABLE claims (name TEXT, place INTEGER, execution_id TEXT NOT NULL, step INTEGER NOT NULL,"
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
    "CREATE INDEX executions_newest ON executions (created_at)",
    "CREATE INDEX executions_workflow ON executions (workflow_id, created_at)",
    "CREATE INDEX executions_runnable ON executions (runnable_at) WHERE runnable_at IS NOT NULL",
    "CREATE INDEX executions_unread ON executions (created_at) WHERE inbox_last > inbox_done AND owner <> ''",
    "CREATE INDEX executions_parent ON executions (parent, created_at) WHERE parent <> ''",
    "CREATE INDEX executions_schedule ON executions (schedule, created_at) WHERE schedule <> ''",
    f"CREATE UNIQUE INDEX executions_singleton ON executions (singleton) WHERE singleton <> '' AND {_UNFINISHED_1}",
    f"CREATE INDEX executions_unfinished ON executions (workflow_id, version) WHERE {_UNFINISHED_1}",
    "CREATE INDEX executions_stuck ON executions (waits) WHERE waits LIKE 'others %'",
    "CREATE INDEX claims_execution ON claims (execution_id) WHERE execution_id <> ''",
    "CREATE INDEX claims_lease ON claims (name) WHERE lease <> ''",
    "CREATE INDEX inbox_key ON inbox (execution_id, key)",
    "CREATE INDEX dead_letters_newest ON dead_letters (at)",
    "CREATE INDEX dead_letters_workflow ON dead_letters (workflow_id, at)",
    "INSERT INTO meta VALUES ('format', 1)",
    "INSERT INTO writer VALUES (1, 0, '', NULL)",
)

# When an execution may be deleted, and what is over in the order in which it ended.
_FORMAT_2 = (
    "ALTER TABLE executions ADD COLUMN expires_at REAL",
    "CREATE INDEX executions_expiring ON executions (expires_at) WHERE expires_at IS NOT NULL",
    "CREATE INDEX executions_over ON executions (updated_at) WHERE status IN ('completed', 'failed', 'cancelled')",
)

# Large values, in chunks, and which records refer to them. The triggers note in the very statement that adds or deletes
# a mention whether anything refers to a value, whoever deletes, and why. 0: the next collection fills in since when,
# as a trigger does not know the time.
_FORMAT_3 = (
    (
        "CREATE TABLE large_values (digest TEXT PRIMARY KEY, size INTEGER NOT NULL, complete INTEGER NOT NULL,"
        " free_at REAL)"
    ),
    "CREATE TABLE chunks (digest TEXT NOT NULL, number INTEGER NOT NULL, data BLOB NOT NULL, UNIQUE (digest, number))",
    (
        "CREATE TABLE mentions (execution_id TEXT, place TEXT, position INTEGER, digest TEXT,"
        " PRIMARY KEY (execution_id, place, position, digest)) WITHOUT ROWID"
    ),
    "CREATE INDEX mentions_digest ON mentions (digest)",
    "CREATE INDEX large_values_free ON large_values (free_at) WHERE free_at IS NOT NULL",
    (
        "CREATE TRIGGER mentioned AFTER INSERT ON mentions BEGIN"
        " UPDATE large_values SET free_at = NULL WHERE digest = NEW.digest AND free_at IS NOT NULL; END"
    ),
    (
        "CREATE TRIGGER unmentioned AFTER DELETE ON mentions"
        " WHEN NOT EXISTS (SELECT 1 FROM mentions WHERE digest = OLD.digest) BEGIN"
        " UPDATE large_values SET free_at = 0 WHERE digest = OLD.digest; END"
    ),
)

# What a start knows of its code, its randomness and its caller; and by which values an execution is found.
_FORMAT_4 = (
    "ALTER TABLE executions ADD COLUMN code_fingerprint TEXT NOT NULL DEFAULT ''",
    "ALTER TABLE executions ADD COLUMN environment_id TEXT NOT NULL DEFAULT ''",
    "ALTER TABLE executions ADD COLUMN seed INTEGER NOT NULL DEFAULT 0",
    "ALTER TABLE executions ADD COLUMN trace TEXT NOT NULL DEFAULT ''",
    "ALTER TABLE executions ADD COLUMN attributes TEXT NOT NULL DEFAULT '{}'",
)

FORMATS = (
    Format(_FORMAT_1),
    Format(_FORMAT_2, {"executions": ("NULL AS expires_at",)}),
    Format(_FORMAT_3),
    Format(
        _FORMAT_4,
        {
            "executions": (
                "'' AS code_fingerprint",
                "'' AS environment_id",
                "0 AS seed",
                "'' AS trace",
                "'{}' AS attributes",
            )
        },
    ),
)

#: The format that this program writes.
FORMAT = len(FORMATS)


def format_of(db: sqlite3.Connection, path: str, *, may_be_empty: bool = False) -> int:
    """The format of a file; 0 for an empty one.

    Args:
        db: a connection to it.
        path: the file, for errors.
        may_be_empty: whether it may be empty.

    Raises:
        StorageUnavailable: it is no store, or a newer rayflow's.
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
    if found[0] > FORMAT:
        raise StorageUnavailable(
            f"cannot open store {path}: it has format {found[0]} and was written by a newer rayflow; this one knows "
            f"formats up to {FORMAT}. Install that newer version, or name another file"
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
    if found != FORMAT:
        db.execute("UPDATE meta SET value = ? WHERE name = 'format'", (FORMAT,))


def shadow(db: sqlite3.Connection, found: int) -> None:
    """Let a connection that only reads find in an older file what this program looks for. The file stays as it is."""
    for statement in _shadows(found):
        db.execute(statement)


def _shadows(found: int) -> Iterator[str]:
    added: dict[str, tuple[str, ...]] = {}
    for each in FORMATS[found:]:
        for table, columns in each.added.items():
            added[table] = (*added.get(table, ()), *columns)
        for statement in each.statements:
            if statement.startswith("CREATE TABLE "):
                yield statement.replace("CREATE TABLE ", "CREATE TEMP TABLE ", 1)
    for table, columns in added.items():
        yield f"CREATE TEMP VIEW {table} AS SELECT *, {', '.join(columns)} FROM main.{table}"
