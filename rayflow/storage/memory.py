"""Memory implementation of the ``Store`` contract, for tests and for engines that keep nothing."""

from __future__ import annotations

import bisect
import heapq
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from operator import itemgetter
from typing import TypeVar

from rayflow.core.execution.requests import OTHERS
from rayflow.core.locks.machine import Lock
from rayflow.errors import StorageUnavailable, WriterFenced
from rayflow.storage.base import Filter
from rayflow.storage.changes import Changes, MemoryData, apply, changes_of, purgeable
from rayflow.storage.model import (
    DeadLetter,
    DefinitionRecord,
    ExecutionRecord,
    InboxRow,
    JournalRow,
    KeyedRecord,
    PoolRecord,
    ScheduleRecord,
    StepNote,
    ValueRecord,
)
from rayflow.storage.operations import Answer, Operation
from rayflow.storage.query.comparisons import Test, all_of, test_of
from rayflow.storage.query.cursor import Position
from rayflow.storage.rules.large_values import plan_collection
from rayflow.storage.rules.retention import PurgeBatch, PurgeFilter
from rayflow.storage.rules.transaction import Transaction
from rayflow.storage.writer import Writer, check_writer, next_writer

__all__ = ["MemoryData", "MemoryStore"]

T = TypeVar("T")


class _Reads:
    """Reads of a transaction from memory."""

    def __init__(self, data: MemoryData) -> None:
        self._data = data

    def head(self, execution_id: str) -> ExecutionRecord | None:
        return self._data.executions.get(execution_id)

    def had_key(self, execution_id: str, key: str) -> bool:
        return (execution_id, key) in self._data.keys

    def lock(self, name: str) -> Lock | None:
        return self._data.locks.get(name)

    def locks_of(self, execution_id: str) -> list[str]:
        locks = self._data.locks.values()
        return [lock.name for lock in locks if any(claim.execution_id == execution_id for claim in lock.claims)]

    def leased_locks(self) -> list[str]:
        locks = self._data.locks.values()
        return [lock.name for lock in locks if any(claim.lease for claim in lock.claims)]

    def singleton(self, key: str) -> str | None:
        return next((name for name in self._data.unfinished if self._data.executions[name].singleton == key), None)

    def bound_children(self, execution_id: str) -> list[str]:
        found = (self._data.executions[name] for name in self._data.children.get(execution_id, ()))
        return [child.id for child in found if child.parent_step < 0 and not child.status.terminal]

    def schedule(self, name: str) -> ScheduleRecord | None:
        return self._data.schedules.get(name)

    def record(self, kind: str, key: str) -> KeyedRecord | None:
        return self._data.records.get((kind, key))

    def has_value(self, digest: str) -> bool:
        return digest in self._data.values


