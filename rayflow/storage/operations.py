"""Operations that change executions, and their answers.

Every change of an execution is an *operation*. Pure functions decide whether it may be applied and what it changes
(:mod:`rayflow.storage.rules.executions`, :mod:`rayflow.storage.rules.transaction`). An append carries *cross
operations* on other executions and on locks, which are applied in the same transaction.
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


@dataclass(frozen=True, slots=True)
class Start:
    """Creation of an execution. Answered with :class:`Done`, or with :class:`AlreadyExists` and the existing row.

    Rejected with SingletonConflict if another unfinished execution has the same singleton key.

    Args:
        record: the row of the execution.
        rows: the journal of a fork.
        carried: the inbox of a fork; the store numbers the rows.
    """

    record: ExecutionRecord
    rows: tuple[JournalRow, ...] = ()
    carried: tuple[InboxRow, ...] = ()

    @property
    def execution_id(self) -> str:
        """Return the id of the new execution."""
        return self.record.id


@dataclass(frozen=True, slots=True)
class Claim:
    """Claim of an execution by a new owner, applied if the epoch still is ``expected``."""

    execution_id: str
    expected: int
    nonce: str
    coordinator: str
    at: float


@dataclass(frozen=True, slots=True)
class Append:
    """Journal entries with all that they change, applied all or nothing.

    Args:
        execution_id: the execution.
        epoch: epoch of the owner that appends.
        first_seq: position of the first row.
        rows: encoded entries, at least one.
        digest: digest of the rows, by which a repeated append is recognised.
        at: time of the append, in seconds since the epoch.
        status: the status after these entries.
        inbox_done: these entries apply the inbox rows up to this number.
        deadline: the new deadline; None keeps the old one.
        result: the encoded result, with a terminal status.
        failure: the encoded failure, or the encoded reason of a pause.
        counts: amounts to add to the store's totals (completed steps, seconds of work …).
        dead_letters: dead letters of failed steps among these entries, at the positions of those entries.
        asks: operations on other executions and on locks, in order. Each is applied in this transaction and answered by
            an inbox row of this execution.
        waits: what the execution waits for from now on; None keeps the old text.
        next_run: the execution continues as new with this encoded input. The journal before the last of these rows is
            deleted, and the owner releases the execution, which is runnable at once.
        expires_at: with a terminal status, when the execution may be deleted; None for never.
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
    """Release of an execution by its owner: no owner is needed until ``runnable_at`` or a new inbox row.

    Args:
        execution_id: the execution.
        epoch: epoch of the owner.
        runnable_at: when an owner is needed again; None for never.
        at: time of the release, in seconds since the epoch.
        seen: number of the newest inbox row that the owner has seen. If a newer row arrived, the owner keeps the
            execution, which ``Done.parked`` tells. None releases it in any case; then it is runnable at once if rows
            are not applied.
        waits: what the execution waits for; None keeps the old text.
    """

    execution_id: str
    epoch: int
    runnable_at: float | None
    at: float
    seen: int | None = None
    waits: str | None = None


@dataclass(frozen=True, slots=True)
class Deliver:
    """New inbox row, accepted once per key. Rejected with InvalidTransition if the execution has finished."""

    execution_id: str
    row: InboxRow
    #: For rows that an owner itself keeps for later (results that arrive while paused): its epoch.
    epoch: int | None = None


