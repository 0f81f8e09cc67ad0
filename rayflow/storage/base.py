"""The Store contract.

A store keeps records. Whether an operation may be applied, and what it changes, is decided by
:class:`rayflow.storage.rules.transaction.Batch`, which is pure, so that each store only has to read what it asks for,
and write what it is told, inside one transaction.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from rayflow.core.locks.machine import Lock
from rayflow.ids import ExecutionStatus
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
)
from rayflow.storage.operations import Answer, Operation
from rayflow.storage.query.comparisons import Comparison
from rayflow.storage.query.cursor import Position
from rayflow.storage.rules.retention import PurgeBatch, PurgeFilter


@dataclass(frozen=True, slots=True)
class Filter:
    """Selection of executions for a list.

    The order is by start, newest first; with ``runnable_before`` by the moment from which an owner is needed, then by
    priority; with ``parent`` in the order of the parent's calls.

    Args:
        ids: only these executions; None for all.
        status: only these statuses; empty for all.
        workflow_id: only this workflow.
        runnable_before: only executions that need an owner by then.
        unread_inbox: only executions with an owner and with inbox rows that are not applied.
        driven: only executions that have an owner or need one at some time.
        stuck: only unfinished executions without an owner that wait for other executions alone, without a timer.
        parent: only children of this execution.
        schedule: only executions that this schedule started.
        where: only executions that meet all these comparisons.
        after: only executions after this position in the order; None for all. Not with ``runnable_before``.
        limit: maximum number of executions.
    """

    ids: tuple[str, ...] | None = None
    status: tuple[ExecutionStatus, ...] = ()
    workflow_id: str | None = None
    runnable_before: float | None = None
    unread_inbox: bool = False
    driven: bool = False
    stuck: bool = False
    parent: str | None = None
    schedule: str | None = None
    where: tuple[Comparison, ...] = ()
    after: Position | None = None
    limit: int = 1000


class Store(Protocol):
    """Where executions are kept.

    Conditions every store meets (tests/contract runs over all of them):

    * :meth:`commit` applies each operation as :func:`~rayflow.storage.rules.executions.decide` says, in the order
    given,
      all of them in one transaction; what was answered ``Done`` is durable when the call returns.
    * One refused operation never fails its neighbours. One that cannot be written (too large, not
      encodable) is retried alone, and only it gets the error.
    * Sending an operation again, because its answer was lost, changes nothing and is answered as done; a start
      is answered with the row that is there, whose ``start_nonce`` tells whose it is.
    * After an error of the commit itself nobody is answered: the call raises
      :class:`~rayflow.errors.StorageUnavailable`, and the caller may send the same operations again.
    * Writing needs the writer's epoch (:meth:`claim_writer`), which is checked in every transaction; a store
      claimed by somebody newer raises :class:`~rayflow.errors.WriterWriterFenced` for good. Writing without a claim, or
      to a store that is closed or was opened read-only, raises StorageUnavailable.
    * An operation whose records refer to a large value that is not there is refused with StorageUnavailable. A value
      that records refer to is never collected (:mod:`rayflow.storage.rules.large_values`).
    * Reads see what was committed before they began. In object storage, those of a writer that was taken over and has
      not noticed yet (it does with its next commit or heartbeat) see what was committed before that.
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

        The same identity (:class:`~rayflow.storage.writer.Claimant`) may claim again at once, a restarted writer:
        what it was before is fenced.

        Args:
            nonce: who claims, as text of a Claimant.
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

    async def locks(self, names: Sequence[str] | None = None) -> list[Lock]:
        """The locks, with their claims, by name; None for all that anybody has or waits for."""

    async def save_schedule(self, record: ScheduleRecord) -> None:
        """Keep a schedule; that of the same name is replaced."""

    async def schedules(self) -> list[ScheduleRecord]:
        """All schedules, by name."""

    async def delete_schedule(self, name: str) -> bool:
        """Forget a schedule; answers whether there was one."""

    async def records(
        self, kind: str, *, execution_id: str | None = None, after: str = "", limit: int = 1000
    ) -> list[KeyedRecord]:
        """Return the keyed records of a kind with keys above ``after``, by key; ``execution_id``: only that one's."""

    async def versions(self) -> list[tuple[str, str, int]]:
        """Workflow id, version, and how many unfinished executions run it, of each that has any."""

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
        """Keep bytes under their SHA-256 (hex), for good: code. Putting the same again changes nothing."""

    async def blob(self, digest: str) -> bytes | None:
        """The bytes of that digest, or None."""

    async def put_value(self, digest: str, data: bytes, *, now: float) -> None:
        """Keep the payload of a large value under its SHA-256 (hex), as long as records refer to it.

        Putting the same again only makes it as new. Other commits go on meanwhile, however many bytes there are.
        """

    async def value(self, digest: str) -> bytes | None:
        """The payload of that digest, or None."""

    async def collect_values(self, *, now: float, grace: float, limit: int) -> int:
        """Delete large values to which nothing has referred for twice the grace; answers how many.

        Args:
            now: seconds since the epoch.
            grace: how long a value is kept for who is about to refer to it, in seconds.
            limit: how many are deleted at most.
        """

    async def collect(self, over: PurgeFilter, *, dry_run: bool = False) -> PurgeBatch:
        """Delete executions that are over, with all that belongs to them, in one short transaction.

        What may be deleted, :mod:`rayflow.storage.rules.retention` says. For more, ask again with ``after`` as
        answered; what was needed by something that has been deleted meanwhile is found when one begins anew.

        Args:
            over: which.
            dry_run: delete nothing, and need no writer: answer what would be deleted by asking until nothing more is.
        """

    async def reclaim(self) -> bool:
        """Give space back that what was deleted has left: one short piece of work. Answers whether there is more."""

    async def totals(self) -> dict[str, float]:
        """Counters, kept in the same transactions as what they count: the sums of all ``counts`` that the rules add."""
