"""Records of executions, the operations that change them, and their answers.

Everything that changes an execution is an *operation*; whether one may be applied, and what it changes, is decided by
pure functions (:mod:`rayflow.storage.rules.executions`, :mod:`rayflow.storage.rules.transaction`). What an operation
asks of other executions and of locks is in :mod:`rayflow.storage.operations`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from rayflow.errors import RayflowError
from rayflow.ids import ExecutionStatus
from rayflow.storage.model import DeadLetter, ExecutionRecord, InboxRow, JournalRow, KeyedRecord, StepNote

if TYPE_CHECKING:
    from rayflow.storage.model import ScheduleRecord


# --- operations -------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Start:
    """Create an execution. Answers :class:`Done`, or :class:`AlreadyExists` with the row that is there.

    Refused with SingletonExists where another unfinished execution has its singleton.

    Args:
        record: its row.
        rows: the journal that a fork begins with.
        carried: the inbox that it begins with; rows are numbered when they are added.
    """

    record: ExecutionRecord
    rows: tuple[JournalRow, ...] = ()
    carried: tuple[InboxRow, ...] = ()

    @property
    def execution_id(self) -> str:
        """The execution to be made."""
        return self.record.id


@dataclass(frozen=True, slots=True)
class Claim:
    """Become the execution's owner, if its epoch still is ``expected``."""

    execution_id: str
    expected: int
    nonce: str
    coordinator: str
    at: float


@dataclass(frozen=True, slots=True)
class Append:
    """Add entries to the journal, with what they change in the row, all or nothing.

    Args:
        execution_id: whose journal.
        epoch: the writer's epoch.
        first_seq: position of the first row.
        rows: encoded entries, at least one.
        digest: of the rows, to recognise this append when it is sent again.
        at: when.
        status: the status after these entries.
        inbox_done: inbox rows up to this number are applied by these entries.
        deadline: the new deadline; None leaves it.
        result: the encoded result, with a terminal status.
        failure: the encoded failure, or the reason of a pause.
        counts: what these entries add to the store's totals (steps completed, seconds of work …).
        dead_letters: of the failed steps among these entries, at the positions of those.
        asks: what these entries ask of other executions and of locks, in order. Each is done in this transaction, and
            answered by an inbox row of this execution.
        waits: what the execution waits for from now on; None leaves it.
        next_run: the execution continues as new: the encoded input of its next run. The journal before the last of
            these rows is deleted, and the execution is given up, to be taken up at once.
        expires_at: with a terminal status, when the execution may be deleted; None for never by itself.
        records: keyed records to write with these entries.
        no_records: kinds and keys of keyed records to delete with these entries.
    """

    execution_id: str
    epoch: int
    first_seq: int
    rows: tuple[JournalRow, ...]
    digest: str
    at: float
    status: ExecutionStatus
    inbox_done: int = 0
    deadline: float | None = None
    result: bytes | None = None
    failure: bytes | None = None
    counts: Mapping[str, float] = field(default_factory=dict)
    dead_letters: tuple[DeadLetter, ...] = ()
    asks: tuple[CrossOperation, ...] = ()
    waits: str | None = None
    next_run: bytes | None = None
    expires_at: float | None = None
    records: tuple[KeyedRecord, ...] = ()
    no_records: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Park:
    """Give an execution up without an entry: it needs no owner until ``runnable_at`` or an inbox row.

    Args:
        execution_id: the execution.
        epoch: the writer's epoch.
        runnable_at: when it is needed again by itself; None for never.
        at: when.
        seen: the newest inbox row that the owner has seen. If a newer one arrived, the execution is not given up,
            which ``Done.parked`` says. None gives it up in any case, to be taken up at once if rows are not applied.
        waits: what it waits for; None leaves what was said last.
    """

    execution_id: str
    epoch: int
    runnable_at: float | None
    at: float
    seen: int | None = None
    waits: str | None = None


@dataclass(frozen=True, slots=True)
class Deliver:
    """Put a row into the inbox, once per key. Refused with InvalidTransition when the execution is over."""

    execution_id: str
    row: InboxRow
    #: For rows that an owner itself keeps for later (results that arrive while paused): its epoch.
    epoch: int | None = None


@dataclass(frozen=True, slots=True)
class Rewind:
    """Let a failed execution go on: compare-and-set on epoch and journal, bump the epoch, append the entry.

    The dead letters of entries after ``to``, the last position that stays, are removed.

    Args:
        execution_id: the execution.
        expected: its epoch.
        last_seq: position of its newest entry.
        row: the entry that says so.
        digest: of that row, to recognise this operation when it is sent again.
        carried: what its inbox holds from now on.
        deadline: its new deadline.
        at: when.
        to: the last position that stays.
        children: executions that go on with it, all or nothing: those that it had given up, or that failed.
            They may be cancelled.
    """

    execution_id: str
    expected: int
    last_seq: int
    row: JournalRow
    digest: str
    carried: tuple[InboxRow, ...]
    deadline: float | None
    at: float
    to: int = 0
    children: tuple[Rewind, ...] = ()


@dataclass(frozen=True, slots=True)
class Note:
    """Keep what running steps reported, the newest of each step, and how far the inbox was applied without an entry.

    It changes nothing else of the execution.
    """

    execution_id: str
    epoch: int
    notes: tuple[StepNote, ...]
    inbox_done: int = 0


