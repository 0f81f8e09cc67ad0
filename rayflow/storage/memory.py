"""The Store contract in memory: for tests, and for engines that need not survive their process."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from rayflow.core.locks import Lock
from rayflow.core.waits import OTHERS
from rayflow.errors import Fenced, StorageUnavailable
from rayflow.storage.base import Filter
from rayflow.storage.batch import Batch
from rayflow.storage.kept import DeadLetter, DefinitionRecord, PoolRecord, ScheduleRecord, StepNote
from rayflow.storage.operations import Answer, ExecutionRecord, InboxRow, JournalRow, Operation
from rayflow.storage.rules import Writer, check_writer, newer_note, next_writer


@dataclass(slots=True)
class MemoryData:
    """What a memory store holds. Give one to several stores, and they are one store with several clients."""

    executions: dict[str, ExecutionRecord] = field(default_factory=dict)
    journals: dict[str, list[JournalRow]] = field(default_factory=dict)
    inboxes: dict[str, list[InboxRow]] = field(default_factory=dict)
    keys: set[tuple[str, str]] = field(default_factory=set)
    letters: dict[tuple[str, int], DeadLetter] = field(default_factory=dict)
    notes: dict[str, dict[int, StepNote]] = field(default_factory=dict)
    locks: dict[str, Lock] = field(default_factory=dict)
    schedules: dict[str, ScheduleRecord] = field(default_factory=dict)
    definitions: dict[tuple[str, str], DefinitionRecord] = field(default_factory=dict)
    pools: dict[str, PoolRecord] = field(default_factory=dict)
    blobs: dict[str, bytes] = field(default_factory=dict)
    totals: dict[str, float] = field(default_factory=dict)
    writer: Writer = field(default_factory=Writer)


class _Reads:
    """See :class:`~rayflow.storage.batch.Reads`."""

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
        found = (r.id for r in self._data.executions.values() if r.singleton == key and not r.status.terminal)
        return next(found, None)

    def schedule(self, name: str) -> ScheduleRecord | None:
        return self._data.schedules.get(name)


class MemoryStore:
    """A store in memory. No call waits for anything, so each is atomic among the tasks of its event loop.

    Args:
        url: what the store is called.
        data: what it holds; None for a new, empty store. Kept when the store is closed.
    """

    def __init__(self, url: str = "memory://", *, data: MemoryData | None = None) -> None:
        self.url = url
        self.data = MemoryData() if data is None else data
        self._open = False
        self._read_only = False
        self._epoch: int | None = None
        self._fenced: Fenced | None = None

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
        self._check_writer()
        data = self.data
        batch = Batch(_Reads(data))
        answers = [batch.apply(operation) for operation in operations]
        for name in [*batch.started, *batch.changed]:
            record = batch.heads[name]
            assert record is not None
            data.executions[name] = record if name not in batch.inputs else replace(record, input=batch.inputs[name])
        for name, entry in batch.journal:
            data.journals.setdefault(name, []).append(entry)
        for name, first in batch.journal_from.items():
            data.journals[name] = [row for row in data.journals[name] if row.seq >= first]
            data.notes.pop(name, None)  # they are of steps that are no more
        data.locks.update((name, lock) for name, (_, lock) in batch.locks.items())
        data.schedules.update(batch.schedules)
        for name, row in batch.inbox:
            data.inboxes.setdefault(name, []).append(row)
            data.keys.add((name, row.key))
        self._write_letters(batch)
        for (name, step), note in batch.notes.items():
            kept = data.notes.setdefault(name, {})
            kept[step] = newer_note(kept.get(step), note)
        for counter, amount in batch.counts.items():
            data.totals[counter] = data.totals.get(counter, 0.0) + amount
        return answers

    def _write_letters(self, batch: Batch) -> None:
        letters = self.data.letters
        for letter in list(letters.values() if batch.letters_after else ()):
            last = batch.letters_after.get(letter.execution_id)
            if last is not None and letter.seq > last:
                del letters[letter.execution_id, letter.step]
        for key, letter in batch.letters.items():
            letters.pop(key, None)  # so that it becomes the last one
            letters[key] = letter

    async def execution(self, execution_id: str) -> ExecutionRecord | None:
        """See Store."""
        self._check_open()
        return self.data.executions.get(execution_id)

    async def executions(self, query: Filter) -> list[ExecutionRecord]:
        """See Store."""
        self._check_open()
        found = [record for record in self.data.executions.values() if _fits(record, query)]
        if query.parent is not None:
            found.sort(key=lambda record: record.created_at)
        elif query.runnable_before is not None:
            found.sort(key=lambda record: (record.runnable_at or 0.0, -record.priority))
        else:
            found.reverse()
            found.sort(key=lambda record: record.created_at, reverse=True)
        return found[: query.limit]

    async def journal(self, execution_id: str, *, after: int = 0) -> list[JournalRow]:
        """See Store."""
        self._check_open()
        return [row for row in self.data.journals.get(execution_id, []) if row.seq > after]

    async def inbox(self, execution_id: str, *, after: int = 0) -> list[InboxRow]:
        """See Store."""
        self._check_open()
        record = self.data.executions.get(execution_id)
        if record is None:
            return []
        return self.data.inboxes.get(execution_id, [])[max(after, record.inbox_done) :]  # gapless from 1

    async def locks(self, names: Sequence[str] | None = None) -> list[Lock]:
        """See Store."""
        self._check_open()
        wanted = [name for name, lock in self.data.locks.items() if lock.claims] if names is None else names
        return [self.data.locks[name] for name in sorted(wanted) if name in self.data.locks]

    async def save_schedule(self, record: ScheduleRecord) -> None:
        """See Store."""
        self._check_writer()
        self.data.schedules[record.name] = record

    async def schedules(self) -> list[ScheduleRecord]:
        """See Store."""
        self._check_open()
        return sorted(self.data.schedules.values(), key=lambda record: record.name)

    async def delete_schedule(self, name: str) -> bool:
        """See Store."""
        self._check_writer()
        return self.data.schedules.pop(name, None) is not None

    async def versions(self) -> list[tuple[str, str, int]]:
        """See Store."""
        self._check_open()
        unfinished = [r for r in self.data.executions.values() if not r.status.terminal]
        counts = Counter((record.workflow_id, record.version) for record in unfinished)
        return [(workflow, version, count) for (workflow, version), count in sorted(counts.items())]

    async def notes(self, execution_id: str) -> list[StepNote]:
        """See Store."""
        self._check_open()
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
        self._check_open()
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
        self._check_writer()
        return sum(self.data.letters.pop((key[0], key[1]), None) is not None for key in keys)

    async def save_definition(self, record: DefinitionRecord) -> None:
        """See Store."""
        self._check_writer()
        key = (record.workflow_id, record.version)
        self.data.definitions.pop(key, None)  # so that it becomes the last one
        self.data.definitions[key] = record

    async def definition(self, workflow_id: str, version: str | None = None) -> DefinitionRecord | None:
        """See Store."""
        found = [record for record in await self.definitions() if record.workflow_id == workflow_id]
        return next((record for record in found if version is None or record.version == version), None)

    async def definitions(self) -> list[DefinitionRecord]:
        """See Store."""
        self._check_open()
        found = list(self.data.definitions.values())
        found.reverse()  # of those saved at one time, the last first
        return sorted(found, key=lambda record: (record.workflow_id, -record.saved_at))

    async def delete_definition(self, workflow_id: str) -> bool:
        """See Store."""
        self._check_writer()
        versions = [key for key in self.data.definitions if key[0] == workflow_id]
        for key in versions:
            del self.data.definitions[key]
        return bool(versions)

    async def save_pool(self, record: PoolRecord) -> None:
        """See Store."""
        self._check_writer()
        self.data.pools[record.name] = record

    async def pools(self) -> list[PoolRecord]:
        """See Store."""
        self._check_open()
        return sorted(self.data.pools.values(), key=lambda record: record.name)

    async def delete_pool(self, name: str) -> bool:
        """See Store."""
        self._check_writer()
        return self.data.pools.pop(name, None) is not None

    async def put_blob(self, digest: str, data: bytes) -> None:
        """See Store."""
        self._check_writer()
        self.data.blobs.setdefault(digest, data)

    async def blob(self, digest: str) -> bytes | None:
        """See Store."""
        self._check_open()
        return self.data.blobs.get(digest)

    async def delete_executions(self, ids: Sequence[str]) -> int:
        """See Store."""
        self._check_writer()
        data = self.data
        over = [
            name for name in dict.fromkeys(ids) if name in data.executions and data.executions[name].status.terminal
        ]
        for name in over:
            del data.executions[name]
            data.journals.pop(name, None)
            data.notes.pop(name, None)
            data.keys.difference_update((name, row.key) for row in data.inboxes.pop(name, ()))
        data.letters = {key: letter for key, letter in data.letters.items() if key[0] not in over}
        return len(over)

    async def totals(self) -> dict[str, float]:
        """See Store."""
        self._check_open()
        return dict(self.data.totals)

    # --- checks --------------------------------------------------------------------------------------------
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
        except Fenced as error:
            self._fenced = error
            raise


def _fits(record: ExecutionRecord, query: Filter) -> bool:
    if query.ids is not None and record.id not in query.ids:
        return False
    if query.status and record.status not in query.status:
        return False
    if query.workflow_id is not None and record.workflow_id != query.workflow_id:
        return False
    if query.runnable_before is not None and (record.runnable_at is None or record.runnable_at > query.runnable_before):
        return False
    if query.driven and record.owner == "" and record.runnable_at is None:
        return False
    if query.stuck and not (
        record.owner == ""
        and record.runnable_at is None
        and record.waits.startswith(OTHERS)
        and not record.status.terminal
    ):
        return False
    if query.parent not in (None, record.parent) or query.schedule not in (None, record.schedule):
        return False
    return not query.unread_inbox or (record.owner != "" and record.inbox_last > record.inbox_done)
