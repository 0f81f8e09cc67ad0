"""The Store contract and its records.

A store keeps records. Everything that changes an execution is an *operation*; whether an operation may be
applied, and what it changes, is decided by :func:`rayflow.storage.rules.decide`, a pure function, so that each
store only has to read the execution's row, ask, and write what it is told, inside one transaction.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from rayflow.errors import RayflowError
from rayflow.ids import ExecutionStatus

# Part of the contract as well; "as" says to type checkers that they are meant to be had from here.
from rayflow.storage.kept import DeadLetter as DeadLetter  # noqa: PLC0414
from rayflow.storage.kept import DefinitionRecord as DefinitionRecord  # noqa: PLC0414
from rayflow.storage.kept import PoolRecord as PoolRecord  # noqa: PLC0414
from rayflow.storage.kept import StepNote as StepNote  # noqa: PLC0414


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
        start_nonce: the starting client's nonce, so that its own retries are recognised.
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
    """Create an execution. Answers :class:`Done`, or :class:`Existing` with the row that is there."""

    record: ExecutionRecord

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
        park: give the execution up: it needs no owner until ``runnable_at`` or an inbox row. Refused, with
            ``Done.parked`` false and everything else applied, when inbox rows arrived that were not seen.
        runnable_at: with ``park``, when it is needed again by itself; None for never.
        deadline: the new deadline; None leaves it.
        result: the encoded result, with a terminal status.
        failure: the encoded failure, or the reason of a pause.
        counts: what these entries add to the store's totals (steps completed, seconds of work …).
        dead_letters: of the failed steps among these entries, at the positions of those.
    """

    execution_id: str
    epoch: int
    first_seq: int
    rows: tuple[JournalRow, ...]
    digest: str
    at: float
    status: ExecutionStatus
    inbox_done: int = 0
    park: bool = False
    runnable_at: float | None = None
    deadline: float | None = None
    result: bytes | None = None
    failure: bytes | None = None
    counts: Mapping[str, float] = field(default_factory=dict)
    dead_letters: tuple[DeadLetter, ...] = ()


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
    """

    execution_id: str
    epoch: int
    runnable_at: float | None
    at: float
    seen: int | None = None


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


@dataclass(frozen=True, slots=True)
class Note:
    """Keep what running steps reported, the newest of each step. It changes nothing else of the execution."""

    execution_id: str
    epoch: int
    notes: tuple[StepNote, ...]


Operation = Start | Claim | Append | Release | Deliver | Rewind | Note


# --- answers ----------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Done:
    """Applied and durable (or it was already)."""

    epoch: int
    last_seq: int
    inbox_last: int
    parked: bool = False


@dataclass(frozen=True, slots=True)
class Existing:
    """A start met an execution that is there already."""

    record: ExecutionRecord


@dataclass(frozen=True, slots=True)
class Refused:
    """Not applied; ``error`` says why (Fenced, CorruptRecord, InvalidTransition, ExecutionNotFound …)."""

    error: RayflowError


Answer = Done | Existing | Refused


@dataclass(frozen=True, slots=True)
class Filter:
    """Which executions a list answers; newest first.

    Args:
        status: only these statuses; empty for all.
        workflow_id: only this workflow.
        runnable_before: only those that need an owner by then (oldest first, then by priority).
        unread_inbox: only owned ones with inbox rows that are not applied.
        limit: at most so many.
    """

    status: tuple[ExecutionStatus, ...] = ()
    workflow_id: str | None = None
    runnable_before: float | None = None
    unread_inbox: bool = False
    limit: int = 1000


class Store(Protocol):
    """Where executions are kept.

    Conditions every store meets (tests/contract runs over all of them):

    * :meth:`commit` applies each operation as :func:`~rayflow.storage.rules.decide` says, in the order given,
      all of them in one transaction; what was answered ``Done`` is durable when the call returns.
    * One refused operation never fails its neighbours. One that cannot be written (too large, not
      encodable) is retried alone, and only it gets the error.
    * Sending an operation again, because its answer was lost, changes nothing and is answered as done; a start
      is answered with the row that is there, whose ``start_nonce`` tells whose it is.
    * After an error of the commit itself nobody is answered: the call raises
      :class:`~rayflow.errors.StorageUnavailable`, and the caller may send the same operations again.
    * Writing needs the writer's epoch (:meth:`claim_writer`), which is checked in every transaction; a store
      claimed by somebody newer raises :class:`~rayflow.errors.Fenced` for good. Writing without a claim, or
      to a store that is closed or was opened read-only, raises StorageUnavailable.
    * Reads see what was committed before they began.
    """

    url: str

    async def open(self, *, read_only: bool = False) -> None:
        """Open, creating what is missing; refuse a store written by a newer format.

        Raises:
            StorageUnavailable: it cannot be opened; the message says why and what would help.
        """

    async def close(self) -> None:
        """Close. Idempotent. A writer says that it is gone, so that another may claim at once."""

    async def claim_writer(self, nonce: str, *, now: float, fresh_for: float, take_over: bool = False) -> int:
        """Become the only writer and answer the writer's epoch: one more than the last, in every claim.

        The same nonce may claim again at once (a restarted writer): what it was before is fenced.

        Args:
            nonce: who claims.
            now: seconds since the epoch.
            fresh_for: seconds after its last heartbeat during which another writer counts as alive.
            take_over: claim all the same; the other writer is fenced.

        Raises:
            Fenced: this store was fenced before.
            StorageUnavailable: another writer's heartbeat is younger than ``fresh_for`` seconds, and
                ``take_over`` is false.
        """

    async def heartbeat(self, *, now: float) -> None:
        """Say that this writer is alive. Raises Fenced if it no longer is the writer."""

    async def commit(self, operations: Sequence[Operation]) -> list[Answer]:
        """Apply the operations, in order, in one durable transaction."""

    async def execution(self, execution_id: str) -> ExecutionRecord | None:
        """The execution's row, or None."""

    async def executions(self, query: Filter) -> list[ExecutionRecord]:
        """The rows that fit the filter."""

    async def journal(self, execution_id: str, *, after: int = 0) -> list[JournalRow]:
        """The journal's rows after a position, in order."""

    async def inbox(self, execution_id: str, *, after: int = 0) -> list[InboxRow]:
        """The inbox rows that are not applied, with numbers above ``after``, in order."""

    async def notes(self, execution_id: str) -> list[StepNote]:
        """The newest note of each step that has one, by step."""

    async def dead_letters(
        self,
        *,
        execution_id: str | None = None,
        workflow_id: str | None = None,
        step: int | None = None,
        limit: int = 1000,
    ) -> list[DeadLetter]:
        """The dead letters, newest first; with a filter only those that fit, ``limit`` at most."""

    async def delete_dead_letters(self, keys: Sequence[tuple[str, int]]) -> int:
        """Delete dead letters by execution id and step; answers how many there were."""

    async def save_definition(self, record: DefinitionRecord) -> None:
        """Keep a definition; the same workflow id and version is replaced."""

    async def definition(self, workflow_id: str, version: str | None = None) -> DefinitionRecord | None:
        """A definition: that version, or the one saved last."""

    async def definitions(self) -> list[DefinitionRecord]:
        """All definitions, by workflow id, then newest first."""

    async def delete_definition(self, workflow_id: str) -> bool:
        """Forget all versions of a definition; answers whether there was one."""

    async def save_pool(self, record: PoolRecord) -> None:
        """Keep a pool's configuration; that of the same name is replaced."""

    async def pools(self) -> list[PoolRecord]:
        """All saved pools, by name."""

    async def delete_pool(self, name: str) -> bool:
        """Forget a pool's configuration; answers whether there was one."""

    async def put_blob(self, digest: str, data: bytes) -> None:
        """Keep bytes under their SHA-256 (hex). Putting the same again changes nothing."""

    async def blob(self, digest: str) -> bytes | None:
        """The bytes of that digest, or None."""

    async def delete_executions(self, ids: Sequence[str]) -> int:
        """Delete executions that are over, with all that belongs to them; others are left. Answers how many."""

    async def totals(self) -> dict[str, float]:
        """Counters, kept in the same transactions as what they count: the sums of all ``counts`` that the rules add."""