class MemoryStore:
    """Store in memory. No call waits for anything, so each call is atomic among the tasks of its event loop.

    Args:
        url: the store's URL, for messages.
        data: the records; None for a new, empty store. They are kept when the store is closed.
    """

    def __init__(self, url: str = "memory://", *, data: MemoryData | None = None) -> None:
        self.url = url
        self.data = MemoryData() if data is None else data
        self._open = False
        self._read_only = False
        self._epoch: int | None = None
        self._fenced: WriterFenced | None = None

    async def open(self, *, read_only: bool = False) -> None:
        """See Store."""
        self._open = True
        self._read_only = read_only

    async def close(self) -> None:
        """See Store."""
        if self._open and self._epoch == self.data.writer.epoch:
            self.data.writer = Writer(self._epoch, self.data.writer.nonce)
        self._open = False
        self._epoch = None

    async def claim_writer(self, nonce: str, *, now: float, fresh_for: float, take_over: bool = False) -> int:
        """See Store."""
        self._check_writable()
        self._check_not_fenced()
        claimed = next_writer(self.data.writer, nonce, now=now, fresh_for=fresh_for, take_over=take_over, url=self.url)
        self.data.writer = claimed
        self._epoch = claimed.epoch
        return claimed.epoch

    async def heartbeat(self, *, now: float) -> None:
        """See Store."""
        writer = self._check_writer()
        self.data.writer = Writer(writer.epoch, writer.nonce, now)

    async def commit(self, operations: Sequence[Operation]) -> list[Answer]:
        """See Store."""
        return await self._write(lambda: self._decide(operations))

    def _decide(self, operations: Sequence[Operation]) -> tuple[Changes, list[Answer]]:
        """Return the changes of operations, and their answers."""
        batch = Transaction(_Reads(self.data))
        answers = [batch.apply(operation) for operation in operations]
        return changes_of(batch, self.data), answers

    async def _write(self, decide: Callable[[], tuple[Changes, T]]) -> T:
        """Decide changes, apply them as one transaction, and return the answer."""
        self._check_writer()
        changes, answer = decide()
        apply(self.data, changes)
        return answer

    async def execution(self, execution_id: str) -> ExecutionRecord | None:
        """See Store."""
        await self._reading()
        return self.data.executions.get(execution_id)

    async def executions(self, query: Filter) -> list[ExecutionRecord]:
        """See Store."""
        await self._reading()
        test = all_of([*_tests(query), *filter(None, [test_of(query.where)])])
        found: Iterable[ExecutionRecord] = self._candidates(query)
        if test is not None:
            found = filter(test, found)
        if query.runnable_before is not None:
            found = sorted(found, key=lambda record: (record.runnable_at or 0.0, -record.priority, record.number))
        elif query.parent is not None:
            found = sorted(found, key=_position)
        elif self._few(query) is not None:
            found = sorted(found, key=_position, reverse=True)
        return list(islice(found, query.limit))

    def _candidates(self, query: Filter) -> Iterator[ExecutionRecord]:
        """Return the executions that a query may select: few of them, or more, newest first."""
        names = self._few(query)
        if names is None:
            first, last = self._span(query)
            names = map(itemgetter(2), reversed(self.data.order[first:last]))
        return map(self.data.executions.__getitem__, names)

    def _few(self, query: Filter) -> Iterable[str] | None:
        """Return the executions that a query may select, if an index finds them."""
        executions = self.data.executions
        equal = {each.field: each.value for each in query.where if each.operator == "="}
        parent = query.parent or equal.get("parent", "")
        ids = query.ids if query.ids is not None else (str(equal["id"]),) if "id" in equal else None
        if parent:
            return self.data.children.get(str(parent), ())
        if ids is not None:
            return (name for name in dict.fromkeys(ids) if name in executions)
        if query.runnable_before is not None or query.driven or query.stuck or query.unread_inbox:
            return self.data.unfinished
        return None

    def _span(self, query: Filter) -> tuple[int, int]:
        """Return the part of all executions, in their order, that starts in the time of a query and before its page."""
        order = self.data.order
        first, last = 0, len(order)
        if query.after is not None and query.parent is None:
            last = bisect.bisect_left(order, (*query.after, ""))
        for each in query.where:
            if each.field == "started" and isinstance(each.value, (int, float)):
                if each.operator in (">", ">=", "="):
                    first = max(first, bisect.bisect_left(order, (each.value, 0, "")))
                if each.operator in ("<", "<=", "="):
                    last = min(last, bisect.bisect_right(order, (each.value, sys.maxsize, "")))
        return first, last

    async def journal(self, execution_id: str, *, after: int = 0) -> list[JournalRow]:
        """See Store."""
        await self._reading()
        return [row for row in self.data.journals.get(execution_id, []) if row.seq > after]

    async def inbox(self, execution_id: str, *, after: int = 0) -> list[InboxRow]:
        """See Store."""
        await self._reading()
        record = self.data.executions.get(execution_id)
        if record is None:
            return []
        rows = self.data.inboxes.get(execution_id, [])
        before = rows[0].number - 1 if rows else 0  # they have no gaps, and those of a fork do not begin with 1
        return rows[max(0, max(after, record.inbox_done) - before) :]

    async def locks(self, names: Sequence[str] | None = None) -> list[Lock]:
        """See Store."""
        await self._reading()
        wanted = [name for name, lock in self.data.locks.items() if lock.claims] if names is None else names
        return [self.data.locks[name] for name in sorted(wanted) if name in self.data.locks]

    async def save_schedule(self, record: ScheduleRecord) -> None:
        """See Store."""
        await self._write(lambda: (Changes(schedules=[record]), None))

    async def schedules(self) -> list[ScheduleRecord]:
        """See Store."""
        await self._reading()
        return sorted(self.data.schedules.values(), key=lambda record: record.name)

    async def delete_schedule(self, name: str) -> bool:
        """See Store."""

        def decide() -> tuple[Changes, bool]:
            there = name in self.data.schedules
            return Changes(no_schedules=[name] if there else []), there

        return await self._write(decide)

    async def records(
        self, kind: str, *, execution_id: str | None = None, after: str = "", limit: int = 1000
    ) -> list[KeyedRecord]:
        """See Store."""
        await self._reading()
        found = (
            record
            for record in self.data.records.values()
            if record.kind == kind and record.key > after and execution_id in (None, record.execution_id)
        )
        return heapq.nsmallest(limit, found, key=lambda record: record.key)

    async def versions(self) -> list[tuple[str, str, int]]:
        """See Store."""
        await self._reading()
        unfinished = (self.data.executions[name] for name in self.data.unfinished)
        counts = Counter((record.workflow_id, record.version) for record in unfinished)
        return [(workflow, version, count) for (workflow, version), count in sorted(counts.items())]

    async def notes(self, execution_id: str) -> list[StepNote]:
        """See Store."""
        await self._reading()
        return sorted(self.data.notes.get(execution_id, {}).values(), key=lambda note: note.step)

    async def dead_letters(
        self,
        *,
        execution_id: str | None = None,
        workflow_id: str | None = None,
        step: int | None = None,
        limit: int = 1000,
    ) -> list[DeadLetter]:
        """See Store."""
        await self._reading()
        found = [
            letter
            for letter in self.data.letters.values()
            if execution_id in (None, letter.execution_id)
            and workflow_id in (None, letter.workflow_id)
            and step in (None, letter.step)
        ]
        found.reverse()
        return sorted(found, key=lambda letter: letter.at, reverse=True)[:limit]

    async def delete_dead_letters(self, keys: Sequence[tuple[str, int]]) -> int:
        """See Store."""

        def decide() -> tuple[Changes, int]:
            there = [key for key in dict.fromkeys((key[0], key[1]) for key in keys) if key in self.data.letters]
            return Changes(no_letters=there), len(there)

        return await self._write(decide)

    async def save_definition(self, record: DefinitionRecord) -> None:
        """See Store."""
        await self._write(lambda: (Changes(definitions=[record]), None))

    async def definition(self, workflow_id: str, version: str | None = None) -> DefinitionRecord | None:
        """See Store."""
        found = [record for record in await self.definitions() if record.workflow_id == workflow_id]
        return next((record for record in found if version is None or record.version == version), None)

    async def definitions(self) -> list[DefinitionRecord]:
        """See Store."""
        await self._reading()
        found = list(self.data.definitions.values())
        found.reverse()  # of those saved at one time, the last first
        return sorted(found, key=lambda record: (record.workflow_id, -record.saved_at))

    async def delete_definition(self, workflow_id: str) -> bool:
        """See Store."""

        def decide() -> tuple[Changes, bool]:
            there = any(key[0] == workflow_id for key in self.data.definitions)
            return Changes(no_definitions=[workflow_id] if there else []), there

        return await self._write(decide)

    async def save_pool(self, record: PoolRecord) -> None:
        """See Store."""
        await self._write(lambda: (Changes(pools=[record]), None))

    async def pools(self) -> list[PoolRecord]:
        """See Store."""
        await self._reading()
        return sorted(self.data.pools.values(), key=lambda record: record.name)

    async def delete_pool(self, name: str) -> bool:
        """See Store."""

        def decide() -> tuple[Changes, bool]:
            there = name in self.data.pools
            return Changes(no_pools=[name] if there else []), there

        return await self._write(decide)

    async def put_blob(self, digest: str, data: bytes) -> None:
        """See Store."""
        self._check_writer()
        self.data.blobs.setdefault(digest, data)

    async def blob(self, digest: str) -> bytes | None:
        """See Store."""
        await self._reading()
        return self.data.blobs.get(digest)

    async def put_value(self, digest: str, data: bytes, *, now: float) -> None:
        """See Store."""

        def decide() -> tuple[Changes, None]:
            self.data.contents.setdefault(digest, data)
            return Changes(values=[self._renewed(digest, len(data), now)]), None

        await self._write(decide)

    def _renewed(self, digest: str, size: int, now: float, place: str = "") -> ValueRecord:
        """Return the record of a large value that was put now."""
        known = self.data.values.get(digest)
        if known is None:
            return ValueRecord(digest, size, now, place)
        return replace(known, free_at=None if digest in self._referred() else now)

    def _referred(self) -> frozenset[str]:
        return frozenset(reference.digest for found in self.data.references.values() for reference in found)

    async def value(self, digest: str) -> bytes | None:
        """See Store."""
        await self._reading()
        return self.data.contents.get(digest)

    async def collect_values(self, *, now: float, grace: float, limit: int) -> int:
        """See Store."""
        gone = await self._write(lambda: self._plan_collection(now, grace, limit))
        for value in gone:
            self.data.contents.pop(value.digest, None)
        return len(gone)

    def _plan_collection(self, now: float, grace: float, limit: int) -> tuple[Changes, list[ValueRecord]]:
        changed, gone = plan_collection(self.data.values.values(), self._referred(), now, grace, limit)
        return Changes(values=changed, no_values=[value.digest for value in gone]), gone

    async def collect(self, over: PurgeFilter, *, dry_run: bool = False) -> PurgeBatch:
        """See Store."""
        if not dry_run:
            self._check_writer()
        await self._reading()
        found = purgeable(self.data, over, later=dry_run)
        if dry_run or not found.ids:
            return found

        def decide() -> tuple[Changes, PurgeBatch]:
            now = purgeable(self.data, over, later=False)
            return Changes(no_executions=list(now.ids)), now

        return await self._write(decide)

    async def reclaim(self) -> bool:
        """See Store. Memory is free at once."""
        self._check_writer()
        return False

    async def totals(self) -> dict[str, float]:
        """See Store."""
        await self._reading()
        return dict(self.data.totals)

    async def _reading(self) -> None:
        """Prepare the records for a read."""
        self._check_open()

    def _check_open(self) -> None:
        if not self._open:
            raise StorageUnavailable(f"store {self.url} is not open; call open() first")

    def _check_writable(self) -> None:
        self._check_open()
        if self._read_only:
            raise StorageUnavailable(f"store {self.url} was opened read-only; open it without read_only to write")
        if self._fenced is not None:
            raise self._fenced

    def _check_writer(self) -> Writer:
        self._check_writable()
        if self._epoch is None:
            raise StorageUnavailable(f"store {self.url} was not claimed for writing; call claim_writer() first")
        self._check_not_fenced()
        return self.data.writer

    def _check_not_fenced(self) -> None:
        try:
            if self._epoch is not None:
                check_writer(self.data.writer, self._epoch, self.url)
        except WriterFenced as error:
            self._fenced = error
            raise


