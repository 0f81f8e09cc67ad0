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

from rayflow.errors import ClusterError, CorruptRecord
from rayflow.runtime.actors import actor_group
from rayflow.runtime.supervisor import coordinators
from rayflow.runtime.worker import slots
from rayflow.storage.model import ExecutionRecord
from rayflow.storage.operations import AlreadyExists, Append, ExecutionOperation, Rejected
from rayflow.storage.rules import executions
from rayflow.storage.rules import transaction as batch
from rayflow.storage.sqlite import store, transactions
from rayflow.storage.sqlite.connections import on_thread

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
    hangs = actor_group.ActorGroup._hangs

    def unreachable(self: actor_group.ActorGroup, name: str, why: str) -> None:
        if self._kind != "coordinator":
            hangs(self, name, why)
            return
        actor_group.log.error("coordinator %s cannot be reached to be killed: %s", name, why)
        self.forget(name)
        self._tell_ended(name, ClusterError(why), True)  # noqa: FBT003 - a callback

    adopt = coordinators.CoordinatorRegistry.adopt

    def adopts(self: Any) -> dict[str, tuple[str, int]]:
        system, self._system = self._system, _Unarmed(self._system)
        try:
            return adopt(self)
        finally:
            self._system = system

    actor_group.ActorGroup._hangs = unreachable  # type: ignore[method-assign]
    coordinators.CoordinatorRegistry.adopt = adopts  # type: ignore[method-assign]


def fencing() -> None:
    """Coordinators write and workers obey, whatever their epochs; and one that hangs cannot be killed."""
    partition()
    append = executions._append

    def unfenced(record: ExecutionRecord, op: Append) -> executions.Write | Rejected:
        return append(replace(record, owner=record.owner or "anybody"), replace(op, epoch=record.epoch))

    def unheeded(self: slots.WorkerSlots, execution_id: str, epoch: int) -> None:
        pass

    executions._append = unfenced
    slots.WorkerSlots.revoke = unheeded  # type: ignore[method-assign]


def acks() -> None:
    """Commits are answered before they are durable: a killed store's actor takes acknowledged ones with it."""
    begun: dict[int, float] = {}

    def late(
        db: sqlite3.Connection, check: Callable[[Any], None], body: Callable[[sqlite3.Connection, Any], Any]
    ) -> Any:
        if not db.in_transaction:
            db.execute("BEGIN IMMEDIATE")
            begun[id(db)] = time.monotonic()
        writer = transactions.read_writer(db)
        check(writer)
        answer = body(db, writer)
        if time.monotonic() - begun[id(db)] > LATE:
            db.execute("COMMIT")
        return answer

    async def read(self: store.SqliteStore, statement: str, values: Sequence[Any] = ()) -> list[Any]:
        db = self._writer or self._reader  # the writer's connection sees what is not durable yet
        assert isinstance(db, aiosqlite.Connection)
        return list(await on_thread(db, lambda connection: connection.execute(statement, values).fetchall()))

    def commit(db: sqlite3.Connection, operations: Sequence[Any], check: Callable[[Any], None]) -> Any:
        return transactions.apply(db, operations)

    vars(store).update(transaction=late, commit=commit)
    store.SqliteStore._read = read  # type: ignore[method-assign]


def commits() -> None:
    """What is sent again is applied again: neither appends nor keys of an inbox are recognised."""
    append, decide = executions._append, executions.decide

    def forgetful(record: ExecutionRecord, op: Append) -> executions.Write | Rejected:
        if record.epoch == op.epoch and op.first_seq <= record.last_seq:
            return Rejected(CorruptRecord(record.id, f"an append begins at entry {op.first_seq}, which is there"))
        return append(record, op)

    def unkeyed(
        record: ExecutionRecord | None,
        operation: ExecutionOperation,
        *,
        known_key: bool = False,
        with_parent: bool = False,
    ) -> executions.Write | AlreadyExists | Rejected:
        return decide(record, operation, with_parent=with_parent)

    executions._append = forgetful
    vars(batch).update(decide=unkeyed)


SABOTAGES: dict[str, Callable[[], None]] = {
    "partition": partition,
    "fencing": fencing,
    "acks": acks,
    "commits": commits,
}

__all__ = ["SABOTAGES", "VARIABLE", "apply"]
