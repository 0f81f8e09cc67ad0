"""Statements of the SQLite store, and the meaning of SQLite's errors."""

# ruff: noqa: S608 - statements are put together from names in this module, never from values
from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable
from dataclasses import fields
from typing import Any

from rayflow.errors import StorageUnavailable
from rayflow.ids import ExecutionStatus
from rayflow.storage.model import FIXED_FIELDS, START_FIELDS, DeadLetter, ExecutionRecord, KeyedRecord, StepNote
from rayflow.storage.query.comparisons import type_of, waiting_text
from rayflow.storage.rules.retention import PurgeFilter

TERMINAL = ", ".join(f"'{status}'" for status in ExecutionStatus if status.terminal)
UNFINISHED = f"status NOT IN ({TERMINAL})"
_SINGLETON = f"singleton <> '' AND {UNFINISHED}"

RECORD = tuple(f.name for f in fields(ExecutionRecord))
#: Columns of a row that is inserted, and of one that changes; the last is derived from other fields.
_HEAD = (*(name for name in RECORD if name not in (*START_FIELDS, "number")), "waiting_for")
_CHANGING = tuple(name for name in _HEAD if name not in FIXED_FIELDS)
#: Values in a row for fields that are not read with it.
_UNREAD = {"environment": "''", "code_fingerprint": "''", "environment_id": "''", "seed": "0", "trace": "''",
           "attributes": "'{}'"}  # fmt: skip

# A row without its start fields: adding a step must not read a megabyte of input.
_HEADS = "SELECT {} FROM executions AS e".format(
    ", ".join(_UNREAD.get(name, "x''") if name in START_FIELDS else f"e.{name}" for name in RECORD)
)
HEADS = f"{_HEADS} WHERE e.id IN (SELECT value FROM json_each(?))"
STARTS = f"SELECT id, {', '.join(START_FIELDS)} FROM starts WHERE id IN (SELECT value FROM json_each(?))"
KEYS = (
    "SELECT i.execution_id, i.key FROM json_each(?) AS j CROSS JOIN inbox AS i"
    " ON i.execution_id = json_extract(j.value, '$[0]') AND i.key = json_extract(j.value, '$[1]')"
)
KEY = "SELECT 1 FROM inbox WHERE execution_id = ? AND key = ?"
LOCK = "SELECT name, permits, last_order, last_token FROM locks WHERE name = ?"
_CLAIM = "name, place, execution_id, step, lease, token, expires_at, at, ttl"
CLAIMS = f"SELECT {_CLAIM} FROM lock_claims WHERE name = ? ORDER BY place"
LOCKS_OF = "SELECT DISTINCT name FROM lock_claims WHERE execution_id = ? AND execution_id <> '' ORDER BY name"
LEASED = "SELECT DISTINCT name FROM lock_claims WHERE lease <> '' ORDER BY name"
CLAIMED = "SELECT DISTINCT name FROM lock_claims ORDER BY name"
SAVE_LOCK = "INSERT OR REPLACE INTO locks (name, permits, last_order, last_token) VALUES (?, ?, ?, ?)"
SAVE_CLAIM = f"INSERT OR REPLACE INTO lock_claims ({_CLAIM}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
DELETE_CLAIM = "DELETE FROM lock_claims WHERE name = ? AND place = ?"
SINGLETON = f"SELECT id FROM executions WHERE singleton = ? AND {_SINGLETON}"
VERSIONS = (
    f"SELECT workflow_id, version, count(*) FROM executions WHERE {UNFINISHED} GROUP BY workflow_id, version"
    " ORDER BY workflow_id, version"
)
BOUND = f"SELECT id FROM executions WHERE parent = ? AND parent <> '' AND parent_step < 0 AND {UNFINISHED}"
_SCHEDULE = "name, spec, state, version, wake, created_at"
SAVE_SCHEDULE = f"INSERT OR REPLACE INTO schedules ({_SCHEDULE}) VALUES (?, ?, ?, ?, ?, ?)"
SCHEDULE = f"SELECT {_SCHEDULE} FROM schedules WHERE name = ?"
SCHEDULES = f"SELECT {_SCHEDULE} FROM schedules ORDER BY name"
DELETE_SCHEDULE = "DELETE FROM schedules WHERE name = ?"
NEXT_RUN = "UPDATE starts SET input = ? WHERE id = ?"
FORGET_NOTES = "DELETE FROM step_notes WHERE execution_id = ?"
FORGET_JOURNAL = "DELETE FROM journal WHERE execution_id = ? AND seq < ?"
WRITER = "SELECT epoch, nonce, heartbeat FROM writer"
SET_WRITER = "UPDATE writer SET epoch = ?, nonce = ?, heartbeat = ?"

