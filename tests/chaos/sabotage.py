"""Takes a rule out of rayflow in the processes of one run, to show that the run notices.

``RAYFLOW_CHAOS_SABOTAGE`` names the rule; ``outside/sitecustomize.py`` puts it into effect when a process begins.
Nothing of rayflow knows about this: functions are replaced from outside.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import aiosqlite

from rayflow.errors import CorruptRecord
from rayflow.runtime import batches, fleet
from rayflow.storage import _sqlite_batch, batch, rules, sqlite
from rayflow.storage._sqlite_open import on_thread
from rayflow.storage.operations import Append, ExecutionOperation, ExecutionRecord, Existing, Refused

#: The variable that names what is sabotaged.
VARIABLE = "RAYFLOW_CHAOS_SABOTAGE"
#: Seconds after which acknowledged transactions are made durable, with ``acks``.
LATE = 0.8


def apply(what: str) -> None:
    """Take a rule out of this process. Raises KeyError for what is none of SABOTAGES."""
    SABOTAGES[what]()


class _Unarmed:
    """An actor system that kills nobody."""

    def __init__(self, system: Any) -> None:
        self._system = system

    def __getattr__(self, name: str) -> Any:
        return getattr(self._system, name)

    def kill(self, name: str, *, restart: bool = False) -> None:
        pass


def partition() -> None:
    """No rule: a coordinator that hangs cannot be reached to be killed, as on a node that is cut off.

    With all rules in place that does no harm.
    """

    def fails(self: fleet.Fleet, name: str, why: str) -> None:
        fleet.log.error("coordinator %s cannot be reached to be killed: %s", name, why)
        self._gone(name)

    adopt = fleet.Fleet.adopt

    def adopts(self: Any) -> dict[str, tuple[str, int]]:
        system, self._system = self._system, _Unarmed(self._system)
        try:
            return adopt(self)
        finally:
            self._system = system

    fleet.Fleet._fails = fails  # type: ignore[method-assign]
    fleet.Fleet.adopt = adopts  # type: ignore[method-assign]


def fencing() -> None:
    """Coordinators write and workers obey, whatever their epochs; and one that hangs cannot be killed."""
    partition()
    append = rules._append

    def unfenced(record: ExecutionRecord, op: Append) -> rules.Write | Refused:
        return append(replace(record, owner=record.owner or "anybody"), replace(op, epoch=record.epoch))

    def unheeded(self: batches.Batches, execution_id: str, epoch: int) -> None:
        pass

    rules._append = unfenced
    batches.Batches.revoke = unheeded  # type: ignore[method-assign]


def acks() -> None:
    """Commits are answered before they are durable: a killed store's actor takes acknowledged ones with it."""
    begun: dict[int, float] = {}

    def late(
        db: sqlite3.Connection, check: Callable[[Any], None], body: Callable[[sqlite3.Connection, Any], Any]
    ) -> Any:
        if not db.in_transaction:
            db.execute("BEGIN IMMEDIATE")
            begun[id(db)] = time.monotonic()
        writer = _sqlite_batch.read_writer(db)
        check(writer)
        answer = body(db, writer)
        if time.monotonic() - begun[id(db)] > LATE:
            db.execute("COMMIT")
        return answer

    async def read(self: sqlite.SqliteStore, statement: str, values: Sequence[Any] = ()) -> list[Any]:
        db = self._writer or self._reader  # the writer's connection sees what is not durable yet
        assert isinstance(db, aiosqlite.Connection)
        return list(await on_thread(db, lambda connection: connection.execute(statement, values).fetchall()))

    def commit(db: sqlite3.Connection, operations: Sequence[Any], check: Callable[[Any], None]) -> Any:
        return _sqlite_batch.apply(db, operations)

    vars(sqlite).update(transaction=late, commit=commit)
    sqlite.SqliteStore._read = read  # type: ignore[method-assign]


def commits() -> None:
    """What is sent again is applied again: neither appends nor keys of an inbox are recognised."""
    append, decide = rules._append, rules.decide

    def forgetful(record: ExecutionRecord, op: Append) -> rules.Write | Refused:
        if record.epoch == op.epoch and op.first_seq <= record.last_seq:
            return Refused(CorruptRecord(record.id, f"an append begins at entry {op.first_seq}, which is there"))
        return append(record, op)

    def unkeyed(
        record: ExecutionRecord | None,
        operation: ExecutionOperation,
        *,
        known_key: bool = False,
        goes_along: bool = False,
    ) -> rules.Write | Existing | Refused:
        return decide(record, operation, goes_along=goes_along)

    rules._append = forgetful
    vars(batch).update(decide=unkeyed)


SABOTAGES: dict[str, Callable[[], None]] = {
    "partition": partition,
    "fencing": fencing,
    "acks": acks,
    "commits": commits,
}

__all__ = ["SABOTAGES", "VARIABLE", "apply"]
