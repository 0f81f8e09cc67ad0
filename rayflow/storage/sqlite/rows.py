"""SQLite rows as records; a row that was damaged on the disk may hold any value in any column.

A list must not fail because of one row. So an execution's row that cannot be read whole becomes a
:class:`~rayflow.storage.damage.DamagedRecord`. In other records, columns of a wrong type become empty, and their
decoding reports the damage.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, replace
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from rayflow.core.locks.machine import Claim, Lock
from rayflow.errors import CorruptRecord
from rayflow.ids import ExecutionStatus
from rayflow.storage.damage import DamagedRecord
from rayflow.storage.model import START_FIELDS, Attribute, ExecutionRecord

T = TypeVar("T")

_EMPTY: dict[type, Any] = {str: "", int: 0, float: 0.0, bytes: b"", type(None): None}


class _Columns:
    """Types that a record's columns may have."""

    def __init__(self, cls: type) -> None:
        hints = get_type_hints(cls)
        self.names = tuple(each.name for each in fields(cls))
        self.allowed = tuple(_allowed(hints[name]) for name in self.names)
        #: Rows of these types have been seen to be sound; looking that up costs about a microsecond.
        self.sound: set[tuple[type, ...]] = set()

    def wrong(self, row: Sequence[Any]) -> dict[int, str]:
        """Return the columns with values of wrong types, by position, each with a description."""
        kinds = tuple(map(type, row))
        if kinds in self.sound:
            return {}
        wrong = {
            index: f"column {name!r} holds {_shown(row[index])}"
            for index, name in enumerate(self.names)
            if kinds[index] not in self.allowed[index]
        }
        if not wrong:
            self.sound.add(kinds)
        return wrong

    def mended(self, row: Sequence[Any], wrong: Iterable[int]) -> list[Any]:
        """Return the row with empty values in those columns."""
        values = list(row)
        for index in wrong:
            values[index] = _EMPTY[self.allowed[index][-1]]
        return values


def _allowed(hint: Any) -> tuple[type, ...]:
    if isinstance(hint, type) and issubclass(hint, ExecutionStatus):
        return (str,)
    if hint is float:
        return (int, float)
    if get_origin(hint) is Mapping:  # as JSON
        return (str,)
    if optional := get_args(hint):
        return tuple(kind for each in optional for kind in _allowed(each))
    return (hint,)


_COLUMNS: dict[type, _Columns] = {}


def _columns(cls: type) -> _Columns:
    if cls not in _COLUMNS:
        _COLUMNS[cls] = _Columns(cls)
    return _COLUMNS[cls]


_STATUSES = {str(status): status for status in ExecutionStatus}
_STATUS, _ATTRIBUTES = (
    tuple(each.name for each in fields(ExecutionRecord)).index(name) for name in ("status", "attributes")
)
_RECORD = _columns(ExecutionRecord)


def record(row: Sequence[Any]) -> ExecutionRecord:
    """Return the record of a row whose columns are the record's fields."""
    wrong = _RECORD.wrong(row)
    status = _STATUSES.get(row[_STATUS])
    attributes = _attributes(row[_ATTRIBUTES])
    if wrong or status is None or attributes is None:
        return _damaged(row, wrong)
    made = ExecutionRecord(*row)
    object.__setattr__(made, "attributes", attributes)
    object.__setattr__(made, "status", status)  # not shared yet; replace() costs 5 µs more
    return made


def completed(head: ExecutionRecord, start: Sequence[Any] | None) -> ExecutionRecord:
    """Return a record that was read without its start fields, with them; a damaged store may have lost them."""
    if start is None:
        return head
    values = dict(zip(START_FIELDS, start, strict=True))
    return replace(head, **{**values, "attributes": _attributes(values["attributes"]) or {}})


def _attributes(text: Any) -> dict[str, Attribute] | None:
    if text == "{}":
        return {}
    try:
        found = json.loads(text)
    except (ValueError, TypeError):
        return None
    whole = isinstance(found, dict) and all(isinstance(value, (str, int, float)) for value in found.values())
    return found if whole else None


def _damaged(row: Sequence[Any], wrong: dict[int, str]) -> DamagedRecord:
    problems = dict(wrong)
    if _attributes(row[_ATTRIBUTES]) is None:
        problems[_ATTRIBUTES] = f"column 'attributes' holds {_shown(row[_ATTRIBUTES])}"
    if row[_STATUS] not in _STATUSES:
        problems[_STATUS] = f"column 'status' holds {_shown(row[_STATUS])}"
    values = dict(zip(_RECORD.names, _RECORD.mended(row, wrong), strict=True))
    name = row[0] if isinstance(row[0], str) else f"<damaged id {_shown(row[0])}>"
    # No coordinator may drive it, and the supervisor must not repair it.
    values |= {"attributes": _attributes(row[_ATTRIBUTES]) or {}}
    values |= {"id": name, "status": ExecutionStatus.PAUSED, "owner": "", "runnable_at": None, "waits": ""}
    return DamagedRecord(**values, damage=f"its row is damaged: {'; '.join(problems.values())}")


def kept(cls: type[T], row: Sequence[Any]) -> T:
    """Return a record of another kind; columns of a wrong type are empty, and with them bytes and texts."""
    columns = _columns(cls)
    wrong = columns.wrong(row)
    if not wrong:
        return cls(*row)
    # Encoded columns of a damaged row are not trusted: empty, they are reported as damaged when they are decoded.
    encoded = {index for index, allowed in enumerate(columns.allowed) if bytes in allowed}
    return cls(*columns.mended(row, {*wrong, *encoded}))


def lock(row: Sequence[Any], claims: Iterable[Sequence[Any]]) -> Lock:
    """Return a lock of its row and the rows of its claims. Raises CorruptRecord."""
    name, limit, last_order, last_token = row
    found = list(claims)
    problems = [problem for claim in found for problem in _columns(Claim).wrong(claim).values()]
    if not isinstance(name, str) or any(type(value) is not int for value in (limit, last_order, last_token)):
        problems.append(f"its row holds {_shown(tuple(row))}")
    if problems:
        raise CorruptRecord("", f"lock {_shown(name)} is damaged: {'; '.join(problems)}")
    try:
        return Lock(name, limit, last_order, last_token, tuple(Claim(*claim) for claim in found))
    except ValueError as error:
        raise CorruptRecord("", f"lock {name!r} is damaged: {error}") from error


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


#: Primary code of SQLITE_CORRUPT.
_CORRUPT = 11


def is_undecodable(error: BaseException) -> bool:
    """Return whether an error says that a text is not UTF-8; the module then returns no row at all."""
    return isinstance(error, sqlite3.OperationalError) and "Could not decode to UTF-8" in str(error)


def is_malformed(error: BaseException) -> bool:
    """Return whether an error says that SQLite had to read or write a damaged part of the file."""
    return isinstance(error, sqlite3.DatabaseError) and (getattr(error, "sqlite_errorcode", 0) & 0xFF) == _CORRUPT


def fetch(db: sqlite3.Connection, statement: str, values: Sequence[Any] = ()) -> list[Any]:
    """Return all rows; a text that is not UTF-8 is returned as bytes. Call it on the connection's thread."""
    try:
        return db.execute(statement, values).fetchall()
    except sqlite3.OperationalError as error:
        if not is_undecodable(error):
            raise
    before, db.text_factory = db.text_factory, _text_or_bytes
    try:
        return db.execute(statement, values).fetchall()
    finally:
        db.text_factory = before


def _text_or_bytes(data: bytes) -> str | bytes:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data
