"""Transactions of the SQLite store: functions that run on the writing connection's thread."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Sequence
from dataclasses import astuple, replace
from typing import Any, TypeVar

from rayflow.core.locks.machine import Lock
from rayflow.errors import CorruptRecord, RayflowError, StorageError
from rayflow.storage.model import ExecutionRecord, KeyedRecord, ScheduleRecord
from rayflow.storage.operations import AlreadyExists, Answer, Deliver, Operation, Rejected
from rayflow.storage.rules.retention import PurgeBatch, PurgeFilter, choose
from rayflow.storage.rules.transaction import Transaction
from rayflow.storage.sqlite import large_values as values
from rayflow.storage.sqlite import rows
from rayflow.storage.sqlite import statements as sql
from rayflow.storage.writer import Writer

T = TypeVar("T")

#: SQLite's number for ``auto_vacuum = INCREMENTAL``.
_INCREMENTAL = 2
#: Pages to return in one transaction; free pages to keep: a number, or this part of all pages.
_PAGES_AT_ONCE, _SPARE_PAGES, _SPARE_PART = 250, 64, 16

#: Errors of what one operation holds, or has to read, while the database itself is well.
MEMBER_ERRORS = (*sql.MEMBER_ERRORS, CorruptRecord)


class InDoubtError(Exception):
    """Unknown outcome of a transaction or of its rollback; the connection must be closed.

    Args:
        error: the error of SQLite.
        doing: the action that failed, for the message: "write" or "commit to".
    """

    def __init__(self, error: BaseException, doing: str) -> None:
        super().__init__(str(error))
        self.error = error
        self.doing = doing


def transaction(
    db: sqlite3.Connection, check: Callable[[Writer], None], body: Callable[[sqlite3.Connection, Writer], T]
) -> T:
    """Run ``body`` in a transaction of the writer, all or nothing.

    Args:
        db: the connection.
        check: raises if the writer's row is not ours.
        body: called with the connection and the writer's row.

    Raises:
        InDoubtError: the transaction may be durable or not, or could not be rolled back.
    """
    try:
        db.execute("BEGIN IMMEDIATE")
        writer = read_writer(db)
        check(writer)
        answer = body(db, writer)
    except BaseException as error:
        _take_back(db, error)
        raise
    try:
        db.execute("COMMIT")
    except BaseException as error:
        raise InDoubtError(error, "commit to") from error
    return answer


def _take_back(db: sqlite3.Connection, error: BaseException) -> None:
    try:
        if db.in_transaction:
            db.execute("ROLLBACK")
    except sqlite3.Error:  # SQLite has rolled it back already, or cannot: a new connection finds out
        raise InDoubtError(error, "write") from error


def read_writer(db: sqlite3.Connection) -> Writer:
    """Return the writer's row."""
    return Writer(*db.execute(sql.WRITER).fetchone())


def commit(db: sqlite3.Connection, operations: Sequence[Operation], check: Callable[[Writer], None]) -> list[Answer]:
    """Apply operations inside a transaction; if one cannot be written, apply each alone and reject only that one."""
    try:
        return apply(db, operations)
    except Exception as error:
        if not _is_of_one(error):
            raise
    db.execute("ROLLBACK")
    db.execute("BEGIN IMMEDIATE")
    check(read_writer(db))  # another writer may have claimed since the first attempt
    return [_alone(db, operation) for operation in operations]


def _is_of_one(error: Exception) -> bool:
    """Return whether one operation may have caused an error, by its content or by damaged records that it needs."""
    return isinstance(error, MEMBER_ERRORS) or rows.is_malformed(error)


def _alone(db: sqlite3.Connection, operation: Operation) -> Answer:
    db.execute("SAVEPOINT member")
    try:
        [answer] = apply(db, [operation])
    except Exception as error:
        if not _is_of_one(error):
            raise
        db.execute("ROLLBACK TO member")
        answer = Rejected(unwritable(operation, error))
    db.execute("RELEASE member")
    return answer


