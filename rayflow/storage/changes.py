"""Changes of one transaction as data, and the records in memory to which they are applied.

A memory store applies :class:`Changes` to :class:`MemoryData`. An object store also writes them to its log, and applies
the log again when it is opened. Changes hold the resulting records, not the operations: so a log that an older rayflow
wrote gives the same records under newer rules.
"""

from __future__ import annotations

import bisect
import heapq
from collections.abc import Iterator
from dataclasses import dataclass, field, fields, replace
from itertools import islice
from operator import itemgetter

from rayflow.core.locks.machine import Lock
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
    ValueReference,
)
from rayflow.storage.rules.executions import newer_note
from rayflow.storage.rules.large_values import forgotten
from rayflow.storage.rules.retention import PurgeBatch, PurgeFilter, choose
from rayflow.storage.rules.transaction import Transaction
from rayflow.storage.writer import Writer

#: Executions in one part of a whole state.
_PART = 200


@dataclass(slots=True)
class MemoryData:
    """Records of a memory store. Several stores with the same data are one store with several clients.

    Attributes:
        order: start and number of each execution with its id, in that order.
        last_number: the highest number that an execution had since the records were read.
        unfinished: executions that have not ended.
        children: by parent, the executions that it started, in the order of their starts.
        expiring: moments at which executions may be deleted, with their ids, in that order.

    These five follow from the executions.
    """

    executions: dict[str, ExecutionRecord] = field(default_factory=dict)
    journals: dict[str, list[JournalRow]] = field(default_factory=dict)
    inboxes: dict[str, list[InboxRow]] = field(default_factory=dict)
    keys: set[tuple[str, str]] = field(default_factory=set)
    letters: dict[tuple[str, int], DeadLetter] = field(default_factory=dict)
    notes: dict[str, dict[int, StepNote]] = field(default_factory=dict)
    locks: dict[str, Lock] = field(default_factory=dict)
    schedules: dict[str, ScheduleRecord] = field(default_factory=dict)
    records: dict[tuple[str, str], KeyedRecord] = field(default_factory=dict)
    definitions: dict[tuple[str, str], DefinitionRecord] = field(default_factory=dict)
    pools: dict[str, PoolRecord] = field(default_factory=dict)
    blobs: dict[str, bytes] = field(default_factory=dict)
    values: dict[str, ValueRecord] = field(default_factory=dict)
    references: dict[str, list[ValueReference]] = field(default_factory=dict)
    #: The payloads of large values, where they are in memory, too.
    contents: dict[str, bytes] = field(default_factory=dict)
    totals: dict[str, float] = field(default_factory=dict)
    order: list[tuple[float, int, str]] = field(default_factory=list)
    last_number: int = 0
    unfinished: dict[str, None] = field(default_factory=dict)
    children: dict[str, dict[str, None]] = field(default_factory=dict)
    expiring: list[tuple[float, str]] = field(default_factory=list)
    writer: Writer = field(default_factory=Writer)


