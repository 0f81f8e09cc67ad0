"""How the SQLite store applies operations inside a transaction."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import aiosqlite

from rayflow.errors import RayflowError, StorageError
from rayflow.storage import _sqlite as sql
from rayflow.storage.base import Answer, Deliver, Existing, Operation
from rayflow.storage.rules import Batch


async def apply(db: aiosqlite.Connection, operations: Sequence[Operation]) -> list[Answer]:
    """Read what the operations concern, decide them in order, and write what was decided."""
    ids = sql.as_json({operation.execution_id for operation in operations})
    reads = [db.execute_fetchall(sql.HEADS, (ids,))]
    keys = [(op.execution_id, op.row.key) for op in operations if isinstance(op, Deliver)]
    if keys:
        reads.append(db.execute_fetchall(sql.KEYS, (sql.as_json(keys),)))
    heads, *known = await pipeline(*reads)
    batch = Batch({row[0]: sql.record(row) for row in heads}, *known)
    answers = [batch.apply(operation) for operation in operations]
    # One after the other: on a full disk SQLite ends the transaction by itself, and what had been handed to it
    # already would be written, and kept, outside.
    for statement, rows in _writes(batch):
        await db.executemany(statement, rows)
    if any(isinstance(answer, Existing) for answer in answers):
        return await _with_static(db, answers)
    return answers


def _writes(batch: Batch) -> Iterable[tuple[str, list[Any]]]:
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
    if batch.counts:
        yield (sql.ADD_TOTAL, list(batch.counts.items()))


async def _with_static(db: aiosqlite.Connection, answers: list[Answer]) -> list[Answer]:
    """The answers, with what heads are read without put into the rows that a caller sees."""
    ids = sql.as_json({answer.record.id for answer in answers if isinstance(answer, Existing)})
    static = {name: rest for name, *rest in await db.execute_fetchall(sql.STATIC, (ids,))}
    complete: list[Answer] = []
    for answer in answers:
        if isinstance(answer, Existing):
            data, code, options = static[answer.record.id]
            complete.append(Existing(replace(answer.record, input=data, code=code, options=options)))
        else:
            complete.append(answer)
    return complete


async def pipeline(*calls: Any) -> list[Any]:
    """Hand several reads to the connection's thread at once, wait for all, and raise the first error.

    The thread takes them in order, so this saves the waits in between; those after a failed one are done all
    the same, so nothing in it may write.
    """
    if len(calls) == 1:
        return [await calls[0]]
    results = await asyncio.gather(*calls, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return list(results)


def unwritable(operation: Operation, error: Exception) -> RayflowError:
    """Why one operation cannot be written."""
    return StorageError(
        f"this {type(operation).__name__} of execution {operation.execution_id!r} cannot be written: {error}. Strings "
        "must be valid Unicode, numbers fit 64 bits, and no value be larger than 1 GB"
    )
