"""What an execution asks of others in its own transactions, and what is asked of locks and schedules alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from rayflow.storage.kept import ScheduleRecord
    from rayflow.storage.operations import ExecutionRecord, InboxRow


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
class Send:
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
class LeaveLock:
    """Give a permit back, or the claim to one. Not answered.

    Args:
        step: number of the call that claimed it.
        name: the lock's name.
    """

    step: int
    name: str


Ask = StartChild | Send | TakeLock | LeaveLock


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
class BreakLock:
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
    cancels: tuple[Send, ...]
    at: float
    execution_id: ClassVar[str] = ""