class _Reads:
    """Reads of a transaction; the records that all its operations need are read at once."""

    def __init__(self, db: sqlite3.Connection, operations: Sequence[Operation]) -> None:
        self._db = db
        ids = {operation.execution_id for operation in operations}
        self._heads: dict[str, ExecutionRecord | None] = dict.fromkeys(ids)
        self._heads.update((row[0], rows.record(row)) for row in rows.fetch(db, sql.HEADS, (sql.as_json(ids),)))
        delivered = [(op.execution_id, op.row.key) for op in operations if isinstance(op, Deliver)]
        self._asked = set(delivered)
        self._known: set[tuple[str, str]] = set(db.execute(sql.KEYS, (sql.as_json(delivered),))) if delivered else set()

    def head(self, execution_id: str) -> ExecutionRecord | None:
        if execution_id not in self._heads:
            found = rows.fetch(self._db, sql.HEADS, (sql.as_json([execution_id]),))
            self._heads[execution_id] = rows.record(found[0]) if found else None
        return self._heads[execution_id]

    def had_key(self, execution_id: str, key: str) -> bool:
        if (execution_id, key) in self._asked:
            return (execution_id, key) in self._known
        return self._db.execute(sql.KEY, (execution_id, key)).fetchone() is not None

    def lock(self, name: str) -> Lock | None:
        return read_lock(self._db, name)

    def locks_of(self, execution_id: str) -> list[str]:
        return [name for (name,) in self._db.execute(sql.LOCKS_OF, (execution_id,))]

    def leased_locks(self) -> list[str]:
        return [name for (name,) in self._db.execute(sql.LEASED)]

    def singleton(self, key: str) -> str | None:
        row = self._db.execute(sql.SINGLETON, (key,)).fetchone()
        return None if row is None else str(row[0])

    def bound_children(self, execution_id: str) -> list[str]:
        return [name for (name,) in self._db.execute(sql.BOUND, (execution_id,))]

    def schedule(self, name: str) -> ScheduleRecord | None:
        found = rows.fetch(self._db, sql.SCHEDULE, (name,))
        return rows.kept(ScheduleRecord, found[0]) if found else None

    def record(self, kind: str, key: str) -> KeyedRecord | None:
        found = rows.fetch(self._db, sql.RECORD_OF_KEY, (kind, key))
        return rows.kept(KeyedRecord, found[0]) if found else None

    def has_value(self, digest: str) -> bool:
        return self._db.execute(values.HAS_VALUE, (digest,)).fetchone() is not None


def read_lock(db: sqlite3.Connection, name: str) -> Lock | None:
    """Return a lock with its claims, or None. Raises CorruptRecord."""
    found = rows.fetch(db, sql.LOCK, (name,))
    return rows.lock(found[0], rows.fetch(db, sql.CLAIMS, (name,))) if found else None


def apply(db: sqlite3.Connection, operations: Sequence[Operation]) -> list[Answer]:
    """Decide operations in order, and write the decisions."""
    batch = Transaction(_Reads(db, operations))
    answers = [batch.apply(operation) for operation in operations]
    for statement, given in _writes(batch):
        db.executemany(statement, given)
    if any(isinstance(answer, AlreadyExists) for answer in answers):
        return _with_static(db, answers)
    return answers


def _writes(batch: Transaction) -> Iterable[tuple[str, Iterable[Any]]]:
    started = [_head(batch, name) for name in batch.started]
    if started:
        yield (sql.INSERT_EXECUTION, [sql.head_values(row) for row in started])
        yield (sql.INSERT_START, [sql.start_values(row) for row in started])
        yield (sql.INSERT_ATTRIBUTE, [values for row in started for values in sql.attribute_values(row)])
    changed = batch.changed.keys() - set(batch.started)
    if changed:
        yield (sql.UPDATE_EXECUTION, [sql.changing_values(_head(batch, name)) for name in changed])
    if batch.journal:
        yield (sql.INSERT_JOURNAL, [(name, row.seq, row.body) for name, row in batch.journal])
    if batch.inbox:
        inbox = [(name, row.number, row.key, row.kind, row.body, row.at) for name, row in batch.inbox]
        yield (sql.INSERT_INBOX, inbox)
    if batch.letters_after:
        yield (sql.DELETE_LATER_LETTERS, list(batch.letters_after.items()))
    if batch.letters:
        yield (sql.SAVE_LETTER, [sql.letter_values(letter) for letter in batch.letters.values()])
    if batch.journal_from:
        yield (sql.FORGET_NOTES, [(name,) for name in batch.journal_from])  # they are of steps that are no more
    if batch.notes:
        yield (sql.SAVE_NOTE, [(name, *sql.note_values(note)) for (name, _), note in batch.notes.items()])
    if batch.counts:
        yield (sql.ADD_TOTAL, list(batch.counts.items()))
    yield from _rare_writes(batch)