def _position(record: ExecutionRecord) -> Position:
    return (record.created_at, record.number)


def _tests(query: Filter) -> Iterator[Test]:
    """Yield the conditions of a query, its comparisons apart."""
    if query.after is not None:
        after, forward = query.after, query.parent is not None
        yield lambda record: _position(record) > after if forward else _position(record) < after
    for name, wanted in (("workflow_id", query.workflow_id), ("parent", query.parent), ("schedule", query.schedule)):
        if wanted is not None:
            yield _equals(name, wanted)
    if query.ids is not None:
        ids = frozenset(query.ids)
        yield lambda record: record.id in ids
    if query.status:
        yield lambda record: record.status in query.status
    if query.runnable_before is not None:
        due = query.runnable_before
        yield lambda record: record.runnable_at is not None and record.runnable_at <= due
    if query.driven:
        yield lambda record: record.owner != "" or record.runnable_at is not None
    if query.stuck:
        yield _is_stuck
    if query.unread_inbox:
        yield lambda record: record.owner != "" and record.inbox_last > record.inbox_done


def _equals(name: str, wanted: str) -> Test:
    return lambda record: bool(getattr(record, name) == wanted)


def _is_stuck(record: ExecutionRecord) -> bool:
    waits = record.owner == "" and record.runnable_at is None and record.waits.startswith(OTHERS)
    return waits and not record.status.terminal