INSERT_EXECUTION = f"INSERT INTO executions ({', '.join(_HEAD)}) VALUES ({', '.join('?' * len(_HEAD))})"
INSERT_START = f"INSERT INTO starts (id, {', '.join(START_FIELDS)}) VALUES (?{', ?' * len(START_FIELDS)})"
INSERT_ATTRIBUTE = (
    "INSERT INTO attributes (name, type, value, created_at, number)"
    " SELECT ?, ?, ?, created_at, number FROM executions WHERE id = ?"
)
UPDATE_EXECUTION = f"UPDATE executions SET {', '.join(f'{name} = ?' for name in _CHANGING)} WHERE id = ?"
INSERT_JOURNAL = "INSERT INTO journal (execution_id, seq, body) VALUES (?, ?, ?)"
INSERT_INBOX = "INSERT INTO inbox (execution_id, number, key, kind, body, at) VALUES (?, ?, ?, ?, ?, ?)"
ADD_TOTAL = (
    "INSERT INTO totals (name, value) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = value + excluded.value"
)

JOURNAL = "SELECT seq, body FROM journal WHERE execution_id = ? AND seq > ? ORDER BY seq"
INBOX = (
    "SELECT key, kind, body, at, number FROM inbox WHERE execution_id = ?1"
    " AND number > max(?2, (SELECT inbox_done FROM executions WHERE id = ?1)) ORDER BY number"
)
#: The columns of a whole record, of ``executions AS e`` and ``starts AS s``.
COLUMNS = ", ".join(f"s.{name}" if name in START_FIELDS else f"e.{name}" for name in RECORD)
EXECUTION = f"SELECT {COLUMNS} FROM executions AS e LEFT JOIN starts AS s ON s.id = e.id WHERE e.id = ?"

_DEFINITION = "workflow_id, version, name, description, code, source_sha256, saved_at, environment"
SAVE_DEFINITION = f"INSERT OR REPLACE INTO definitions ({_DEFINITION}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
DEFINITIONS = f"SELECT {_DEFINITION} FROM definitions ORDER BY workflow_id, saved_at DESC, rowid DESC"
DEFINITION = (
    f"SELECT {_DEFINITION} FROM definitions WHERE workflow_id = ?1 AND (?2 IS NULL OR version = ?2)"
    " ORDER BY saved_at DESC, rowid DESC LIMIT 1"
)
DELETE_DEFINITION = "DELETE FROM definitions WHERE workflow_id = ?"
_LETTER = tuple(f.name for f in fields(DeadLetter))
SAVE_LETTER = f"INSERT OR REPLACE INTO dead_letters ({', '.join(_LETTER)}) VALUES ({', '.join('?' * len(_LETTER))})"
DELETE_LETTER = "DELETE FROM dead_letters WHERE execution_id = ? AND step = ?"
DELETE_LATER_LETTERS = "DELETE FROM dead_letters WHERE execution_id = ? AND seq > ?"

SAVE_NOTE = (
    "INSERT INTO step_notes (execution_id, step, attempt, at, kind, body) VALUES (?, ?, ?, ?, ?, ?)"
    " ON CONFLICT (execution_id, step)"
    " DO UPDATE SET attempt = excluded.attempt, at = excluded.at, kind = excluded.kind, body = excluded.body"
    " WHERE (excluded.attempt, excluded.at) >= (attempt, at)"
)
NOTES = "SELECT step, attempt, at, kind, body FROM step_notes WHERE execution_id = ? ORDER BY step"