@dataclass(slots=True)
class Changes:
    """Changes of one transaction, applied in the order of the fields. Empty fields change nothing.

    The position of a field is part of the log's format: new fields are appended.

    Args:
        started: new executions.
        changed: new values of executions.
        inputs: executions that continue as new, with their inputs.
        journal: new entries, by execution.
        journal_from: positions before which entries are deleted, with all notes of the execution.
        locks: new values of locks.
        schedules: new values of schedules.
        inbox: new rows, by execution.
        letters_after: positions after which an execution's dead letters are deleted, before ``letters`` are added.
        letters: new dead letters.
        notes: notes of steps, by execution; a note that is older than the stored one changes nothing.
        counts: amounts to add to the totals.
        definitions: saved definitions.
        pools: saved pools.
        no_executions: executions to delete, with all that belongs to them.
        no_letters: dead letters to delete, by execution and step.
        no_schedules: schedules to delete.
        no_definitions: workflow ids of definitions to delete, with all versions.
        no_pools: pools to delete.
        references: references of new records; added before those of executions that continue as new are deleted.
        values: new values of large values.
        no_values: large values to delete, by digest.
        records: new values of keyed records.
        no_records: keyed records to delete, by kind and key.
    """

    started: list[ExecutionRecord] = field(default_factory=list)
    changed: list[ExecutionRecord] = field(default_factory=list)
    inputs: list[tuple[str, bytes]] = field(default_factory=list)
    journal: list[tuple[str, JournalRow]] = field(default_factory=list)
    journal_from: list[tuple[str, int]] = field(default_factory=list)
    locks: list[Lock] = field(default_factory=list)
    schedules: list[ScheduleRecord] = field(default_factory=list)
    inbox: list[tuple[str, InboxRow]] = field(default_factory=list)
    letters_after: list[tuple[str, int]] = field(default_factory=list)
    letters: list[DeadLetter] = field(default_factory=list)
    notes: list[tuple[str, StepNote]] = field(default_factory=list)
    counts: list[tuple[str, float]] = field(default_factory=list)
    definitions: list[DefinitionRecord] = field(default_factory=list)
    pools: list[PoolRecord] = field(default_factory=list)
    no_executions: list[str] = field(default_factory=list)
    no_letters: list[tuple[str, int]] = field(default_factory=list)
    no_schedules: list[str] = field(default_factory=list)
    no_definitions: list[str] = field(default_factory=list)
    no_pools: list[str] = field(default_factory=list)
    references: list[ValueReference] = field(default_factory=list)
    values: list[ValueRecord] = field(default_factory=list)
    no_values: list[str] = field(default_factory=list)
    records: list[KeyedRecord] = field(default_factory=list)
    no_records: list[tuple[str, str]] = field(default_factory=list)

    def __bool__(self) -> bool:
        return any(getattr(self, name) for name in FIELDS)


FIELDS = tuple(each.name for each in fields(Changes))


def changes_of(batch: Transaction, data: MemoryData) -> Changes:
    """Return the decisions of a transaction as changes, with numbers for new executions."""
    started = set(batch.started)
    return Changes(
        started=[
            replace(_head(batch, name), number=data.last_number + each) for each, name in enumerate(batch.started, 1)
        ],
        changed=[_head(batch, name) for name in batch.changed if name not in started],
        inputs=list(batch.inputs.items()),
        journal=batch.journal,
        journal_from=list(batch.journal_from.items()),
        locks=[lock for _, lock in batch.locks.values()],
        schedules=list(batch.schedules.values()),
        inbox=batch.inbox,
        letters_after=list(batch.letters_after.items()),
        letters=list(batch.letters.values()),
        notes=[(name, note) for (name, _), note in batch.notes.items()],
        counts=list(batch.counts.items()),
        references=batch.references,
        records=[record for record in batch.records.values() if record is not None],
        no_records=[key for key, record in batch.records.items() if record is None],
    )


def _head(batch: Transaction, name: str) -> ExecutionRecord:
    record = batch.heads[name]
    assert record is not None
    return record


def apply(data: MemoryData, changes: Changes) -> None:
    """Apply changes to the records. Raises KeyError if the records lack an execution that changes."""
    for record in changes.started:
        _insert(data, record)
    for record in changes.changed:
        _replace(data, data.executions[record.id], record)
    for name, given in changes.inputs:
        data.executions[name] = replace(data.executions[name], input=given)
    for name, entry in changes.journal:
        data.journals.setdefault(name, []).append(entry)
    for name, first in changes.journal_from:
        data.journals[name] = [row for row in data.journals[name] if row.seq >= first]
        data.notes.pop(name, None)  # they are of steps that are no more
    data.locks.update((lock.name, lock) for lock in changes.locks)
    data.schedules.update((schedule.name, schedule) for schedule in changes.schedules)
    for name, row in changes.inbox:
        data.inboxes.setdefault(name, []).append(row)
        data.keys.add((name, row.key))
    _apply_letters(data, changes)
    for name, note in changes.notes:
        kept = data.notes.setdefault(name, {})
        kept[note.step] = newer_note(kept.get(note.step), note)
    for counter, amount in changes.counts:
        data.totals[counter] = data.totals.get(counter, 0.0) + amount
    _apply_rare(data, changes)
    _apply_values(data, changes)


