"""Store actor: the only process of a namespace that writes the store.

The actor owns the writer's epoch, the group commit and the log of completions. It owns no rule: the modules of
:mod:`rayflow.storage.rules` decide what may be written. Several threads call its methods. The store lives on one event
loop with its own thread, where the commits that arrive while one is being written become the next transaction.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import threading
import time
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from rayflow.core.locks.machine import Lock
from rayflow.errors import StorageError, StorageUnavailable, WriterFenced
from rayflow.runtime.actors.base import ActorSystem
from rayflow.runtime.logs import ThrottledWarning
from rayflow.runtime.messages import pack, unpack
from rayflow.runtime.store.completions import CompletionLog, Completions
from rayflow.storage.base import Filter, Store
from rayflow.storage.group_commit import GroupCommitter
from rayflow.storage.model import (
    DeadLetter,
    DefinitionRecord,
    ExecutionRecord,
    InboxRow,
    JournalRow,
    PoolRecord,
    ScheduleRecord,
    StepNote,
)
from rayflow.storage.operations import Answer, Append, Claim, Done, ExpireLeases, Operation
from rayflow.storage.rules.retention import PurgeBatch, PurgeFilter
from rayflow.storage.urls import open_store
from rayflow.storage.writer import WriterIdentity

log = logging.getLogger(__name__)
T = TypeVar("T")

#: Seconds between two heartbeats of the writer, and the age of one at which another cluster may take over.
HEARTBEAT = 1.0
FRESH_FOR = 3.0


@dataclass(frozen=True, slots=True)
class ClaimResult:
    """What a coordinator needs to drive an execution: the answer to its claim, the row, the journal and the inbox."""

    answer: Answer
    record: ExecutionRecord | None = None
    journal: tuple[JournalRow, ...] = ()
    inbox: tuple[InboxRow, ...] = ()


class StoreActor:
    """The actor of one store.

    Args:
        url: the store's URL; the namespace is bound to it.
    """

    def __init__(self, system: ActorSystem, url: str) -> None:
        self._system = system
        self._url = url
        # A namespace is one writer: after a restart, this actor claims under the same identity, which fences its
        # predecessor.
        self._identity = system.identity
        self._loop = asyncio.new_event_loop()
        self._store: Store | None = None
        self._group: GroupCommitter | None = None
        self._opening = threading.Lock()
        self._entering = threading.Lock()
        self._loop_closed = False
        self._fenced: WriterFenced | None = None
        #: Guards which store is open, and whether it was taken over.
        self._switching = threading.Lock()
        self._completions = CompletionLog()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._serve, name="store", daemon=True)
        self._heartbeat_thread = threading.Thread(target=self._heartbeat, name="store-heartbeat", daemon=True)
        self._thread.start()
        self._heartbeat_thread.start()

    def commit(self, data: bytes) -> bytes:
        """Apply packed operations, and return the packed results once they are durable.

        Raises:
            StorageUnavailable: if the outcome is unknown; send the same operations again.
            WriterFenced: if another cluster writes this store.
        """
        return pack(self._commit(unpack(data)))

    def start(self, operations: Sequence[Operation]) -> list[Answer]:
        """Apply operations, and return the answers once they are durable."""
        return self._commit(operations)

    def claim(self, data: bytes) -> bytes:
        """Apply a packed :class:`Claim`, and return a packed :class:`ClaimResult`."""
        store = self._open_store()
        assert self._group is not None
        return pack(self._run(_claim(store, self._group, unpack(data))))

    def save_definition(self, record: DefinitionRecord) -> None:
        """Save a workflow definition."""
        self._run(self._open_store().save_definition(record))

    def delete_definition(self, workflow_id: str) -> bool:
        """Delete a workflow definition, and return whether there was one."""
        return self._run(self._open_store().delete_definition(workflow_id))

    def delete_dead_letters(self, keys: Sequence[tuple[str, int]]) -> int:
        """Delete dead letters by execution id and step, and return how many there were."""
        return self._run(self._open_store().delete_dead_letters(keys))

    def save_pool(self, record: PoolRecord) -> None:
        """Save a pool's configuration."""
        self._run(self._open_store().save_pool(record))

    def delete_pool(self, name: str) -> bool:
        """Delete a pool's configuration, and return whether there was one."""
        return self._run(self._open_store().delete_pool(name))

    def put_blob(self, digest: str, data: bytes) -> None:
        """Save bytes under their digest."""
        self._run(self._open_store().put_blob(digest, data))

    def put_value(self, digest: str, data: bytes) -> None:
        """Save the payload of a large value under its digest."""
        self._run(self._open_store().put_value(digest, data, now=self._system.clock.now()))

    def value(self, digest: str) -> bytes | None:
        """Return the payload of a large value, or None."""
        return self._run(self._open_store().value(digest))

    def collect_values(self, grace: float, limit: int) -> int:
        """Delete at most ``limit`` unreferenced large values, and return how many were deleted."""
        return self._run(self._open_store().collect_values(now=self._system.clock.now(), grace=grace, limit=limit))

    def collect(self, query: PurgeFilter, dry_run: bool = False) -> PurgeBatch:  # noqa: FBT001, FBT002 - the arguments of actors are positional
        """Delete finished executions in one transaction, and return them."""
        return self._run(self._open_store().collect(query, dry_run=dry_run))

    def reclaim(self) -> bool:
        """Reclaim some space of deleted executions, and return whether there is more."""
        return self._run(self._open_store().reclaim())

    def execution(self, execution_id: str) -> ExecutionRecord | None:
        """Return the row of an execution, or None."""
        return self._run(self._open_store().execution(execution_id))

    def executions(self, query: Filter) -> list[ExecutionRecord]:
        """Return the rows that match."""
        return self._run(self._open_store().executions(query))

    def journal(self, execution_id: str, after: int = 0) -> list[JournalRow]:
        """Return the journal after an entry."""
        return self._run(self._open_store().journal(execution_id, after=after))

    def inbox(self, execution_id: str, after: int = 0) -> list[InboxRow]:
        """Return the inbox rows after a number that are not applied."""
        return self._run(self._open_store().inbox(execution_id, after=after))

    def locks(self, names: Sequence[str] | None = None) -> list[Lock]:
        """Return locks with their claims, by name."""
        return self._run(self._open_store().locks(names))

    def schedules(self) -> list[ScheduleRecord]:
        """Return all schedules, by name."""
        return self._run(self._open_store().schedules())

    def save_schedule(self, record: ScheduleRecord) -> None:
        """Save a schedule."""
        self._run(self._open_store().save_schedule(record))

    def delete_schedule(self, name: str) -> bool:
        """Delete a schedule, and return whether there was one."""
        return self._run(self._open_store().delete_schedule(name))

    def versions(self) -> list[tuple[str, str, int]]:
        """Return each workflow id and version, with the number of unfinished executions that run it."""
        return self._run(self._open_store().versions())

    def notes(self, execution_id: str) -> list[StepNote]:
        """Return the newest note of each step that has one."""
        return self._run(self._open_store().notes(execution_id))

    def dead_letters(
        self,
        execution_id: str | None = None,
        workflow_id: str | None = None,
        limit: int = 1000,
        step: int | None = None,
    ) -> list[DeadLetter]:
        """Return the dead letters that match, newest first."""
        store = self._open_store()
        return self._run(store.dead_letters(execution_id=execution_id, workflow_id=workflow_id, step=step, limit=limit))

    def pools(self) -> list[PoolRecord]:
        """Return all saved pools, by name."""
        return self._run(self._open_store().pools())

    def pool(self, name: str) -> PoolRecord | None:
        """Return a saved pool, or None."""
        return next((record for record in self.pools() if record.name == name), None)

    def definition(self, workflow_id: str, version: str | None = None) -> DefinitionRecord | None:
        """Return a saved definition, or None."""
        return self._run(self._open_store().definition(workflow_id, version))

    def definitions(self) -> list[DefinitionRecord]:
        """Return all saved definitions."""
        return self._run(self._open_store().definitions())

    def blob(self, digest: str) -> bytes | None:
        """Return the bytes of a digest, or None."""
        return self._run(self._open_store().blob(digest))

    def totals(self) -> dict[str, float]:
        """Return the store's counters."""
        return self._run(self._open_store().totals())

    def completions(self, cursor: tuple[str, int], timeout: float) -> Completions:
        """Wait at most ``timeout`` seconds for executions that finish after the cursor, and return them."""
        found = self._completions.since(cursor, timeout, lambda: self._stopped.is_set() or self._fenced is not None)
        if self._fenced is not None:
            raise self._fenced
        return found

    def ready(self, take_over: bool = False) -> str:  # noqa: FBT001, FBT002 - the arguments of actors are positional
        """Open the store, become its writer (again, if this actor was fenced), and return the URL.

        Args:
            take_over: take the store from a live writer. The engine that opens the store decides this; it is not an
                argument of the actor, because a restarted actor must not take over.

        Raises:
            StorageUnavailable: if the store cannot be opened, or another writer has it.
        """
        self._open_store(take_over=take_over, again=True)
        return self._url

    def ping(self) -> str:
        """Return the id of this actor's generation, which changes with a restart."""
        return self._completions.generation

    def pid(self) -> int:
        """Return the id of the actor's process."""
        return os.getpid()

    def stop(self) -> None:
        """Close the store. Later calls fail."""
        self._stopped.set()
        self._completions.wake()
        self._heartbeat_thread.join()
        with self._opening:
            if self._store is not None:
                self._run(self._store.close())
                self._store = None
        with self._entering:
            self._loop_closed = True
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()

    def _serve(self) -> None:
        try:
            self._loop.run_forever()
            while left := asyncio.all_tasks(self._loop):  # callers on other threads wait for their results
                self._loop.run_until_complete(asyncio.wait(left))
        finally:
            self._loop.close()

    def _run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        with self._entering:  # the loop ends only after all earlier coroutines
            if self._loop_closed:
                coroutine.close()
                raise self._closed()
            future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        return future.result()

    def _set_fenced(self, store: Store, error: WriterFenced) -> None:
        """Fail all calls from now on, because another writer has the store."""
        with self._switching:
            if self._store is store and self._fenced is None:
                log.critical("this store actor stops writing: %s", error)
                self._fenced = error
        self._completions.wake()

    def _closed(self) -> StorageUnavailable:
        return StorageUnavailable(f"the store {self._url} is closed: its engine or namespace was shut down")

    def _open_store(self, *, take_over: bool = False, again: bool = False) -> Store:
        if self._store is not None and self._fenced is None:
            return self._store
        if self._fenced is not None and not again:
            raise self._fenced
        with self._opening:
            if self._stopped.is_set():
                raise self._closed()
            if self._store is None or self._fenced is not None:
                self._open_as_writer(take_over=take_over)
            assert self._store is not None
            return self._store

    def _open_as_writer(self, *, take_over: bool) -> None:
        store, fenced = open_store(self._url), self._store
        self._run(store.open())
        try:
            self._become_writer(store, take_over=take_over)
            group = GroupCommitter(store)
            # Without a writer no lease could be renewed, so each is extended to its full term.
            self._run(group.commit([ExpireLeases(self._system.clock.now(), renew=True)]))
        except BaseException:
            self._run(store.close())
            raise
        with self._switching:
            self._store, self._group, self._fenced = store, group, None
        self._completions.reset()  # the log may have missed some
        if fenced is not None:
            self._run(fenced.close())

    def _become_writer(self, store: Store, *, take_over: bool) -> None:
        since = time.time()
        nonce = WriterIdentity(self._identity, socket.gethostname(), os.getpid(), since).to_text()
        # A killed cluster leaves a heartbeat that is still fresh for a moment; a live one renews it while we wait.
        deadline = time.monotonic() + FRESH_FOR + 2 * HEARTBEAT
        while True:
            try:
                self._run(store.claim_writer(nonce, now=time.time(), fresh_for=FRESH_FOR, take_over=take_over))
            except StorageUnavailable:
                if time.monotonic() > deadline:
                    raise
                self._stopped.wait(0.25)
            else:
                return

    def _commit(self, operations: Sequence[Operation]) -> list[Answer]:
        store = self._open_store()
        assert self._group is not None
        try:
            answers = self._run(self._group.commit(operations))
        except WriterFenced as error:
            self._set_fenced(store, error)
            raise
        self._publish(operations, answers)
        return answers

    def _publish(self, operations: Sequence[Operation], answers: Sequence[Answer]) -> None:
        ended = [
            op.execution_id
            for op, answer in zip(operations, answers, strict=True)
            if isinstance(op, Append) and isinstance(answer, Done) and op.status.terminal
        ]
        if ended:
            self._completions.add(ended)

    def _heartbeat(self) -> None:
        outage = ThrottledWarning(log, f"the heartbeat of the writer of store {self._url} cannot be written")
        while not self._stopped.wait(HEARTBEAT):
            store = self._store
            if store is None or self._fenced is not None:
                continue
            try:
                self._run(store.heartbeat(now=time.time()))
            except WriterFenced as error:
                self._set_fenced(store, error)
            except StorageError as error:
                outage.failed(error)
            else:
                outage.recovered()


# Not a method: if one method of an actor is a coroutine, Ray runs all its calls on one event loop, one after another,
# and a commit that waits for its disk would block all other calls.
async def _claim(store: Store, group: GroupCommitter, claim: Claim) -> ClaimResult:
    [answer] = await group.commit([claim])
    if not isinstance(answer, Done):
        return ClaimResult(answer)
    record = await store.execution(claim.execution_id)
    journal = await store.journal(claim.execution_id)
    inbox = await store.inbox(claim.execution_id)
    return ClaimResult(answer, record, tuple(journal), tuple(inbox))