_KEYED = tuple(f.name for f in fields(KeyedRecord))
SAVE_RECORD = f"INSERT OR REPLACE INTO records ({', '.join(_KEYED)}) VALUES ({', '.join('?' * len(_KEYED))})"
DELETE_RECORD = "DELETE FROM records WHERE kind = ? AND key = ?"
RECORD_OF_KEY = f"SELECT {', '.join(_KEYED)} FROM records WHERE kind = ? AND key = ?"

SAVE_POOL = "INSERT OR REPLACE INTO pools (name, config, saved_at) VALUES (?, ?, ?)"
POOLS = "SELECT name, config, saved_at FROM pools ORDER BY name"
DELETE_POOL = "DELETE FROM pools WHERE name = ?"

PUT_BLOB = "INSERT OR IGNORE INTO blobs (digest, data) VALUES (?, ?)"
BLOB = "SELECT data FROM blobs WHERE digest = ?"
TOTALS = "SELECT name, value FROM totals"

#: Tables of records that belong to executions, each with the column of the id and the bytes of a row.
_PARTS = (
    ("journal", "execution_id", "length(body)"),
    ("inbox", "execution_id", "length(body)"),
    ("dead_letters", "execution_id", "length(failure) + length(input)"),
    ("step_notes", "execution_id", "length(body)"),
    ("value_references", "execution_id", "0"),  # the values themselves count when they are collected
    ("records", "execution_id", "length(body)"),
    ("starts", "id", "length(input) + length(code) + length(options)"),
    ("executions", "id", "ifnull(length(result), 0) + ifnull(length(failure), 0)"),
)

#: Statements that are prepared when a file is opened: each fails if the schema in the file is damaged.
PROBES = (
    EXECUTION, HEADS, JOURNAL, INBOX, NOTES, LOCK, CLAIMS, SCHEDULES, DEFINITIONS, POOLS, BLOB, TOTALS, WRITER, KEY,
    SINGLETON, VERSIONS, INSERT_EXECUTION, INSERT_START, UPDATE_EXECUTION, INSERT_JOURNAL, INSERT_INBOX, SAVE_LETTER,
    INSERT_ATTRIBUTE, SAVE_RECORD,
)  # fmt: skip

#: Deletes, each with a JSON list of ids; the executions last.
DELETES = (
    (
        "DELETE FROM attributes WHERE number IN"
        " (SELECT number FROM executions WHERE id IN (SELECT value FROM json_each(?)))"
    ),
    *(f"DELETE FROM {table} WHERE {column} IN (SELECT value FROM json_each(?))" for table, column, _ in _PARTS),
)
#: Bytes that they delete, each with the same list.
SIZES = tuple(
    f"SELECT ifnull(sum({size}), 0) FROM {table} WHERE {column} IN (SELECT value FROM json_each(?))"
    for table, column, size in _PARTS
)


def over_listing(over: PurgeFilter) -> tuple[str, list[Any]]:
    """Return the statement that finds finished executions, without their start fields, and its parameters."""
    moment = "updated_at" if over.expired_by is None else "expires_at"
    terms, values = [f"+e.status IN ({TERMINAL})"], []
    for term, value in (
        ("e.id IN (SELECT value FROM json_each(?))", None if over.ids is None else as_json(over.ids)),
        ("e.status IN (SELECT value FROM json_each(?))", as_json(over.status) if over.status else None),
        ("e.workflow_id = ?", over.workflow_id),
        ("e.updated_at < ?", over.ended_before),
        ("e.expires_at <= ?", over.expired_by),
    ):
        if value is not None:
            terms.append(term)
            values.append(value)
    if over.after is not None:
        terms.append(f"(e.{moment}, e.id) > (?, ?)")
        values.extend(over.after)
    return f"{_HEADS} WHERE {' AND '.join(terms)} ORDER BY e.{moment}, e.id LIMIT ?", [*values, over.limit]