# --- answers ----------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Done:
    """Applied and durable (or it was already).

    Args:
        epoch: the execution's.
        last_seq: position of its newest entry.
        inbox_last: number of its newest inbox row.
        parked: whether nobody owns it any more.
        touched: other executions that were started, or have new inbox rows: their owners are to be told.
        token: of a lease: its fencing token; 0 while it waits.
    """

    epoch: int
    last_seq: int
    inbox_last: int
    parked: bool = False
    touched: tuple[str, ...] = ()
    token: int = 0


@dataclass(frozen=True, slots=True)
class AlreadyExists:
    """A start met an execution that is there already."""

    record: ExecutionRecord


@dataclass(frozen=True, slots=True)
class Rejected:
    """Not applied; ``error`` says why (Fenced, CorruptRecord, InvalidTransition, ExecutionNotFound …)."""

    error: RayflowError


Answer = Done | AlreadyExists | Rejected


# --- with an append -----------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class StartChild:
    """Start a child. One that this very call has started already is left alone; its start's nonce names the call.

    Answered in the transaction of its end, or at once where it is over already or cannot be started; one that is
    not waited for (``record.waited_for``), at once in any case.

    Args:
        step: the call's number.
        record: the child's row.
        earlier: ids and start nonces of children that calls of this number, which a rewind has superseded, may have
            started. If one of them has completed with this very input, its result is the answer.
    """

    step: int
    record: ExecutionRecord
    earlier: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class DeliverTo:
    """Put a row into another execution's inbox.

    Args:
        step: the call's number, under which it is answered; 0 for no answer, also where nobody is there.
        execution_id: whose inbox.
        row: the row.
        name: of the signal, for the answer.
        start_nonce: only if this is the execution's, and not to another one that has the id; "" for any.
    """

    step: int
    execution_id: str
    row: InboxRow
    name: str = ""
    start_nonce: str = ""


@dataclass(frozen=True, slots=True)
class TakeLock:
    """Claim a permit of a lock for this execution; answered when it is granted.

    Args:
        step: the call's number.
        name: the lock's name.
        limit: how many permits it has.
        token: the token of the permit that this call had, and that was given back when the execution failed; 0 for
            none. It stays the same if the lock was granted to nobody meanwhile.
    """

    step: int
    name: str
    limit: int
    token: int = 0


@dataclass(frozen=True, slots=True)
class ReleaseLock:
    """Give a permit back, or the claim to one. Not answered.

    Args:
        step: number of the call that claimed it.
        name: the lock's name.
    """

    step: int
    name: str


CrossOperation = StartChild | DeliverTo | TakeLock | ReleaseLock


# --- alone --------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class TakeLease:
    """Claim a permit for a script, or renew its lease. Answers Done with its token, 0 while it waits.

    Refused with LockUnavailable if it is not to wait, LockLimitMismatch, or LockLost if it is renewed and gone.
    """

    name: str
    limit: int
    lease: str
    ttl: float
    at: float
    wait: bool = True
    renew: bool = False
    execution_id: ClassVar[str] = ""


@dataclass(frozen=True, slots=True)
class LeaveLease:
    """Give a script's permit back, or the claim to one."""

    name: str
    lease: str
    at: float
    execution_id: ClassVar[str] = ""


@dataclass(frozen=True, slots=True)
class ExpireLeases:
    """Give the permits of leases that expired to those who wait; or, with ``renew``, give all leases a full term."""

    at: float
    renew: bool = False
    execution_id: ClassVar[str] = ""


@dataclass(frozen=True, slots=True)
class FailLockWait:
    """Refuse a waiting claim, since it would wait for ever; answered to its execution as a failure.

    Args:
        execution_id: whose claim.
        step: the number of its call.
        name: the lock's name.
        at: when.
        failure: why, encoded.
    """

    execution_id: str
    step: int
    name: str
    at: float
    failure: bytes


@dataclass(frozen=True, slots=True)
class FireSchedule:
    """Start what is due and note it, all or nothing: compare-and-set on the schedule's version.

    Executions that are there already are left alone. Refused with Fenced if the schedule has another version, and with
    SingletonExists if one of them cannot be started beside another unfinished execution, or beside the others.

    Args:
        record: the schedule as it is to be, with the next version.
        starts: what is due.
        cancels: inbox rows for executions that are to give way.
        at: when.
    """

    record: ScheduleRecord
    starts: tuple[ExecutionRecord, ...]
    cancels: tuple[DeliverTo, ...]
    at: float
    execution_id: ClassVar[str] = ""


@dataclass(frozen=True, slots=True)
class PutRecord:
    """Write a keyed record, or delete it, by compare-and-set on its version.

    Refused with WriterFenced if the record has another version than expected.

    Args:
        record: the record; the store sets its version.
        expected: its version before; 0 if it must not exist; None for any.
        delete: delete the record instead.
    """

    record: KeyedRecord
    expected: int | None = None
    delete: bool = False
    execution_id: ClassVar[str] = ""


#: What changes one execution, and others with it.
ExecutionOperation = Start | Claim | Append | Park | Deliver | Rewind | Note
Operation = ExecutionOperation | TakeLease | LeaveLease | ExpireLeases | FailLockWait | FireSchedule | PutRecord
