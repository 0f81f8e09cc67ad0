"""Rules of executions: pure functions that decide every operation, for all stores.

The rules (docs/architecture.md, "Rules of the protocol"):

* An epoch is claimed by compare-and-set, with the claimer's nonce; it is never assigned from memory.
* An append carries its epoch. A stale epoch is rejected with :class:`~rayflow.errors.WriterFenced`: its sender must
  stop. So is the epoch of an owner that has released the execution; that owner must claim it again before it writes.
* An append whose last entry is already durable at the same epoch is acknowledged and not applied again, if its digest
  is the same. With another digest it is a :class:`~rayflow.errors.CorruptRecord`.
* A dead letter is written with its journal entry, and deleted by the rewind that supersedes that entry. Of a step's
  notes the newest is kept; one that arrives late changes nothing.
* Messages from outside are inbox rows, unique by key. A row for an execution without an owner makes it runnable in the
  same transaction. So an inbox row that is not applied belongs to an execution with an owner or with a time at which it
  needs one; the exception is an owner that saw the row and released the execution (paused, results kept for later).
* A store has one writer. Its epoch rises with every claim and is checked in every transaction.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from rayflow.errors import CorruptRecord, ExecutionNotFound, InvalidTransition, WriterFenced
from rayflow.ids import ExecutionStatus
from rayflow.storage.codec.journal import decode_failure
from rayflow.storage.damage import DamagedRecord
from rayflow.storage.model import DeadLetter, ExecutionRecord, InboxRow, JournalRow, StepNote
from rayflow.storage.operations import (
    AlreadyExists,
    Append,
    Claim,
    Deliver,
    Done,
    ExecutionOperation,
    Note,
    Park,
    Rejected,
    Rewind,
    Start,
)

#: Characters of a failure's class or message by which lists find executions.
LONGEST_ERROR = 300

_NOTHING: Mapping[str, float] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Write:
    """Changes of one execution that a store writes in the transaction in which it read the row."""

    record: ExecutionRecord
    answer: Done
    rows: tuple[JournalRow, ...] = ()
    inbox: tuple[InboxRow, ...] = ()
    #: Dead letters to add, and the position after which the execution's stored ones go before that.
    letters: tuple[DeadLetter, ...] = ()
    letters_after: int | None = None
    notes: tuple[StepNote, ...] = ()
    #: What to add to the store's totals, in the same transaction.
    counts: Mapping[str, float] = field(default_factory=dict)
    #: The position before which the journal's rows go, and the input of the next run.
    journal_from: int | None = None
    next_run: bytes | None = None


def decide(
    record: ExecutionRecord | None,
    operation: ExecutionOperation,
    *,
    known_key: bool = False,
    with_parent: bool = False,
) -> Write | AlreadyExists | Rejected:
    """Decide whether an operation may be applied to a row, and what it writes.

    Args:
        record: the execution's row as read in this transaction, or None.
        operation: the operation.
        known_key: for :class:`Deliver`, whether the inbox has ever had a row of that key.
        with_parent: for :class:`Rewind`, whether it belongs to a child that continues with its parent.
    """
    if isinstance(record, DamagedRecord):
        return Rejected(record.error)
    if isinstance(operation, Start):
        return _start(operation) if record is None else AlreadyExists(record)
    if record is None:
        return Rejected(ExecutionNotFound(operation.execution_id))
    match operation:
        case Claim():
            return _claim(record, operation)
        case Append():
            return _append(record, operation)
        case Park():
            return _release(record, operation)
        case Deliver():
            return _deliver(record, operation, known_key=known_key)
        case Rewind():
            return _rewind(record, operation, with_parent=with_parent)
        case Note():
            return _note(record, operation)


def _start(op: Start) -> Write:
    known = op.record.inbox_last
    record = replace(op.record, inbox_last=known + len(op.carried))
    return _write(record, rows=op.rows, inbox=_numbered(op.carried, known + 1), counts={"executions_started": 1})


def _numbered(rows: tuple[InboxRow, ...], first: int) -> tuple[InboxRow, ...]:
    return tuple(replace(row, number=number) for number, row in enumerate(rows, start=first))


def _write(
    record: ExecutionRecord,
    *,
    rows: tuple[JournalRow, ...] = (),
    inbox: tuple[InboxRow, ...] = (),
    letters: tuple[DeadLetter, ...] = (),
    letters_after: int | None = None,
    notes: tuple[StepNote, ...] = (),
    parked: bool = False,
    counts: Mapping[str, float] = _NOTHING,
) -> Write:
    return Write(record, _done(record, parked=parked), rows, inbox, letters, letters_after, notes, counts)


def _done(record: ExecutionRecord, *, parked: bool) -> Done:
    return Done(epoch=record.epoch, last_seq=record.last_seq, inbox_last=record.inbox_last, parked=parked)


def _stale(record: ExecutionRecord, epoch: int) -> Rejected:
    return Rejected(
        WriterFenced(f"execution {record.id!r} is at epoch {record.epoch}; epoch {epoch} may no longer write")
    )


def _given_up(record: ExecutionRecord) -> Rejected:
    return Rejected(
        WriterFenced(
            f"execution {record.id!r} was released at epoch {record.epoch} ({record.status}); claim it before you "
            "write to it"
        )
    )


def _claim(record: ExecutionRecord, op: Claim) -> Write | Rejected:
    if record.epoch == op.expected + 1 and record.owner == op.nonce:
        return _write(record)  # our own claim, sent again because its answer was lost
    if record.epoch != op.expected:
        return _stale(record, op.expected)
    if record.status.terminal:
        return Rejected(InvalidTransition(record.id, status=record.status, action="drive"))
    return _write(
        replace(
            record,
            # A rewound or forked execution may write no entry for a long time.
            status=ExecutionStatus.RUNNING
            if record.status is ExecutionStatus.PENDING and record.last_seq
            else record.status,
            epoch=op.expected + 1,
            owner=op.nonce,
            coordinator=op.coordinator,
            runnable_at=None,
            updated_at=op.at,
        )
    )


def _append(record: ExecutionRecord, op: Append) -> Write | Rejected:
    if record.epoch != op.epoch:
        return _stale(record, op.epoch)
    last = op.first_seq + len(op.rows) - 1
    if not op.rows or op.rows[0].seq != op.first_seq or op.rows[-1].seq != last:
        seqs = [row.seq for row in op.rows[:1] + op.rows[-1:]]
        return Rejected(CorruptRecord(record.id, f"an append of {op.first_seq} to {last} holds entries {seqs}"))
    if last <= record.last_seq:
        if last == record.last_seq and op.digest == record.last_digest:
            return _write(record, parked=record.owner == "")  # sent again; already durable
        if last < record.last_seq:
            return _write(record)  # an older append of this epoch, late: it is in there
        return Rejected(CorruptRecord(record.id, f"two different appends end at entry {last} in epoch {op.epoch}"))
    if record.owner == "":
        return _given_up(record)
    if op.first_seq != record.last_seq + 1:
        return Rejected(
            CorruptRecord(
                record.id, f"append begins at entry {op.first_seq}, but the journal ends at {record.last_seq}"
            )
        )
    for letter in op.dead_letters:
        if letter.execution_id != record.id or not op.first_seq <= letter.seq <= last:
            return Rejected(
                CorruptRecord(
                    record.id,
                    f"an append of {op.first_seq} to {last} holds a dead letter of entry {letter.seq} of "
                    f"{letter.execution_id!r}",
                )
            )
    return _apply(record, op, last)


def error_of(failure: bytes | None) -> tuple[str, str]:
    """Return class and shortened message of an encoded failure; empty texts without a failure or if it is damaged."""
    if failure is None:
        return "", ""
    try:
        found = decode_failure(failure)
    except CorruptRecord:
        return "", ""
    return _shortened(found.type), _shortened(found.message)


def _shortened(text: str) -> str:
    # A message may hold halves of surrogate pairs, which a database does not accept as text.
    return text[:LONGEST_ERROR].encode(errors="replace").decode()


def _apply(record: ExecutionRecord, op: Append, last: int) -> Write:
    over, again = op.status.terminal, op.next_run is not None
    counts = dict(op.counts)
    if over:
        counts[f"executions_{op.status}"] = counts.get(f"executions_{op.status}", 0) + 1
        counts["execution_seconds"] = counts.get("execution_seconds", 0) + max(0.0, op.at - record.created_at)
    error_type, error_text = error_of(op.failure)
    written = replace(
        record,
        status=op.status,
        updated_at=op.at,
        last_seq=last,
        last_digest=op.digest,
        inbox_done=max(record.inbox_done, op.inbox_done),
        owner="" if over or again else record.owner,
        runnable_at=op.at if again else None,
        deadline=record.deadline if op.deadline is None else op.deadline,
        result=op.result,
        failure=op.failure,
        error_type=error_type,
        error_text=error_text,
        waits=record.waits if op.waits is None else op.waits,
        run=record.run + again,
        expires_at=op.expires_at if over else None,
    )
    return Write(
        written,
        _done(written, parked=over or again),
        rows=op.rows,
        letters=op.dead_letters,
        counts=counts,
        journal_from=last if again else None,
        next_run=op.next_run,
    )


def _release(record: ExecutionRecord, op: Park) -> Write | Rejected:
    if record.epoch != op.epoch:
        return _stale(record, op.epoch)
    if record.owner == "":
        return _write(record, parked=True)  # sent again, or finished: an inbox row may have set an earlier time since
    if op.seen is not None and record.inbox_last > op.seen:
        return _write(record)
    unread = op.seen is None and record.inbox_last > record.inbox_done
    wake = op.at if unread and (op.runnable_at is None or op.runnable_at > op.at) else op.runnable_at
    waits = record.waits if op.waits is None else op.waits
    return _write(replace(record, owner="", runnable_at=wake, updated_at=op.at, waits=waits), parked=True)


def _deliver(record: ExecutionRecord, op: Deliver, *, known_key: bool) -> Write | Rejected:
    if op.epoch is not None and op.epoch != record.epoch:
        return _stale(record, op.epoch)
    if known_key:
        return _write(record)
    if op.epoch is not None and record.owner == "":
        return _given_up(record)
    if record.status.terminal:
        return Rejected(InvalidTransition(record.id, status=record.status, action=op.row.kind))
    number = record.inbox_last + 1
    wake = record.runnable_at
    if record.owner == "" and not _begins_later(record, op):
        wake = op.row.at if wake is None else min(wake, op.row.at)
    return _write(
        replace(record, inbox_last=number, runnable_at=wake, updated_at=max(record.updated_at, op.row.at)),
        inbox=(replace(op.row, number=number),),
    )


def _begins_later(record: ExecutionRecord, op: Deliver) -> bool:
    """Return whether the row has to wait for the delayed start of the execution."""
    fresh = record.epoch == 0  # it never had an owner, though a fork has a journal already
    return fresh and op.row.kind == "signal" and record.runnable_at is not None and record.runnable_at > op.row.at


def _rewind(record: ExecutionRecord, op: Rewind, *, with_parent: bool) -> Write | Rejected:
    if op.row.seq != op.last_seq + 1:
        return Rejected(CorruptRecord(record.id, f"a rewind after entry {op.last_seq} holds entry {op.row.seq}"))
    if is_rewound(record, op):
        return _write(record)  # our own rewind, sent again because its answer was lost
    if record.epoch != op.expected or record.last_seq != op.last_seq:
        return _stale(record, op.expected)
    if record.status is not ExecutionStatus.FAILED and not (with_parent and record.status is ExecutionStatus.CANCELLED):
        return Rejected(InvalidTransition(record.id, status=record.status, action="resume"))
    inbox = _numbered(op.carried, record.inbox_last + 1)
    return _write(
        replace(
            record,
            status=ExecutionStatus.PENDING,
            epoch=record.epoch + 1,
            owner="",
            last_seq=op.row.seq,
            last_digest=op.digest,
            inbox_last=record.inbox_last + len(inbox),
            inbox_done=record.inbox_last,  # of what came too late, the signals are carried along
            runnable_at=op.at,
            deadline=op.deadline,
            updated_at=op.at,
            failure=None,
            error_type="",
            error_text="",
            waits="",
            expires_at=None,
        ),
        rows=(op.row,),
        inbox=inbox,
        letters_after=op.to,
    )


def is_rewound(record: ExecutionRecord, op: Rewind) -> bool:
    """Return whether this operation was the last one that was applied."""
    return (record.epoch, record.last_seq, record.last_digest) == (op.expected + 1, op.row.seq, op.digest)


def _note(record: ExecutionRecord, op: Note) -> Write | Rejected:
    if record.epoch != op.epoch:
        return _stale(record, op.epoch)
    if record.owner == "":
        return _given_up(record)
    if op.inbox_done > record.inbox_done:
        record = replace(record, inbox_done=op.inbox_done)
    return _write(record, notes=op.notes)


def newer_note(known: StepNote | None, note: StepNote) -> StepNote:
    """Return the newer of two notes of a step; the second one if both are of the same moment."""
    if known is not None and (known.attempt, known.at) > (note.attempt, note.at):
        return known
    return note