def _rare_writes(batch: Transaction) -> Iterable[tuple[str, Iterable[Any]]]:
    if batch.inputs:
        yield (sql.NEXT_RUN, [(data, name) for name, data in batch.inputs.items()])
    if batch.journal_from:
        yield (sql.FORGET_JOURNAL, list(batch.journal_from.items()))
    if batch.references:
        yield (values.SAVE_REFERENCE, [values.reference_values(reference) for reference in batch.references])
    for name, first in batch.journal_from.items():
        head = _head(batch, name)
        about = {"name": name, "first": first, "inbox_done": head.inbox_done, "run": head.run}
        yield (values.FORGET_REFERENCES, [about])
    if batch.locks:
        yield from _lock_writes(batch)
    if batch.records:
        yield (sql.SAVE_RECORD, [astuple(record) for record in batch.records.values() if record is not None])
        yield (sql.DELETE_RECORD, [key for key, record in batch.records.items() if record is None])
    if batch.schedules:
        yield (sql.SAVE_SCHEDULE, [astuple(schedule) for schedule in batch.schedules.values()])


def _head(batch: Transaction, name: str) -> ExecutionRecord:
    record = batch.heads[name]
    assert record is not None
    return record


def _lock_writes(batch: Transaction) -> Iterable[tuple[str, Iterable[Any]]]:
    gone: list[tuple[str, int]] = []
    new: list[tuple[Any, ...]] = []
    for name, (before, lock) in batch.locks.items():
        known = {} if before is None else {claim.order: claim for claim in before.claims}
        orders = {claim.order for claim in lock.claims}
        gone.extend((name, order) for order in known if order not in orders)
        new.extend(astuple(claim) for claim in lock.claims if known.get(claim.order) != claim)
    locks = [lock for _, lock in batch.locks.values()]
    yield (sql.SAVE_LOCK, [(lock.name, lock.limit, lock.last_order, lock.last_token) for lock in locks])
    yield (sql.DELETE_CLAIM, gone)
    yield (sql.SAVE_CLAIM, new)


def _with_static(db: sqlite3.Connection, answers: list[Answer]) -> list[Answer]:
    """Return the answers with the start fields of existing executions, which heads lack."""
    ids = sql.as_json({answer.record.id for answer in answers if isinstance(answer, AlreadyExists)})
    starts = {name: rest for name, *rest in rows.fetch(db, sql.STARTS, (ids,))}
    complete: list[Answer] = []
    for answer in answers:
        if isinstance(answer, AlreadyExists):
            complete.append(AlreadyExists(rows.completed(answer.record, starts.get(answer.record.id))))
        else:
            complete.append(answer)
    return complete


def unwritable(operation: Operation, error: Exception) -> RayflowError:
    """Return the reason why one operation cannot be written."""
    if isinstance(error, CorruptRecord):  # of what it had to read
        return error
    if rows.is_malformed(error):
        detail = f"what it needs cannot be read or written: {error}. Remedy: {sql.DAMAGED}"
        return CorruptRecord(operation.execution_id, detail)
    return StorageError(
        f"this {type(operation).__name__} of execution {operation.execution_id!r} cannot be written: {error}. Strings "
        "must be valid Unicode, numbers fit 64 bits, and no value be larger than 1 GB"
    )


def purgeable(db: sqlite3.Connection, over: PurgeFilter, *, later: bool) -> PurgeBatch:
    """Return the executions that may be deleted; see :func:`~rayflow.storage.rules.retention.choose`."""
    statement, values = sql.over_listing(over)
    records = [rows.record(row) for row in rows.fetch(db, statement, values)]
    found = choose(records, over, _Reads(db, ()).head, later=later)
    ids = sql.as_json(found.ids)
    return replace(found, size=sum(db.execute(size, (ids,)).fetchone()[0] for size in sql.SIZES) if found.ids else 0)


def collect(db: sqlite3.Connection, over: PurgeFilter) -> PurgeBatch:
    """Delete the executions that may be deleted, inside a transaction."""
    found = purgeable(db, over, later=False)
    ids = sql.as_json(found.ids)
    for statement in sql.DELETES:
        db.execute(statement, (ids,))
    return found


def reclaim(db: sqlite3.Connection) -> bool:
    """Return some free pages to the file system, inside a transaction; return whether there are more.

    Some free pages stay for later records: otherwise a store that deletes as much as it adds would shrink and grow all
    the time. A file without incremental vacuum returns no pages.
    """
    mode, free, pages = (_pragma(db, name) for name in ("auto_vacuum", "freelist_count", "page_count"))
    spare = free - max(_SPARE_PAGES, pages // _SPARE_PART) if mode == _INCREMENTAL else 0
    for _ in range(min(spare, _PAGES_AT_ONCE)):
        # Python steps a statement without columns once, and each step gives one page back, whatever number is said.
        db.execute("PRAGMA incremental_vacuum(1)")
    return spare > _PAGES_AT_ONCE


def _pragma(db: sqlite3.Connection, name: str) -> int:
    [(value,)] = db.execute(f"PRAGMA {name}").fetchall()  # to its end: an unfinished one keeps a transaction open
    return int(value)
