"""Coordinator logic: drives executions on one thread.

A turn takes the messages that have arrived, passes them to the executions, commits what must be durable, and then
carries out the actions that this allows. There is at most one commit under way; what happens during that time goes
into the next one. All other threads only submit to the mailbox.

The coordinator owns the drivers of its executions and its slots, and nothing durable: it can be killed at any moment,
and its executions continue elsewhere from their journals, under the next epoch.
"""

from __future__ import annotations

import dataclasses
import heapq
import logging
import uuid
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from rayflow.core.execution.actions import LiveTask
from rayflow.core.execution.execution import Execution, RunAttempt
from rayflow.core.interpreter.machine import failure_of
from rayflow.core.pool.slots import Key
from rayflow.errors import (
    ClusterError,
    CorruptRecord,
    ExecutionNotFound,
    Failure,
    InvalidArgument,
    InvalidTransition,
    QueueFull,
    RayflowError,
    StorageUnavailable,
    WriterFenced,
)
from rayflow.runtime.actors import actor_names
from rayflow.runtime.actors.base import ActorChannel, ActorSystem
from rayflow.runtime.actors.mailbox import Mailbox
from rayflow.runtime.code.change_detector import record_imports
from rayflow.runtime.code.environment import Environment
from rayflow.runtime.coordinator.code_registry import CodeRegistry
from rayflow.runtime.coordinator.driver import ExecutionDriver
from rayflow.runtime.coordinator.progress import OutputBuffer, Progress, StepProgress
from rayflow.runtime.coordinator.router import AttemptRouter, PoolDispatchers
from rayflow.runtime.coordinator.store_client import RETRY_MOST, CommitQueue, ExecutionClaims, InboxReader, Members
from rayflow.runtime.coordinator.supervisor_client import SupervisorClient
from rayflow.runtime.messages import TaskMessage, TaskOutcome, task_message, unpack
from rayflow.runtime.settings import Settings
from rayflow.runtime.worker.heartbeat import Heartbeat
from rayflow.storage.codec.payloads import MsgpackCodec
from rayflow.storage.model import ExecutionRecord, InboxRow
from rayflow.storage.operations import Answer

log = logging.getLogger(__name__)

#: Seconds between two full reports to the pools.
REFRESH = 1.0


