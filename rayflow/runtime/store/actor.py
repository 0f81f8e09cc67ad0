"""The persistence actor: the only writer of the store.

It owns the writer's epoch, the group commit and the news of what ended. It owns no rule: what may be written is decided
in :mod:`rayflow.storage.rules.executions`. Its methods are called from several threads; the store lives on one event
loop in a thread of its own, where the commits that arrive while one is being written become the next transaction.
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

#: Seconds between two heartbeats of the writer, and how old one may be before another cluster may take stopped.
HEARTBEAT = 1.0
FRESH_FOR = 3.0


@dataclass(frozen=True, slots=True)
class ClaimResult:
    """All that a coordinator needs to drive an execution: the answer to its claim, the row, journal and inbox."""

    answer: Answer
    record: ExecutionRecord | None = None
    journal: tuple[JournalRow, ...] = ()
    inbox: tuple[InboxRow, ...] = ()


class StoreActor:
    """See the module's docstring.

    Args:
        system: where it lives.
        url: the store's URL; the namespace is bound to it.
    """

    def __init__(self, system: ActorSystem, url: str) -> None:
        self._system = system
        self._url = url
        # One generation of the namespace is one writer: after a restart within it, this actor claims under the same
        # identity, and the incarnation before it is fenced.
        self._identity = system.identity
        self._loop = asyncio.new_event_loop()
        self._store: Store | None = None
        self._group: GroupCommitter | None = None
        self._opening = threading.Lock()
        self._entering = threading.Lock()
        self._loop_closed = False
        self._fenced: WriterFenced | None = None
        #: Held while it is said which store is open, and that it was taken stopped.
        self._switching = threading.Lock()
        self._completions = CompletionLog()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._serve, name="store", daemon=True)
        self._heartbeat_thread = threading.Thread(target=self._heartbeat, name="store-heartbeat", daemon=True)
        self._thread.start()
        self._heartbeat_thread.start()

    # --- writing -------------------------------------------------------------------------------------------
    def commit(self, data: bytes) -> bytes:
        """Apply packed operations; answers the packed answers once they are durable.

        Raises:
            StorageUnavailable: nobody was answered; send the same again.
            Fenced: another cluster writes this store now.
        """
        return pack(self._commit(unpack(data)))

    def start(self, operations: Sequence[Operation]) -> list[Answer]:
        """Apply operations, unpacked; for callers that are not in a hurry."""
        return self._commit(operations)

    def claim(self, data: bytes) -> bytes:
        """Apply a packed :class:`Claim`; answers a packed :class:`ClaimResult`."""
        store = self._open_store()
        assert self._group is not None
        return pack(self._run(_claim(store, self._group, unpack(data))))

    def save_definition(self, record: DefinitionRecord) -> None:
        """Keep a workflow definition."""
        self._run(self._open_store().save_definition(record))

    def delete_definition(self, workflow_id: str) -> bool:
        """Forget a workflow definition."""
        return self._run(self._open_store().delete_definition(workflow_id))

    def delete_dead_letters(self, keys: Sequence[tuple[str, int]]) -> int:
        """Delete dead letters by execution id and step; answers how many there were."""
        return self._run(self._open_store().delete_dead_letters(keys))

    def save_pool(self, record: PoolRecord) -> None:
        """Keep a pool's configuration."""
        self._run(self._open_store().save_pool(record))

    def delete_pool(self, name: str) -> bool:
        """Forget a pool's configuration; answers whether there was one."""
        return self._run(self._open_store().delete_pool(name))

    def put_blob(self, digest: str, data: bytes) -> None:
        """Keep bytes by their digest."""
        self._run(self._open_store().put_blob(digest, data))

    def put_value(self, digest: str, data: bytes) -> None:
        """Keep the payload of a large value by its digest."""
        self._run(self._open_store().put_value(digest, data, now=self._system.clock.now()))

    def value(self, digest: str) -> bytes | None:
        """The payload of a large value, or None."""
        return self._run(self._open_store().value(digest))

    def collect_values(self, grace: float, limit: int) -> int:
        """Delete large values to which nothing refers, so many at most; answers how many."""
        return self._run(self._open_store().collect_values(now=self._system.clock.now(), grace=grace, limit=limit))

    def collect(self, stopped: PurgeFilter, dry_run: bool = False) -> PurgeBatch:  # noqa: FBT001, FBT002 - the arguments of actors are positional
        """Delete executions that are stopped, in one transaction; answers which."""
        return self._run(self._open_store().collect(stopped, dry_run=dry_run))

    def reclaim(self) -> bool:
        """Give some of the space back that deleted executions took; answers whether there is more."""
        return self._run(self._open_store().reclaim())

    # --- reading -------------------------------------------------------------------------------------------
    def execution(self, execution_id: str) -> ExecutionRecord | None:
        """The execution's row, or None."""
        return self._run(self._open_store().execution(execution_id))

    def executions(self, query: Filter) -> list[ExecutionRecord]:
        """The rows that fit."""
        return self._run(self._open_store().executions(query))

    def journal(self, execution_id: str, after: int = 0) -> list[JournalRow]:
        """The journal's rows after a position."""
        return self._run(self._open_store().journal(execution_id, after=after))

    def inbox(self, execution_id: str, after: int = 0) -> list[InboxRow]:
        """The inbox rows that are not applied."""
        return self._run(self._open_store().inbox(execution_id, after=after))

    def locks(self, names: Sequence[str] | None = None) -> list[Lock]:
        """Locks with their claims, by name."""
        return self._run(self._open_store().locks(names))

    def schedules(self) -> list[ScheduleRecord]:
        """All schedules, by name."""
        return self._run(self._open_store().schedules())

    def save_schedule(self, record: ScheduleRecord) -> None:
        """Keep a schedule."""
        self._run(self._open_store().save_schedule(record))

    def delete_schedule(self, name: str) -> bool:
        """Forget a schedule; answers whether there was one."""
        return self._run(self._open_store().delete_schedule(name))

    def versions(self) -> list[tuple[str, str, int]]:
        """Workflow id, version, and how many unfinished executions run it."""
        return self._run(self._open_store().versions())

    def notes(self, execution_id: str) -> list[StepNote]:
        """The newest note of each step that has one."""
        return self._run(self._open_store().notes(execution_id))

    def dead_letters(
        self,
        execution_id: str | None = None,
        workflow_id: str | None = None,
        limit: int = 1000,
        step: int | None = None,
    ) -> list[DeadLetter]:
        """Dead letters that fit, newest first."""
        store = self._open_store()
        return self._run(store.dead_letters(execution_id=execution_id, workflow_id=workflow_id, step=step, limit=limit))

    def pools(self) -> list[PoolRecord]:
        """All saved pools, by name."""
        return self._run(self._open_store().pools())

    def pool(self, name: str) -> PoolRecord | None:
        """A saved pool, or None."""
        return next((record for record in self.pools() if record.name == name), None)

    def definition(self, workflow_id: str, version: str | None = None) -> DefinitionRecord | None:
        """A saved definition, or None."""
        return self._run(self._open_store().definition(workflow_id, version))

    def definitions(self) -> list[DefinitionRecord]:
        """All saved definitions."""
        return self._run(self._open_store().definitions())

    def blob(self, digest: str) -> bytes | None:
        """The bytes of a digest, or None."""
        return self._run(self._open_store().blob(digest))

    def totals(self) -> dict[str, float]:
        """The store's counters."""
        return self._run(self._open_store().totals())

    def completions(self, cursor: tuple[str, int], timeout: float) -> Completions:
        """Wait until something ends after the cursor, at most ``timeout`` seconds; then say what did."""
        news = self._completions.since(cursor, timeout, lambda: self._stopped.is_set() or self._fenced is not None)
        if self._fenced is not None:
            raise self._fenced
        return news

    # --- itself --------------------------------------------------------------------------------------------
    def ready(self, take_over: bool = False) -> str:  # noqa: FBT001, FBT002 - the arguments of actors are positional
        """Open the store and become its writer; answers the URL. One that was fenced claims the store anew.

        Args:
            take_over: take the store from a writer that is alive. It is said here, by whoever opens an engine, and
                not where the actor is made: an actor that is made anew takes nothing from anybody.

        Raises:
            StorageUnavailable: it cannot be opened, or somebody else writes it.
        """
        self._open_store(take_over=take_over, again=True)
        return self._url

    def ping(self) -> str:
        """Its generation's id: another one after a restart."""
        return self._completions.generation

    def pid(self) -> int:
        """The id of its process."""
        return os.getpid()

    def stop(self) -> None:
        """Close the store. The actor is of no use afterwards."""
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

    # --- inside --------------------------------------------------------------------------------------------
    def _serve(self) -> None:
        try:
            self._loop.run_forever()
            while left := asyncio.all_tasks(self._loop):  # callers on other threads wait for their answers
                self._loop.run_until_complete(asyncio.wait(left))
        finally:
            self._loop.close()

    def _run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        with self._entering:  # what enters before the end is waited for by the loop's end
            if self._loop_closed:
                coroutine.close()
                raise self._closed()
            future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        return future.result()

    def _set_fenced(self, store: Store, error: WriterFenced) -> None:
        """Somebody else writes the store: all who ask are told, and who waits for news."""
        with self._switching:
            if self._store is store and self._fenced is None:
                log.critical("this writer stops: %s", error)
                self._fenced = error
        self._completions.wake()

    def _closed(self) -> StorageUnavailable:
        return StorageUnavailable(f"the store {self._url} was closed: its engine or namespace was shut down")

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
            # While there was no writer nobody could renew a lease, so each gets a full term.
            self._run(group.commit([ExpireLeases(self._system.clock.now(), renew=True)]))
        except BaseException:
            self._run(store.close())
            raise
        with self._switching:
            self._store, self._group, self._fenced = store, group, None
        self._completions.reset()  # what is known of them is from before
        if fenced is not None:
            self._run(fenced.close())

    def _become_writer(self, store: Store, *, take_over: bool) -> None:
        since = time.time()
        nonce = WriterIdentity(self._identity, socket.gethostname(), os.getpid(), since).to_text()
        # A cluster that was killed leaves a heartbeat that is still fresh for a moment; one that is alive
        # renews it while we wait.
        give_up = time.monotonic() + FRESH_FOR + 2 * HEARTBEAT
        while True:
            try:
                self._run(store.claim_writer(nonce, now=time.time(), fresh_for=FRESH_FOR, take_over=take_over))
            except StorageUnavailable:
                if time.monotonic() > give_up:
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
        outage = ThrottledWarning(log, f"the store {self._url} cannot be written")
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


# Not a method: a single coroutine among them makes Ray run all calls of an actor on one event loop, one after the
# other, and a commit that waits for its disk would keep everybody else waiting.
async def _claim(store: Store, group: GroupCommitter, claim: Claim) -> ClaimResult:
    [answer] = await group.commit([claim])
    if not isinstance(answer, Done):
        return ClaimResult(answer)
    record = await store.execution(claim.execution_id)
    journal = await store.journal(claim.execution_id)
    inbox = await store.inbox(claim.execution_id)
    return ClaimResult(answer, record, tuple(journal), tuple(inbox))
