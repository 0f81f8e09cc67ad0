"""The ``Store`` contract.

A store keeps records. Pure functions decide whether an operation may be applied and what it changes
(:class:`rayflow.storage.rules.transaction.Transaction`); a store reads what they ask for and writes what they decided,
within one transaction.
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
    """Persistent records of executions and of all that belongs to them.

    Conditions that every store meets (``tests/contract`` runs over all of them):

    * :meth:`commit` applies the operations in the given order, each as
      :func:`~rayflow.storage.rules.executions.decide` says, all in one transaction. Operations answered with ``Done``
      are durable when the call returns.
    * A rejected operation has no effect on the others. An operation that cannot be written (too large, not encodable)
      is retried alone, and only that operation is answered with the error.
    * An operation that is sent again, because its answer was lost, changes nothing and is answered with ``Done``. A
      repeated start is answered with the existing row, whose ``start_nonce`` names the start that created it.
    * If the commit itself fails, no operation is answered: the call raises
      :class:`~rayflow.errors.StorageUnavailable`, and the caller may send the same operations again.
    * Writing needs the writer's epoch (:meth:`claim_writer`), which is checked in every transaction. A store that a
      newer writer has claimed raises :class:`~rayflow.errors.WriterFenced` from then on. Writing without a claim, or to
      a store that is closed or was opened read-only, raises StorageUnavailable.
    * An operation whose records refer to a missing large value is rejected with StorageUnavailable. A value to which
      records refer is never collected (:mod:`rayflow.storage.rules.large_values`).
    * Reads return all that was committed before they began. In object storage a fenced writer that has not noticed yet
      (it does with its next commit or heartbeat) reads the state at the moment when it was fenced.

    Every method that reads or writes raises StorageUnavailable if the storage fails.
    """

    url: str

    async def open(self, *, read_only: bool = False) -> None:
        """Open the store, and create it if it is missing.

        Raises:
            StorageUnavailable: the store cannot be opened, is missing with ``read_only``, or has a newer format; the
                message has the reason and a remedy.
        """

    async def close(self) -> None:
        """Close the store; may be called again. A writer gives its claim up, so that another one may claim at once."""

    async def claim_writer(self, nonce: str, *, now: float, fresh_for: float, take_over: bool = False) -> int:
        """Become the only writer, and return the writer's epoch: one more than before with every claim.

        The same identity (:class:`~rayflow.storage.writer.WriterIdentity`) may claim again at once, as a restarted
        writer; its former claim is fenced.

        Args:
            nonce: the claiming writer, as text of a WriterIdentity.
            now: seconds since the epoch.
            fresh_for: seconds after its last heartbeat during which another writer counts as alive.
            take_over: claim the store even if another writer is alive; that one is fenced.

        Raises:
            WriterFenced: another writer has claimed this store since this one did.
            StorageUnavailable: another writer is alive, and ``take_over`` is false.
        """

    async def heartbeat(self, *, now: float) -> None:
        """Record that this writer is alive. Raises WriterFenced if another one has claimed the store."""

    async def commit(self, operations: Sequence[Operation]) -> list[Answer]:
        """Apply operations in order, in one durable transaction; return one answer each."""

    async def execution(self, execution_id: str) -> ExecutionRecord | None:
        """Return the execution's row, or None."""

    async def executions(self, query: Filter) -> list[ExecutionRecord]:
        """Return the rows that a filter selects, in its order."""

    async def journal(self, execution_id: str, *, after: int = 0) -> list[JournalRow]:
        """Return the journal's rows after a position, in order."""

    async def inbox(self, execution_id: str, *, after: int = 0) -> list[InboxRow]:
        """Return the inbox rows that are not applied, with numbers above ``after``, in order."""

    async def locks(self, names: Sequence[str] | None = None) -> list[Lock]:
        """Return locks with their claims, by name; with None, all locks that have claims."""

    async def save_schedule(self, record: ScheduleRecord) -> None:
        """Save a schedule; replace the one of the same name."""

    async def schedules(self) -> list[ScheduleRecord]:
        """Return all schedules, by name."""

    async def delete_schedule(self, name: str) -> bool:
        """Delete a schedule; return whether it existed."""

    async def records(
        self, kind: str, *, execution_id: str | None = None, after: str = "", limit: int = 1000
    ) -> list[KeyedRecord]:
        """Return keyed records of one kind, ordered by key.

        Args:
            kind: the kind.
            execution_id: only records of this execution; None for all.
            after: only records with greater keys.
            limit: maximum number of records.
        """

    async def versions(self) -> list[tuple[str, str, int]]:
        """Return workflow id, version and number of unfinished executions of each version that has any."""

    async def notes(self, execution_id: str) -> list[StepNote]:
        """Return the newest note of each step that has one, by step."""

    async def dead_letters(
        self,
        *,
        execution_id: str | None = None,
        workflow_id: str | None = None,
        step: int | None = None,
        limit: int = 1000,
    ) -> list[DeadLetter]:
        """Return dead letters, newest first; only those that match each argument that is not None."""

    async def delete_dead_letters(self, keys: Sequence[tuple[str, int]]) -> int:
        """Delete dead letters by execution id and step; return how many existed."""

    async def save_definition(self, record: DefinitionRecord) -> None:
        """Save a definition; replace the one of the same workflow id and version."""

    async def definition(self, workflow_id: str, version: str | None = None) -> DefinitionRecord | None:
        """Return a definition of that version, or with None the one that was saved last."""

    async def definitions(self) -> list[DefinitionRecord]:
        """Return all definitions, by workflow id, then newest first."""

    async def delete_definition(self, workflow_id: str) -> bool:
        """Delete all versions of a definition; return whether there were any."""

    async def save_pool(self, record: PoolRecord) -> None:
        """Save a pool's configuration; replace the one of the same name."""

    async def pools(self) -> list[PoolRecord]:
        """Return all saved pools, by name."""

    async def delete_pool(self, name: str) -> bool:
        """Delete a pool's configuration; return whether it existed."""

    async def put_blob(self, digest: str, data: bytes) -> None:
        """Store code permanently under its SHA-256 (hex). Storing the same again changes nothing."""

    async def blob(self, digest: str) -> bytes | None:
        """Return the bytes of a digest, or None."""

    async def put_value(self, digest: str, data: bytes, *, now: float) -> None:
        """Store the payload of a large value under its SHA-256 (hex), for as long as records refer to it.

        Storing the same again restarts the grace of :meth:`collect_values`. Other commits do not wait for the payload,
        whatever its size.
        """

    async def value(self, digest: str) -> bytes | None:
        """Return the payload of a large value, or None."""

    async def collect_values(self, *, now: float, grace: float, limit: int) -> int:
        """Delete large values to which no record has referred for twice the grace; return how many.

        Args:
            now: seconds since the epoch.
            grace: seconds for which a value is kept for records that are about to refer to it.
            limit: maximum number of deleted values.
        """

    async def collect(self, over: PurgeFilter, *, dry_run: bool = False) -> PurgeBatch:
        """Delete finished executions, with all that belongs to them, in one short transaction.

        :mod:`rayflow.storage.rules.retention` decides which may be deleted. For the next batch, call again with the
        ``after`` of this one. Executions that only a deleted execution needed are found by a new pass from the start.

        Args:
            over: which executions.
            dry_run: delete nothing, and need no writer: return what repeated calls would delete.
        """

    async def reclaim(self) -> bool:
        """Return some of the space of deleted records to the system; return whether there is more to do."""

    async def totals(self) -> dict[str, float]:
        """Return the counters: sums of all ``counts`` that the rules add, written with what they count."""