class Coordinator:
    """The logic of a coordinator actor.

    Args:
        mailbox: creates its mailbox.
        driver: creates the driver of an execution.
        router: creates what runs attempts.
    """

    def __init__(
        self,
        system: ActorSystem,
        name: str,
        env: Environment,
        settings: Settings,
        *,
        mailbox: Callable[..., Mailbox] = Mailbox,
        driver: Callable[..., ExecutionDriver] = ExecutionDriver,
        router: Callable[..., AttemptRouter] = AttemptRouter,
    ) -> None:
        self.name = name
        self.output_buffer = OutputBuffer()
        self.mailbox = mailbox("coordinator", self._after, self._next_wake, clock=system.clock)
        self.submit = self.mailbox.submit
        self.submit_later = self.mailbox.submit_later
        self.now = self.mailbox.now
        self._system = system
        self._env = env
        self._settings = settings
        self._nonce = uuid.uuid4().hex
        self._codec = MsgpackCodec(allow_pickle=settings.allow_pickle)
        self._code = CodeRegistry(system, allow_pickle=settings.allow_pickle)
        self._drivers: dict[str, ExecutionDriver] = {}
        self._dirty: dict[str, None] = {}
        self._wakes: list[tuple[float, str]] = []
        self._dispatchers = PoolDispatchers(self, system, env, settings)
        self._progress = StepProgress(self._drivers.get, self.now, self._codec, self._schedule)
        self._driver = driver
        self._router = router(self, system, env, self._dispatchers, settings)
        self._commits: CommitQueue | None = None
        self._inboxes = InboxReader(system, self.mailbox, self._received)
        self._supervisor = SupervisorClient(system, name, self.mailbox)
        self._claims = ExecutionClaims(system, self.mailbox, self._holds, self._claimed, self._drop)

    def start(self) -> None:
        """Start the coordinator's thread."""
        if self._system.separate:
            record_imports()
        channel = ActorChannel(self._system.find(actor_names.STORE), "commit")
        self._commits = CommitQueue(
            channel, self._code.put_value, self.mailbox, finish=self._finish, fenced=self._fenced
        )
        self.mailbox.submit_every(REFRESH, self._refresh)
        self.mailbox.start()

    def stop(self) -> None:
        """Stop, and drop all workflow code."""
        self.mailbox.stop()
        for driver in list(self._drivers.values()):
            driver.evict()
        self._router.stop()

    # Methods for any thread.
    def progress(self, execution_id: str, cursor: int) -> Progress:
        """Return how far an execution is, and what its steps printed since a cursor."""
        lines, cursor = self.output_buffer.since(execution_id, cursor)
        driver = self._drivers.get(execution_id)
        execution = None if driver is None else driver.execution
        if execution is None:
            return Progress(lines, cursor, driving=driver is not None)
        issued = execution.issued
        return Progress(lines, cursor, driving=True, issued=issued, completed=issued - execution.unanswered)

    def census(self) -> dict[str, int]:
        """Return the executions that are driven here, with their epochs."""
        return {driver.id: driver.epoch for driver in list(self._drivers.values())}

    def live(self, execution_id: str) -> list[tuple[LiveTask, str]]:
        """Return the unfinished steps of an execution, each with its worker. Only for the coordinator's thread."""
        driver = self._drivers.get(execution_id)
        if driver is None or driver.execution is None:
            return []
        tasks = driver.execution.live()
        return [(task, self._dispatchers.worker_of((execution_id, task.seq, task.attempt))) for task in tasks]

    # Methods for the coordinator's thread only, from here to the end.
    def slots(self, data: bytes) -> None:
        """Apply the decisions of a pool."""
        self._dispatchers.apply(*unpack(data))

    def heartbeat(self, key: Key, epoch: int, beat: Heartbeat) -> None:
        """Record that a step is alive, and how far it is."""
        self._progress.heartbeat(key, epoch, beat)

    def begun(self, key: Key, epoch: int, at: float) -> None:
        """Record that a step has begun as a Ray task."""
        driver = self._drivers.get(key[0])
        if driver is not None and driver.epoch == epoch:
            self._dispatchers.begun(key, at)
            self._progress.begun(key, at)

    def assign(self, records: Sequence[ExecutionRecord], requested: Sequence[str] = ()) -> None:
        """Drive executions, with code that is not older than these fingerprints."""
        known = {record.id: driver for record in records if (driver := self._drivers.get(record.id)) is not None}
        records = [r for r in records if r.id not in known or known[r.id].epoch <= r.epoch]  # messages may come twice
        if self._code.detector.outdated({*requested, *(record.code_fingerprint for record in records)}):
            self._supervisor.outdated(records)
            return
        for record in records:
            if (driver := known.get(record.id)) is not None:
                self._evict(driver)
            driver = self._driver(
                record, nonce=self._nonce, coordinator=self.name, codec=self._codec, source=self._code.source,
                config=self._settings.config,
            )  # fmt: skip
            self._drivers[record.id] = driver
            self._claims.begin(driver)

    def _claimed(self, driver: ExecutionDriver) -> None:
        if driver.blocked and self._code.detector.edited():  # the edited code may be the fix
            self._evict(driver)
            self._supervisor.rejected(driver)
        else:
            self._touch(driver)

    def _holds(self, driver: ExecutionDriver) -> bool:
        return self._drivers.get(driver.id) is driver

    def _drop(self, driver: ExecutionDriver, why: object, *, over: bool = False) -> None:
        driver.log.info("dropping execution %s: %s", driver.id, why)
        self._evict(driver)
        (self._supervisor.released if over else self._supervisor.superseded)(driver)

    def _evict(self, driver: ExecutionDriver) -> None:
        self._router.forget(driver.id)
        self._progress.forget(driver.id)
        driver.evict()
        if self._holds(driver):
            del self._drivers[driver.id]

    def read_inboxes(self, ids: Sequence[str]) -> None:
        """Read the inboxes of executions."""
        for execution_id in ids:
            driver = self._drivers.get(execution_id)
            if driver is None:
                self._supervisor.misrouted(execution_id)
            elif driver.execution is not None:
                self._inboxes.read(driver)

    def _received(self, driver: ExecutionDriver, rows: Sequence[InboxRow]) -> None:
        if not self._holds(driver):
            return
        try:
            driver.receive(rows, self.now())
        except CorruptRecord:  # nothing was applied; restoring it again quarantines it
            self.assign([dataclasses.replace(driver.record, epoch=driver.epoch)])
        else:
            self._touch(driver)

    # Implementation of AttemptCallbacks.
    def message(self, run: RunAttempt, execution_id: str) -> TaskMessage | None:
        """Return the task for a worker; None if it is no longer wanted."""
        driver = self._drivers.get(execution_id)
        if driver is None or driver.execution is None or not driver.execution.is_current(run.seq, run.attempt):
            return None
        try:
            code, part = self._code.reference(run.call.target, driver.code)
        except InvalidArgument as error:
            self.refused((execution_id, run.seq, run.attempt), error)
            return None
        except (ClusterError, StorageUnavailable) as error:
            driver.log.warning(
                "cannot store the code of step %s, retrying in %g s: %s", run.call.name, RETRY_MOST, error
            )
            self.submit_later(RETRY_MOST, lambda: self.not_begun((execution_id, run.seq, run.attempt), driver.epoch))
            return None
        return task_message(driver.record, driver.epoch, run, code, part)

    def code_fingerprint(self, execution_id: str) -> str:
        """Return the fingerprint of the code that an execution runs here; "" if it is unknown now."""
        driver = self._drivers.get(execution_id)
        if driver is None:
            return ""
        try:
            return self._code.fingerprint(driver.record.code_fingerprint, driver.code)
        except RayflowError as error:
            driver.log.warning("the fingerprint of the code of execution %s cannot be stored now: %s", driver.id, error)
            return ""

    def refused(self, key: Key, error: BaseException) -> None:
        """Fail an attempt that cannot be made. Only a full queue allows another one."""
        failure = dataclasses.replace(failure_of(error), retryable=isinstance(error, QueueFull))
        about: dict[str, Any] = {"began": 0.0, "worker": "", "now": self.now()}
        self._tell(key, lambda execution: execution.failed(key[1], key[2], failure, **about))

    def waits(self, key: Key, why: str) -> None:
        """Record that an attempt waits for a resource that the cluster does not have."""
        self._progress.waits(key, why)

    def look_up_pool(self, pool: str) -> None:
        """Check whether a pool still exists."""
        self._dispatchers.look_up(pool)

    def sent(self, key: Key, at: float) -> None:
        """Start the timeout of an attempt that was sent."""
        self._tell(key, lambda execution: execution.sent(key[1], key[2], at))

    def outcome(self, outcome: TaskOutcome, worker: str, epoch: int) -> None:
        """Apply the outcome of an attempt."""
        if outcome.output:
            self.output_buffer.add(outcome.execution_id, outcome.output)
        driver = self._drivers.get(outcome.execution_id)
        if driver is None or driver.epoch != epoch:
            return
        if outcome.result is None and outcome.failure is None:
            self._drop(driver, "a worker refused an attempt, because it knows a newer coordinator of this execution")
        else:
            key, now = (outcome.execution_id, outcome.seq, outcome.attempt), self.now()
            self._tell(key, lambda _: driver.outcome(outcome, worker, now), epoch)

    def lost(self, key: Key, failure: Failure, *, exclusive: bool, worker: str, epoch: int) -> None:
        """Apply the loss of an attempt with its worker."""
        about: dict[str, Any] = {"exclusive": exclusive, "worker": worker, "now": self.now()}
        self._tell(key, lambda execution: execution.lost(key[1], key[2], failure, **about), epoch)

    def not_begun(self, key: Key, epoch: int) -> None:
        """Dispatch an attempt again that was returned before it began."""
        self._tell(key, lambda execution: execution.not_begun(key[1], key[2]), epoch)

    def _tell(self, key: Key, what: Callable[[Execution], object], epoch: int | None = None) -> None:
        # An attempt of an earlier epoch does not count, even if this coordinator has claimed the execution again.
        driver = self._drivers.get(key[0])
        if driver is not None and driver.execution is not None and epoch in {None, driver.epoch}:
            what(driver.execution)
            self._touch(driver)

    def _after(self) -> None:
        now = self.now()
        self._tick(now)
        self._perform_early()
        self._commit(now)
        self._dispatchers.dispatch_ready()

    def _next_wake(self) -> float | None:
        wakes = [] if (wake := self._dispatchers.next_wake()) is None else [wake]
        if self._wakes:
            wakes.append(self._wakes[0][0])
        return min(wakes, default=None)

    def _refresh(self) -> None:
        self._dispatchers.refresh()
        for driver in self._drivers.values():
            if driver.notes:
                self._dirty[driver.id] = None

    def _touch(self, driver: ExecutionDriver) -> None:
        driver.dirty = True
        self._dirty[driver.id] = None

    def _tick(self, now: float) -> None:
        while self._wakes and self._wakes[0][0] <= now:
            driver = self._drivers.get(heapq.heappop(self._wakes)[1])
            if driver is not None and driver.execution is not None:
                driver.execution.tick(now)
                self._touch(driver)

    def _schedule(self, driver: ExecutionDriver) -> None:
        wake = driver.next_wake()
        if wake is not None and wake != driver.wake:
            heapq.heappush(self._wakes, (wake, driver.id))
        driver.wake = wake

    def _perform_early(self) -> None:
        for execution_id in self._dirty:
            driver = self._drivers.get(execution_id)
            if driver is not None:
                self._router.perform(driver, driver.ready_early())
                self._schedule(driver)

    def _commit(self, now: float) -> None:
        if self._commits is None or self._commits.under_way or not self._dirty:
            return
        members: Members = []
        dirty, self._dirty = self._dirty, {}
        for execution_id in dirty:
            driver = self._drivers.get(execution_id)
            if driver is None:
                continue
            try:
                operations = driver.operations(now)
            except (ClusterError, StorageUnavailable) as error:
                driver.log.warning("cannot write the requests of execution %s, retrying: %s", driver.id, error)
                self.submit_later(RETRY_MOST, partial(self._touch, driver))
                continue
            if operations:
                members.append((driver, operations))
            else:
                self._finish(driver, [])
        if members:
            self._commits.send(members)

    def _fenced(self, error: WriterFenced) -> None:
        """Drop all executions, because another cluster writes this store."""
        for driver in list(self._drivers.values()):
            self._drop(driver, error)

    def _finish(self, driver: ExecutionDriver, answers: Sequence[Answer]) -> None:
        if not self._holds(driver):
            return
        try:
            actions, newest, touched = driver.committed(answers, self.now())
        except (WriterFenced, InvalidTransition, ExecutionNotFound) as error:
            self._drop(driver, error)
            return
        except RayflowError as error:
            driver.log.warning("the store rejects what execution %s has to write: %s", driver.id, error)
            if driver.quarantine(error, self.now()):
                self._touch(driver)
            else:
                self._drop(driver, error)
            return
        self._router.perform(driver, actions)
        if driver.over:
            self._drop(driver, "it has finished or is parked", over=True)
        self._notify(touched)
        if driver.over:
            return
        if driver.dirty:
            self._dirty[driver.id] = None
        if newest > driver.inbox_seen and driver.execution is not None:
            self._inboxes.read(driver)
        self._schedule(driver)

    def _notify(self, touched: Sequence[str]) -> None:
        """Notify other executions: those that are driven here read their inboxes, the supervisor notifies the rest."""
        mine = [name for name in touched if name in self._drivers]
        others = tuple(name for name in touched if name not in self._drivers)
        self.read_inboxes(mine)
        if others:
            self._supervisor.notify(others)
