"""Large values of the SQLite store: chunks, one transaction each, so that other commits wait for one chunk at most.

A value is *complete* once all its chunks are stored; until then reads do not see it. Triggers record, in the statement
that adds or deletes a reference, whether any record refers to a value.
"""

from __future__ import annotations

import io
import sqlite3
from collections.abc import Callable, Iterable

from rayflow.storage.model import ValueReference
from rayflow.storage.writer import Writer

#: Bytes of one transaction. 1 MB takes a few milliseconds; 50 MB at once would hold up everybody for a second.
CHUNK = 1 << 20
#: Chunks that are deleted in one transaction.
_DELETED = 16

HAS_VALUE = "SELECT 1 FROM large_values WHERE digest = ? AND complete"
SAVE_REFERENCE = "INSERT OR IGNORE INTO value_references (execution_id, place, position, digest) VALUES (?, ?, ?, ?)"
#: See :func:`rayflow.storage.rules.large_values.forgotten`.
FORGET_REFERENCES = (
    "DELETE FROM value_references WHERE execution_id = :name AND (place = 'journal' AND position < :first"
    " OR place = 'inbox' AND position <= :inbox_done OR place = 'input' AND position < :run)"
)
#: The chunks of a complete value.
CHUNKS = (
    "SELECT c.data FROM large_values AS v JOIN value_chunks AS c ON c.digest = v.digest"
    " WHERE v.digest = ? AND v.complete ORDER BY c.number"
)

_BEGIN = (
    "INSERT INTO large_values (digest, size, complete, free_at) VALUES (:digest, :size, 0, :now)"
    " ON CONFLICT (digest) DO UPDATE SET free_at = CASE"
    " WHEN EXISTS (SELECT 1 FROM value_references AS m WHERE m.digest = excluded.digest) THEN NULL"
    " ELSE excluded.free_at END"
    " RETURNING complete"
)
_CHUNK = "INSERT OR REPLACE INTO value_chunks (digest, number, data) VALUES (?, ?, ?)"
_COMPLETE = "UPDATE large_values SET complete = 1 WHERE digest = ?"
_DATE = "UPDATE large_values SET free_at = ? WHERE free_at = 0"
_UNREFERENCED = (
    "SELECT digest FROM large_values AS v WHERE free_at <= ?"
    " AND NOT EXISTS (SELECT 1 FROM value_references AS m WHERE m.digest = v.digest) ORDER BY free_at LIMIT ?"
)
_MARK_DELETED = (
    "UPDATE large_values SET complete = 0 WHERE digest = ? AND free_at <= ?"
    " AND NOT EXISTS (SELECT 1 FROM value_references AS m WHERE m.digest = large_values.digest)"
)
_DROP_CHUNKS = "DELETE FROM value_chunks WHERE rowid IN (SELECT rowid FROM value_chunks WHERE digest = ? LIMIT ?)"
_DROP = "DELETE FROM large_values WHERE digest = ?"


def begin(digest: str, size: int, now: float) -> Callable[[sqlite3.Connection, Writer], bool]:
    """Return the transaction that begins to store a value, or restarts its grace; it returns whether all is there."""

    def body(db: sqlite3.Connection, _: Writer) -> bool:
        values = {"digest": digest, "size": size, "now": now}
        [(complete,)] = db.execute(_BEGIN, values).fetchall()
        return bool(complete)

    return body


def chunks(digest: str, data: bytes) -> Iterable[Callable[[sqlite3.Connection, Writer], None]]:
    """Yield the transactions that store the chunks; the last one completes the value."""
    whole = memoryview(data)
    last = max(0, len(data) - 1) // CHUNK
    for number in range(last + 1):

        def body(db: sqlite3.Connection, _: Writer, number: int = number) -> None:
            db.execute(_CHUNK, (digest, number, whole[number * CHUNK : (number + 1) * CHUNK]))
            if number == last:
                db.execute(_COMPLETE, (digest,))

        yield body


def unreferenced(now: float, grace: float, limit: int) -> Callable[[sqlite3.Connection, Writer], list[str]]:
    """Return the transaction that finds the values to delete."""

    def body(db: sqlite3.Connection, _: Writer) -> list[str]:
        db.execute(_DATE, (now,))
        return [digest for (digest,) in db.execute(_UNREFERENCED, (now - 2 * grace, limit)).fetchall()]

    return body


def mark_deleted(digest: str, before: float) -> Callable[[sqlite3.Connection, Writer], bool]:
    """Return the transaction that makes a value unavailable; it returns False if the value is in use again."""
    return lambda db, _: db.execute(_MARK_DELETED, (digest, before)).rowcount > 0


def delete_chunks(digest: str) -> Callable[[sqlite3.Connection, Writer], bool]:
    """Return the transaction that deletes some chunks, at last the value; it returns whether there are more."""

    def body(db: sqlite3.Connection, _: Writer) -> bool:
        if db.execute(_DROP_CHUNKS, (digest, _DELETED)).rowcount == _DELETED:
            return True
        db.execute(_DROP, (digest,))
        return False

    return body


def read(db: sqlite3.Connection, digest: str) -> bytes | None:
    """Return a complete value, or None. The chunks are copied once."""
    whole: io.BytesIO | None = None
    for (data,) in db.execute(CHUNKS, (digest,)):
        whole = whole or io.BytesIO()
        whole.write(data)
    return None if whole is None else whole.getvalue()


def reference_values(reference: ValueReference) -> tuple[str, str, int, str]:
    """Return the parameters of SAVE_REFERENCE."""
    return (reference.execution_id, reference.place, reference.position, reference.digest)
