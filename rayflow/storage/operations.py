"""Records of executions, the operations that change them, and their answers.

Everything that changes an execution is an *operation*; whether one may be applied, and what it changes, is decided by
pure functions (:mod:`rayflow.storage.rules`, :mod:`rayflow.storage.batch`). What an operation asks of other executions
and of locks is in :mod:`rayflow.storage.crossing`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from rayflow.errors import RayflowError
from rayflow.ids import ExecutionStatus
from rayflow.storage.crossing import Ask, BreakLock, ExpireLeases, FireSchedule, LeaveLease, TakeLease
from rayflow.storage.kept import DeadLetter, StepNote


# --- records ----------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class ExecutionRecord:
    """The row of one execution: all that a list shows and that fencing needs, without its journal.

    Args:
        id: the execution's id.
        workflow_id: the workflow's id.
        version: the workflow's version at the start.
        status: as of the committed journal.
        priority: 0 to 9; higher first.
        created_at: when the start was accepted.
        updated_at: when the last operation was applied.
        input: the encoded arguments.
        identity: digest of workflow id and canonical input; empty if the input cannot be compared.
        start_nonce: the starting client's nonce, so that its own retries are recognised; of a child: which call it is.
        code: encoded reference to the workflow's code.
        options: encoded execution options.
        environment: id of the code environment.
        epoch: number of the newest owner; 0 before the first.
        owner: nonce of the newest owner; empty if nobody drives the execution.
        coordinator: name of the actor that drives it, for people.
        last_seq: position of the newest journal entry.
        last_digest: digest of the newest append.
        inbox_last: number of the newest inbox row ever accepted.
        inbox_done: inbox rows up to this number have been applied.
        runnable_at: when it needs an owner; None while it has one, or needs none.
        deadline: when the execution's own time is up.
        result: the encoded result, once completed.
        failure: the encoded failure, once failed, or why it is paused or was cancelled.
        parent: id of the execution that started it as its child; "" if none did.
        parent_step: number of the call by which it did, if that waits for the result; the same less than zero, if it
            does not, and the execution is to be cancelled when its parent ends; else 0.
        run: how often it has continued as new, and one.
        singleton: no other unfinished execution has the same; "" for any.
        schedule: name of the schedule that started it; "" if none did.
        forked_from: id of the execution whose journal it took over; "" if it is no fork.
        waits: what it waits for, as text (:mod:`rayflow.core.waits`); "" for nothing that is kept here.
        claims: how many permits of locks it has or waits for.
        expires_at: when it may be deleted, once it is over; None for never by itself.
    """

    id: str
    workflow_id: str
    version: str
    status: ExecutionStatus
    priority: int
    created_at: float
    updated_at: float
    input: bytes
    identity: str
    start_nonce: str
    code: bytes
    options: bytes
    environment: str
    epoch: int = 0
    owner: str = ""
    coordinator: str = ""
    last_seq: int = 0
    last_digest: str = ""
    inbox_last: int = 0
    inbox_done: int = 0
    runnable_at: float | None = None
    deadline: float | None = None
    result: bytes | None = None
    failure: bytes | None = None
    parent: str = ""
    parent_step: int = 0
    run: int = 1
    singleton: str = ""
    schedule: str = ""
    forked_from: str = ""
    waits: str = ""
    claims: int = 0
    expires_at: float | None = None

    @property
    def waited_for(self) -> bool:
        """Whether its parent waits for its result."""
        return self.parent_step > 0

    @property
    def waiting_call(self) -> int:
        """Number of the call that waits for its result; 0 if none does."""
        return max(self.parent_step, 0)


@dataclass(frozen=True, slots=True)
class JournalRow:
    """One journal entry as a store keeps it: the encoded entry at its position."""

    seq: int
    body: bytes


@dataclass(frozen=True, slots=True)
class InboxRow:
    """Something from outside that waits to be applied: cancel, pause, resume, a carried result, a signal.

    ``number`` is given by the store, from 1, in the order of acceptance.
    """

    key: str
    kind: str
    body: bytes
    at: float
    number: int = 0


# --- operations -------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Start:
    """Create an execution. Answers :class:`Done`, or :class:`Existing` with the row that is there.

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
    asks: tuple[Ask, ...] = ()
    waits: str | None = None
    next_run: bytes | None = None
    expires_at: float | None = None


@dataclass(frozen=True, slots=True)
class Release:
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


#: What changes one execution, and others with it.
ExecutionOperation = Start | Claim | Append | Release | Deliver | Rewind | Note
Operation = ExecutionOperation | TakeLease | LeaveLease | ExpireLeases | BreakLock | FireSchedule


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
class Existing:
    """A start met an execution that is there already."""

    record: ExecutionRecord


@dataclass(frozen=True, slots=True)
class Refused:
    """Not applied; ``error`` says why (Fenced, CorruptRecord, InvalidTransition, ExecutionNotFound …)."""

    error: RayflowError


Answer = Done | Existing | Refused