def record_listing(kind: str, execution_id: str | None, after: str, limit: int) -> tuple[str, list[Any]]:
    """Return the statement that lists keyed records, and its parameters."""
    of = "" if execution_id is None else " AND execution_id = ?"
    of += " AND execution_id <> ''" if execution_id else ""  # SQLite uses the partial index
    statement = f"SELECT {', '.join(_KEYED)} FROM records WHERE kind = ? AND key > ?{of} ORDER BY key LIMIT ?"
    return statement, [kind, after, *(() if execution_id is None else (execution_id,)), limit]


def letter_listing(
    execution_id: str | None, workflow_id: str | None, step: int | None, limit: int
) -> tuple[str, list[Any]]:
    """Return the statement that lists dead letters, and its parameters."""
    wanted = {"execution_id": execution_id, "workflow_id": workflow_id, "step": step}
    given = {name: value for name, value in wanted.items() if value is not None}
    where = f" WHERE {' AND '.join(f'{name} = ?' for name in given)}" if given else ""
    statement = f"SELECT {', '.join(_LETTER)} FROM dead_letters{where} ORDER BY at DESC, rowid DESC LIMIT ?"
    return statement, [*given.values(), limit]


def head_values(row: ExecutionRecord) -> tuple[Any, ...]:
    """Return the parameters of INSERT_EXECUTION."""
    return (*(getattr(row, name) for name in _HEAD[:-1]), waiting_text(row))


def changing_values(row: ExecutionRecord) -> tuple[Any, ...]:
    """Return the parameters of UPDATE_EXECUTION."""
    return (*(getattr(row, name) for name in _CHANGING[:-1]), waiting_text(row), row.id)


def start_values(row: ExecutionRecord) -> tuple[Any, ...]:
    """Return the parameters of INSERT_START."""
    return (row.id, *(getattr(row, name) for name in START_FIELDS[:-1]), json.dumps(dict(row.attributes)))


def attribute_values(row: ExecutionRecord) -> list[tuple[Any, ...]]:
    """Return the parameters of INSERT_ATTRIBUTE for each attribute."""
    return [(name, type_of(value), value, row.id) for name, value in row.attributes.items()]


def letter_values(letter: DeadLetter) -> tuple[Any, ...]:
    """Return the parameters of SAVE_LETTER."""
    return tuple(getattr(letter, name) for name in _LETTER)


def note_values(note: StepNote) -> tuple[Any, ...]:
    """Return the parameters of SAVE_NOTE, after the execution's id."""
    return (note.step, note.attempt, note.at, note.kind, note.body)


def as_json(values: Iterable[Any]) -> str:
    """Return a list for json_each: one parameter for any number of values."""
    return json.dumps(list(values))


#: Errors that the content of one operation causes, while the database itself works.
MEMBER_ERRORS = (
    sqlite3.IntegrityError,
    sqlite3.DataError,
    sqlite3.InterfaceError,
    sqlite3.ProgrammingError,
    OverflowError,
    ValueError,
    TypeError,
)

#: Remedy for a damaged file.
DAMAGED = (
    "the file is damaged or was cut off. Stop all processes that use it and keep a copy; `PRAGMA integrity_check` "
    "shows the damage. Restore a backup, or use what `sqlite3 FILE .recover | sqlite3 NEW` saves"
)
_ADVICE = (
    (
        "disk is full",
        "free some space on that disk; waiting executions then continue, no acknowledged data are lost",
    ),
    ("readonly", "make the file and its folder writable for this user, or open the store read-only"),
    ("locked", "another process holds the file; a store has one writer, so find the other program and close it"),
    ("disk i/o error", "check the disk (dmesg); acknowledged data are lost only if the disk has lost them"),
    ("not a database", "the file was overwritten or was never a database; name another file, or restore a backup"),
    ("malformed", DAMAGED),
    ("no such", DAMAGED),
    ("can't decode", DAMAGED),
    ("unable to open", "its folder must exist and be readable and writable for this user"),
)


def unavailable(error: Exception, path: str, doing: str) -> StorageUnavailable:
    """Return an error of SQLite as StorageUnavailable, with a remedy."""
    text = str(error)
    advice = next((advice for fragment, advice in _ADVICE if fragment in text.lower()), "")
    return StorageUnavailable(f"cannot {doing} store {path}: {text}" + (f". Remedy: {advice}" if advice else ""))
