"""How the SQLite store keeps large values: in chunks, one transaction each, so that nobody waits for more than that.

A value is *complete* once all its chunks are there; until then it is not to be seen. Triggers note, in the very
statement that adds or deletes a mention, whether anything refers to a value, whoever deletes, and why.
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
MENTION = "INSERT OR IGNORE INTO value_references (execution_id, place, position, digest) VALUES (?, ?, ?, ?)"
#: See :func:`rayflow.storage.rules.large_values.forgotten`.
FORGET_MENTIONS = (
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
_OLD = (
    "SELECT digest FROM large_values AS v WHERE free_at <= ?"
    " AND NOT EXISTS (SELECT 1 FROM value_references AS m WHERE m.digest = v.digest) ORDER BY free_at LIMIT ?"
)
_UNSEE = (
    "UPDATE large_values SET complete = 0 WHERE digest = ? AND free_at <= ?"
    " AND NOT EXISTS (SELECT 1 FROM value_references AS m WHERE m.digest = large_values.digest)"
)
_DROP_CHUNKS = "DELETE FROM value_chunks WHERE rowid IN (SELECT rowid FROM value_chunks WHERE digest = ? LIMIT ?)"
_DROP = "DELETE FROM large_values WHERE digest = ?"


def begin(digest: str, size: int, now: float) -> Callable[[sqlite3.Connection, Writer], bool]:
    """The transaction that begins to put a value, or makes one that is there as new; answers whether it is complete."""

    def body(db: sqlite3.Connection, _: Writer) -> bool:
        values = {"digest": digest, "size": size, "now": now}
        [(complete,)] = db.execute(_BEGIN, values).fetchall()
        return bool(complete)

    return body


def chunks(digest: str, data: bytes) -> Iterable[Callable[[sqlite3.Connection, Writer], None]]:
    """The transactions that put the chunks, the last of which completes the blov."""
    whole = memoryview(data)
    last = max(0, len(data) - 1) // CHUNK
    for number in range(last + 1):

        def body(db: sqlite3.Connection, _: Writer, number: int = number) -> None:
            db.execute(_CHUNK, (digest, number, whole[number * CHUNK : (number + 1) * CHUNK]))
            if number == last:
                db.execute(_COMPLETE, (digest,))

        yield body


def old(now: float, grace: float, limit: int) -> Callable[[sqlite3.Connection, Writer], list[str]]:
    """The transaction that finds the values that are to be collected."""

    def body(db: sqlite3.Connection, _: Writer) -> list[str]:
        db.execute(_DATE, (now,))
        return [digest for (digest,) in db.execute(_OLD, (now - 2 * grace, limit)).fetchall()]

    return body


def unsee(digest: str, before: float) -> Callable[[sqlite3.Connection, Writer], bool]:
    """The transaction after which nobody can refer to a value; answers False if somebody does, or put it again."""
    return lambda db, _: db.execute(_UNSEE, (digest, before)).rowcount > 0


def drop(digest: str) -> Callable[[sqlite3.Connection, Writer], bool]:
    """The transaction that deletes some chunks of a value, at last the value itself; answers whether there are more."""

    def body(db: sqlite3.Connection, _: Writer) -> bool:
        if db.execute(_DROP_CHUNKS, (digest, _DELETED)).rowcount == _DELETED:
            return True
        db.execute(_DROP, (digest,))
        return False

    return body


def read(db: sqlite3.Connection, digest: str) -> bytes | None:
    """A complete value, or None. The chunks are copied once."""
    whole: io.BytesIO | None = None
    for (data,) in db.execute(CHUNKS, (digest,)):
        whole = whole or io.BytesIO()
        whole.write(data)
    return None if whole is None else whole.getvalue()


def mention_values(mention: ValueReference) -> tuple[str, str, int, str]:
    """Parameters of MENTION."""
    return (mention.execution_id, mention.place, mention.position, mention.digest)