def _insert(data: MemoryData, record: ExecutionRecord) -> None:
    data.executions[record.id] = record
    bisect.insort(data.order, (record.created_at, record.number, record.id))
    data.last_number = max(data.last_number, record.number)
    if record.parent:
        data.children.setdefault(record.parent, {})[record.id] = None
    if not record.status.terminal:
        data.unfinished[record.id] = None
    if record.expires_at is not None:
        bisect.insort(data.expiring, (record.expires_at, record.id))


def _replace(data: MemoryData, known: ExecutionRecord, record: ExecutionRecord) -> None:
    data.executions[record.id] = record
    if known.status.terminal != record.status.terminal:
        if record.status.terminal:
            data.unfinished.pop(record.id, None)
        else:
            data.unfinished[record.id] = None
    if known.expires_at != record.expires_at:
        _forget_expiry(data, known)
        if record.expires_at is not None:
            bisect.insort(data.expiring, (record.expires_at, record.id))


def _forget_expiry(data: MemoryData, record: ExecutionRecord) -> None:
    if record.expires_at is not None:
        del data.expiring[bisect.bisect_left(data.expiring, (record.expires_at, record.id))]


def _delete(data: MemoryData, name: str) -> None:
    record = data.executions.pop(name)
    del data.order[bisect.bisect_left(data.order, (record.created_at, record.number, name))]
    data.unfinished.pop(name, None)
    _forget_expiry(data, record)
    siblings = data.children.get(record.parent, {})
    siblings.pop(name, None)
    if not siblings:
        data.children.pop(record.parent, None)
    data.journals.pop(name, None)
    data.notes.pop(name, None)
    data.references.pop(name, None)
    data.keys.difference_update((name, row.key) for row in data.inboxes.pop(name, ()))


def _apply_letters(data: MemoryData, changes: Changes) -> None:
    after = dict(changes.letters_after)
    for letter in list(data.letters.values() if after else ()):
        last = after.get(letter.execution_id)
        if last is not None and letter.seq > last:
            del data.letters[letter.execution_id, letter.step]
    for letter in changes.letters:
        key = (letter.execution_id, letter.step)
        data.letters.pop(key, None)  # so that it becomes the last one
        data.letters[key] = letter


def _apply_values(data: MemoryData, changes: Changes) -> None:
    for reference in changes.references:
        data.references.setdefault(reference.execution_id, []).append(reference)
        value = data.values.get(reference.digest)
        if value is not None and value.free_at is not None:
            data.values[value.digest] = replace(value, free_at=None)
    for name, first in changes.journal_from:
        record = data.executions[name]
        about = {"first": first, "inbox_done": record.inbox_done, "run": record.run}
        kept = [each for each in data.references.pop(name, ()) if not forgotten(each, **about)]
        if kept:  # records that were read back from a checkpoint have no empty lists either
            data.references[name] = kept
    data.values.update((value.digest, value) for value in changes.values)
    for digest in changes.no_values:
        del data.values[digest]


