"""Interfaces of a transaction: what it reads from its store, and what its rules see and change."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from rayflow.core.events import RequestCompleted
from rayflow.core.locks.machine import Lock
from rayflow.errors import Failure, RayflowError
from rayflow.storage.model import ExecutionRecord, InboxRow, KeyedRecord, ScheduleRecord
from rayflow.storage.operations import Answer, Append


class Reads(Protocol):
    """Reads of a transaction from its store."""

    def head(self, execution_id: str) -> ExecutionRecord | None:
        """Return an execution's row, or None; the fields that only its start needs may be empty."""

    def had_key(self, execution_id: str, key: str) -> bool:
        """Return whether an execution's inbox has ever had a row of that key."""

    def lock(self, name: str) -> Lock | None:
        """Return a lock with its claims, or None."""

    def locks_of(self, execution_id: str) -> Sequence[str]:
        """Return the names of the locks in which an execution has claims."""

    def leased_locks(self) -> Sequence[str]:
        """Return the names of the locks in which leases have claims."""

    def singleton(self, key: str) -> str | None:
        """Return the id of the unfinished execution with that singleton key, or None."""

    def bound_children(self, execution_id: str) -> Sequence[str]:
        """Return the unfinished children that an execution does not wait for and that are cancelled when it ends."""

    def schedule(self, name: str) -> ScheduleRecord | None:
        """Return a schedule, or None."""

    def record(self, kind: str, key: str) -> KeyedRecord | None:
        """Return a keyed record, or None."""

    def has_value(self, digest: str) -> bool:
        """Return whether the store has a large value of that digest."""


class TransactionView(Protocol):
    """Records of a transaction after the operations so far, and how they are changed."""

    started: list[str]

    def head(self, execution_id: str) -> ExecutionRecord | None:
        """Return an execution's row, or None."""

    def start(self, record: ExecutionRecord) -> RayflowError | None:
        """Start an execution that does not exist; return the reason if it cannot be started."""

    def deliver(self, execution_id: str, row: InboxRow) -> Answer:
        """Add a row to an inbox."""

    def put_answer(self, execution_id: str, answer: RequestCompleted, key: str) -> None:
        """Add the answer to a request to the execution's inbox."""

    def claims_changed(self, execution_id: str, change: int) -> None:
        """Add to the number of lock permits that an execution holds or waits for."""

    def tell(
        self,
        execution_id: str,
        step: int,
        about: str,
        operation: Append,
        *,
        value: str | None = None,
        failure: RayflowError | Failure | None = None,
    ) -> None:
        """Answer a request of this append, with a value or a failure."""