@dataclass(frozen=True, slots=True)
class Rewind:
    """Continuation of a failed execution: compare-and-set on epoch and journal, a new epoch, and one more entry.

    Dead letters of entries after position ``to`` are deleted.

    Args:
        execution_id: the execution.
        expected: its epoch before.
        last_seq: position of its newest entry.
        row: the entry that records the rewind.
        digest: digest of that row, by which a repeated rewind is recognised.
        carried: the new content of the inbox.
        deadline: the new deadline.
        at: time of the rewind, in seconds since the epoch.
        to: position of the last entry that stays in effect.
        children: children that continue with it, all or nothing: those that it had cancelled, and those that failed.
            They may have status cancelled.
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
    """Newest reports of running steps, and the number of inbox rows that were applied without a journal entry.

    Nothing else of the execution changes.
    """

    execution_id: str
    epoch: int
    notes: tuple[StepNote, ...]
    inbox_done: int = 0


@dataclass(frozen=True, slots=True)
class Done:
    """Answer to an operation that is applied and durable, now or by an earlier attempt.

    Args:
        epoch: the execution's epoch.
        last_seq: position of its newest entry.
        inbox_last: number of its newest inbox row.
        parked: whether the execution has no owner afterwards.
        touched: other executions that were started or have new inbox rows; the caller notifies their owners.
        token: fencing token of a lease; 0 while the lease waits.
    """

    epoch: int
    last_seq: int
    inbox_last: int
    parked: bool = False
    touched: tuple[str, ...] = ()
    token: int = 0


@dataclass(frozen=True, slots=True)
class AlreadyExists:
    """Answer to a start whose execution exists already."""

    record: ExecutionRecord


@dataclass(frozen=True, slots=True)
class Rejected:
    """Answer to an operation that was not applied; ``error`` is the reason."""

    error: RayflowError


Answer = Done | AlreadyExists | Rejected


@dataclass(frozen=True, slots=True)
class StartChild:
    """Start of a child. A child that the same call has started before is kept; its start nonce identifies the call.

    Answered in the transaction in which the child ends; at once if it has finished already, cannot be started, or the
    parent does not wait for it (``record.waited_for``).

    Args:
        step: number of the call.
        record: the child's row.
        earlier: ids and start nonces of children that superseded calls of this number may have started. If one of them
            completed with the same input, its result is the answer.
    """

    step: int
    record: ExecutionRecord
    earlier: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class DeliverTo:
    """New inbox row of another execution.

    Args:
        step: number of the call, under which it is answered; 0 for no answer, also if the execution does not exist.
        execution_id: the receiving execution.
        row: the inbox row.
        name: name of the signal, for the answer.
        start_nonce: deliver only if this is the execution's start nonce, so that a later execution with the same id
            receives nothing; "" for any.
    """

    step: int
    execution_id: str
    row: InboxRow
    name: str = ""
    start_nonce: str = ""


@dataclass(frozen=True, slots=True)
class TakeLock:
    """Claim of a lock's permit for this execution; answered when the permit is granted.

    Args:
        step: number of the call.
        name: the lock's name.
        limit: number of permits.
        token: token of the permit that this call held before the execution failed; 0 for none. The call gets the same
            token again if the lock was granted to no other claimant since.
    """

    step: int
    name: str
    limit: int
    token: int = 0


@dataclass(frozen=True, slots=True)
class ReleaseLock:
    """Release of a permit, or of the claim to one. Not answered.

    Args:
        step: number of the call that claimed it.
        name: the lock's name.
    """

    step: int
    name: str


CrossOperation = StartChild | DeliverTo | TakeLock | ReleaseLock


@dataclass(frozen=True, slots=True)
class TakeLease:
    """Claim of a permit for a script, or renewal of its lease. Answered with Done and the token, 0 while it waits.

    Rejected with LockUnavailable if it must not wait, LockPermitsMismatch, or LockLost if a renewed lease has expired.
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
    """Release of a script's permit, or of the claim to one."""

    name: str
    lease: str
    at: float
    execution_id: ClassVar[str] = ""


@dataclass(frozen=True, slots=True)
class ExpireLeases:
    """Grant of the permits of expired leases to waiting claimants; with ``renew``, a full term for all leases."""

    at: float
    renew: bool = False
    execution_id: ClassVar[str] = ""


@dataclass(frozen=True, slots=True)
class FailLockWait:
    """Rejection of a waiting claim that would wait forever; its execution receives the failure as the answer.

    Args:
        execution_id: the execution that claims.
        step: number of its call.
        name: the lock's name.
        at: time of the rejection, in seconds since the epoch.
        failure: the encoded reason.
    """

    execution_id: str
    step: int
    name: str
    at: float
    failure: bytes


@dataclass(frozen=True, slots=True)
class FireSchedule:
    """Due starts of a schedule, all or nothing: compare-and-set on the schedule's version.

    Existing executions are left unchanged. Rejected with WriterFenced if the schedule has another version, and with
    SingletonConflict if one of the starts conflicts with an unfinished execution or with another of the starts.

    Args:
        record: the new record of the schedule, with the next version.
        starts: the executions to start.
        cancels: inbox rows that cancel executions.
        at: time of the starts, in seconds since the epoch.
    """

    record: ScheduleRecord
    starts: tuple[ExecutionRecord, ...]
    cancels: tuple[DeliverTo, ...]
    at: float
    execution_id: ClassVar[str] = ""


@dataclass(frozen=True, slots=True)
class PutRecord:
    """Write or deletion of a keyed record by compare-and-set on its version.

    Rejected with WriterFenced if the record has another version than expected.

    Args:
        record: the record; the store sets its version.
        expected: the version before; 0 if the record must not exist; None for any.
        delete: delete the record instead of writing it.
    """

    record: KeyedRecord
    expected: int | None = None
    delete: bool = False
    execution_id: ClassVar[str] = ""


#: What changes one execution, and others with it.
ExecutionOperation = Start | Claim | Append | Park | Deliver | Rewind | Note
Operation = ExecutionOperation | TakeLease | LeaveLease | ExpireLeases | FailLockWait | FireSchedule | PutRecord