def _apply_rare(data: MemoryData, changes: Changes) -> None:
    for definition in changes.definitions:
        key = (definition.workflow_id, definition.version)
        data.definitions.pop(key, None)  # so that it becomes the last one
        data.definitions[key] = definition
    data.pools.update((pool.name, pool) for pool in changes.pools)
    for name in changes.no_executions:
        _delete(data, name)
    if gone := set(changes.no_executions):
        data.letters = {key: letter for key, letter in data.letters.items() if key[0] not in gone}
        data.records = {key: each for key, each in data.records.items() if each.execution_id not in gone}
    data.records.update(((record.kind, record.key), record) for record in changes.records)
    for record_key in changes.no_records:
        data.records.pop(record_key, None)
    for letter_key in changes.no_letters:
        del data.letters[letter_key]
    for name in changes.no_schedules:
        del data.schedules[name]
    if workflows := set(changes.no_definitions):
        data.definitions = {key: known for key, known in data.definitions.items() if key[0] not in workflows}
    for name in changes.no_pools:
        del data.pools[name]


def purgeable(data: MemoryData, over: PurgeFilter, *, later: bool) -> PurgeBatch:
    """Return the executions that may be deleted; see :func:`~rayflow.storage.rules.retention.choose`."""
    meant = (record for record in _candidates(data, over) if over.fits(record))
    rest = ((over.place(record), record) for record in meant if over.after is None or over.place(record) > over.after)
    first = [record for _, record in heapq.nsmallest(over.limit, rest, key=itemgetter(0))]
    found = choose(first, over, data.executions.get, later=later)
    return replace(found, size=sum(_size(data, name) for name in found.ids))


def _candidates(data: MemoryData, over: PurgeFilter) -> Iterator[ExecutionRecord]:
    """Return the executions that a filter may select."""
    if over.expired_by is None:
        yield from data.executions.values()
        return
    first = 0 if over.after is None else bisect.bisect_right(data.expiring, over.after)
    for at, name in islice(data.expiring, first, None):
        if at > over.expired_by:
            return
        yield data.executions[name]


def _size(data: MemoryData, name: str) -> int:
    record = data.executions[name]
    parts = [record.input, record.code, record.options, record.result or b"", record.failure or b""]
    parts.extend(entry.body for entry in data.journals.get(name, ()))
    parts.extend(row.body for row in data.inboxes.get(name, ()))
    return sum(map(len, parts))


def snapshot(data: MemoryData) -> MemoryData:
    """Return a copy of the records that later changes do not affect. Records are immutable and shared."""
    return MemoryData(
        executions=dict(data.executions),
        journals={name: list(rows) for name, rows in data.journals.items()},
        inboxes={name: list(rows) for name, rows in data.inboxes.items()},
        letters=dict(data.letters),
        notes={name: dict(notes) for name, notes in data.notes.items()},
        locks=dict(data.locks),
        schedules=dict(data.schedules),
        records=dict(data.records),
        definitions=dict(data.definitions),
        pools=dict(data.pools),
        values=dict(data.values),
        references={name: list(found) for name, found in data.references.items()},
        totals=dict(data.totals),
        order=list(data.order),
        last_number=data.last_number,
        unfinished=dict(data.unfinished),
        children={name: dict(found) for name, found in data.children.items()},
        expiring=list(data.expiring),
        writer=data.writer,
    )


def parts_of(data: MemoryData) -> Iterator[Changes]:
    """Return changes that build these records from nothing, without writer, code and payloads of large values."""
    names = iter(data.executions)
    while part := list(islice(names, _PART)):
        yield Changes(
            started=[data.executions[name] for name in part],
            journal=[(name, row) for name in part for row in data.journals.get(name, ())],
            inbox=[(name, row) for name in part for row in data.inboxes.get(name, ())],
            notes=[(name, note) for name in part for note in data.notes.get(name, {}).values()],
            references=[reference for name in part for reference in data.references.get(name, ())],
        )
    yield Changes(
        locks=list(data.locks.values()),
        schedules=list(data.schedules.values()),
        letters=list(data.letters.values()),
        counts=list(data.totals.items()),
        definitions=list(data.definitions.values()),
        pools=list(data.pools.values()),
        values=list(data.values.values()),
        records=list(data.records.values()),
    )
