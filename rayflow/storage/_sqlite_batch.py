"""What the SQLite store does inside a transaction: plain functions that run on the writing connection's thread."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from rayflow.errors import RayflowError, StorageError
from rayflow.storage import _sqlite as sql
from rayflow.storage.base import Answer, Deliver, Existing, Operation, Refused
from rayflow.storage.rules import Batch, Writer

T = TypeVar("T")


class InDoubtError(Exception):
    """Nobody knows what became of a transaction, or of its taking back: the connection is of no use any more.

    Args:
        error: what happened.
        doing: what failed, for the message: "write" or "commit to".
    """

    def __init__(self, error: BaseException, doing: str) -> None:
        super().__init__(str(error))
        self.error = error
        self.doing = doing


def transaction(
    db: sqlite3.Connection, check: Callable[[Writer], None], body: Callable[[sqlite3.Connection, Writer], T]
) -> T:
    """Run ``body`` in a transaction of the writer, all of it or nothing.

    Args:
        db: the connection.
        check: raises if the writer whose row this is is not ours.
        body: gets the connection and the writer's row.

    Raises:
        InDoubtError: it may be durable or not, or could not be taken back.
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
    except sqlite3.Error:  # SQLite took it back already, or cannot: either way, a new connection will tell
        raise InDoubtError(error, "write") from error


def read_writer(db: sqlite3.Connection) -> Writer:
    """The writer's row."""
    return Writer(*db.execute(sql.WRITER).fetchone())


def commit(db: sqlite3.Connection, operations: Sequence[Operation], check: Callable[[Writer], None]) -> list[Answer]:
    """Apply operations inside a transaction; where one cannot be written, one by one, so that only it is refused."""
    try:
        return apply(db, operations)
    except sql.MEMBER_ERRORS:
        db.execute("ROLLBACK")
        db.execute("BEGIN IMMEDIATE")
        check(read_writer(db))  # somebody may have claimed since the first attempt
        return [_alone(db, operation) for operation in operations]


def _alone(db: sqlite3.Connection, operation: Operation) -> Answer:
    db.execute("SAVEPOINT member")
    try:
        [answer] = apply(db, [operation])
    except sql.MEMBER_ERRORS as error:
        db.execute("ROLLBACK TO member")
        answer = Refused(unwritable(operation, error))
    db.execute("RELEASE member")
    return answer


def apply(db: sqlite3.Connection, operations: Sequence[Operation]) -> list[Answer]:
    """Read what the operations concern, decide them in order, and write what was decided."""
    ids = sql.as_json({operation.execution_id for operation in operations})
    heads = {row[0]: sql.record(row) for row in db.execute(sql.HEADS, (ids,))}
    delivered = [(op.execution_id, op.row.key) for op in operations if isinstance(op, Deliver)]
    known = db.execute(sql.KEYS, (sql.as_json(delivered),)).fetchall() if delivered else ()
    batch = Batch(heads, known)
    answers = [batch.apply(operation) for operation in operations]
    for statement, rows in _writes(batch):
        db.executemany(statement, rows)
    if any(isinstance(answer, Existing) for answer in answers):
        return _with_static(db, answers)
    return answers


def _writes(batch: Batch) -> Iterable[tuple[str, Iterable[Any]]]:
    started = [batch.heads[name] for name in batch.started]
    if started:
        yield (sql.INSERT_EXECUTION, [sql.head_values(row) for row in started])
        yield (sql.INSERT_START, [(row.id, row.input, row.code, row.options) for row in started])
    changed = batch.changed.keys() - set(batch.started)
    if changed:
        yield (sql.UPDATE_EXECUTION, [sql.changing_values(batch.heads[name]) for name in changed])
    if batch.journal:
        yield (sql.INSERT_JOURNAL, [(name, row.seq, row.body) for name, row in batch.journal])
    if batch.inbox:
        rows = [(name, row.number, row.key, row.kind, row.body, row.at) for name, row in batch.inbox]
        yield (sql.INSERT_INBOX, rows)
    if batch.letters_after:
        yield (sql.DELETE_LATER_LETTERS, list(batch.letters_after.items()))
    if batch.letters:
        yield (sql.SAVE_LETTER, [sql.letter_values(letter) for letter in batch.letters.values()])
    if batch.notes:
        yield (sql.SAVE_NOTE, [(name, *sql.note_values(note)) for (name, _), note in batch.notes.items()])
    if batch.counts:
        yield (sql.ADD_TOTAL, list(batch.counts.items()))


def _with_static(db: sqlite3.Connection, answers: list[Answer]) -> list[Answer]:
    """The answers, with what heads are read without put into the rows that a caller sees."""
    ids = sql.as_json({answer.record.id for answer in answers if isinstance(answer, Existing)})
    static = {name: rest for name, *rest in db.execute(sql.STATIC, (ids,))}
    complete: list[Answer] = []
    for answer in answers:
        if isinstance(answer, Existing):
            data, code, options = static[answer.record.id]
            complete.append(Existing(replace(answer.record, input=data, code=code, options=options)))
        else:
            complete.append(answer)
    return complete


def unwritable(operation: Operation, error: Exception) -> RayflowError:
    """Why one operation cannot be written."""
    return StorageError(
        f"this {type(operation).__name__} of execution {operation.execution_id!r} cannot be written: {error}. Strings "
        "must be valid Unicode, numbers fit 64 bits, and no value be larger than 1 GB"
    )
