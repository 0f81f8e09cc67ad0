"""Drives executions: the one thread of a coordinator on which everything happens.

It takes what arrives, gives it to the executions, commits what must be durable, then does what that calls for. There
is at most one commit under way; what happens meanwhile goes into the next one. All other threads only post to it.

It owns the drivers of its executions and its slots. It owns nothing durable: it can be killed at any moment, and its
executions go on elsewhere from their journals, under the next epoch.
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
    DefinitionError,
    ExecutionNotFound,
    Failure,
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
    """See the module's docstring.

    Args:
        system: where the other actors are found.
        name: the coordinator's name.
        env: its code environment.
        settings: shared by all actors of the namespace.
        turns: makes its thread.
        driver: makes what drives one execution.
        performer: makes what runs attempts.
    """

    def __init__(
        self,
        system: ActorSystem,
        name: str,
        env: Environment,
        settings: Settings,
        *,
        turns: Callable[..., Mailbox] = Mailbox,
        driver: Callable[..., ExecutionDriver] = ExecutionDriver,
        performer: Callable[..., AttemptRouter] = AttemptRouter,
    ) -> None:
        self.name = name
        self.prints = OutputBuffer()
        self.turns = turns("coordinator", self._after, self._next_wake, clock=system.clock)
        self.post = self.turns.post
        self.later = self.turns.later
        self.now = self.turns.now
        self._system = system
        self._env = env
        self._settings = settings
        self._nonce = uuid.uuid4().hex
        self._codec = MsgpackCodec(allow_pickle=settings.allow_pickle)
        self._codes = CodeRegistry(system, allow_pickle=settings.allow_pickle)
        self._drivers: dict[str, ExecutionDriver] = {}
        self._dirty: dict[str, None] = {}
        self._wakes: list[tuple[float, str]] = []
        self._dispatchers = PoolDispatchers(self, system, env, settings)
        self._remarks = StepProgress(self._drivers.get, self.now, self._codec, self._schedule)
        self._driver = driver
        self._performer = performer(self, system, env, self._dispatchers, settings)
        self._commits: CommitQueue | None = None
        self._inboxes = InboxReader(system, self.post, self.later, self._received)
        self._reports = SupervisorClient(system, name, self.post, self.later)
        self._takeups = ExecutionClaims(system, self.turns, self._holds, self._taken_up, self._drop)

    def start(self) -> None:
        """Begin."""
        if self._system.separate:
            record_imports()
        line, put = ActorChannel(self._system.find(actor_names.PERSISTENCE), "commit"), self._codes.put_value
        self._commits = CommitQueue(line, put, self.post, self.later, finish=self._finish, fenced=self._fenced)
        self.turns.every(REFRESH, self._refresh)
        self.turns.start()

    def stop(self) -> None:
        """Stop, and drop all code; nothing is issued any more."""
        self.turns.stop()
        for driver in list(self._drivers.values()):
            driver.evict()
        self._performer.stop()

    # --- asked from other threads --------------------------------------------------------------------------
    def progress(self, execution_id: str, cursor: int) -> Progress:
        """How far an execution is, and what its steps printed since a cursor."""
        lines, cursor = self.prints.since(execution_id, cursor)
        driver = self._drivers.get(execution_id)
        execution = None if driver is None else driver.execution
        if execution is None:
            return Progress(lines, cursor, driving=driver is not None)
        issued = execution.issued
        return Progress(lines, cursor, driving=True, issued=issued, completed=issued - execution.unanswered)

    def census(self) -> dict[str, int]:
        """The executions driven here, with their epochs."""
        return {driver.id: driver.epoch for driver in list(self._drivers.values())}

    def live(self, execution_id: str) -> list[tuple[LiveTask, str]]:
        """The unanswered steps of an execution, each with its worker; for the coordinator's own thread."""
        driver = self._drivers.get(execution_id)
        if driver is None or driver.execution is None:
            return []
        tasks = driver.execution.live()
        return [(task, self._dispatchers.worker_of((execution_id, task.seq, task.attempt))) for task in tasks]

    # --- posted --------------------------------------------------------------------------------------------
    def slots(self, data: bytes) -> None:
        """A pool says something by itself."""
        self._dispatchers.apply(*unpack(data))

    def beat(self, key: Key, epoch: int, beat: Heartbeat) -> None:
        """A step says that it is alive, and how far it is."""
        self._remarks.beat(key, epoch, beat)

    def begun(self, key: Key, epoch: int, at: float) -> None:
        """A step that is a Ray task of its own has begun."""
        driver = self._drivers.get(key[0])
        if driver is not None and driver.epoch == epoch:
            self._dispatchers.begun(key, at)
            self._remarks.begun(key, at)

    def assign(self, records: Sequence[ExecutionRecord], asked: Sequence[str] = ()) -> None:
        """Drive these executions, with code that is at least as new as these fingerprints say."""
        known = {record.id: held for record in records if (held := self._drivers.get(record.id)) is not None}
        records = [r for r in records if r.id not in known or known[r.id].epoch <= r.epoch]  # or it is told twice
        codes = self._codes
        if codes.detector.outdated({*asked, *(record.code_fingerprint for record in records)}):
            self._reports.outdated(records)
            return
        for record in records:
            if (held := known.get(record.id)) is not None:
                self._let_go(held)
            driver = self._driver(
                record, nonce=self._nonce, coordinator=self.name, codec=self._codec, source=codes.source,
                config=self._settings.config,
            )  # fmt: skip
            self._drivers[record.id] = driver
            self._takeups.begin(driver)

    def _taken_up(self, driver: ExecutionDriver) -> None:
        if driver.blocked and self._codes.detector.edited():  # by the code that it has been mended from, perhaps
            self._let_go(driver)
            self._reports.declined(driver)
        else:
            self._touch(driver)

    def _holds(self, driver: ExecutionDriver) -> bool:
        return self._drivers.get(driver.id) is driver

    def _drop(self, driver: ExecutionDriver, why: object, *, over: bool = False) -> None:
        driver.log.info("execution %s is not driven here any more: %s", driver.id, why)
        self._let_go(driver)
        (self._reports.released if over else self._reports.superseded)(driver)

    def _let_go(self, driver: ExecutionDriver) -> None:
        self._performer.forget(driver.id)
        self._remarks.forget(driver.id)
        driver.evict()
        if self._holds(driver):
            del self._drivers[driver.id]

    # --- inbox ---------------------------------------------------------------------------------------------
    def read_inboxes(self, ids: Sequence[str]) -> None:
        """Look into the inboxes of these executions."""
        for execution_id in ids:
            driver = self._drivers.get(execution_id)
            if driver is None:
                self._reports.astray(execution_id)
            elif driver.execution is not None:
                self._inboxes.read(driver)

    def _received(self, driver: ExecutionDriver, rows: Sequence[InboxRow]) -> None:
        if not self._holds(driver):
            return
        try:
            driver.receive(rows, self.now())
        except CorruptRecord:  # what is there before it is recorded; whoever takes it up now sets it aside
            self.assign([dataclasses.replace(driver.record, epoch=driver.epoch)])
        else:
            self._touch(driver)

    # --- Host: what dispatchers call -----------------------------------------------------------------------
    def message(self, run: RunAttempt, execution_id: str) -> TaskMessage | None:
        """The task as a worker gets it."""
        driver = self._drivers.get(execution_id)
        if driver is None or driver.execution is None or not driver.execution.wants(run.seq, run.attempt):
            return None
        try:
            code, part = self._codes.reference(run.call.target, driver.code)
        except DefinitionError as error:
            self.refused((execution_id, run.seq, run.attempt), error)
            return None
        except (ClusterError, StorageUnavailable) as error:
            driver.log.warning("the code of step %s cannot be stored now: %s", run.call.name, error)
            self.later(RETRY_MOST, lambda: self.not_begun((execution_id, run.seq, run.attempt), driver.epoch))
            return None
        return task_message(driver.record, driver.epoch, run, code, part)

    def code_fingerprint(self, execution_id: str) -> str:
        """The fingerprint of the code that an execution runs here; "" if it cannot be told now."""
        driver = self._drivers.get(execution_id)
        if driver is None:
            return ""
        try:
            return self._codes.fingerprint(driver.record.code_fingerprint, driver.code)
        except RayflowError as error:
            driver.log.warning("the fingerprint of the code of execution %s cannot be stored now: %s", driver.id, error)
            return ""

    def refused(self, key: Key, error: BaseException) -> None:
        """An attempt cannot be made, and but for a full queue another could not either."""
        failure = dataclasses.replace(failure_of(error), retryable=isinstance(error, QueueFull))
        about: dict[str, Any] = {"began": 0.0, "worker": "", "now": self.now()}
        self._tell(key, lambda execution: execution.failed(key[1], key[2], failure, **about))

    def waits(self, key: Key, why: str) -> None:
        """An attempt waits for something that the cluster does not have."""
        self._remarks.waits(key, why)

    def look_up_pool(self, pool: str) -> None:
        """See whether there still is a pool of that name."""
        self._dispatchers.look_up(pool)

    def sent(self, key: Key, at: float) -> None:
        """The attempt went out: its timeout begins."""
        self._tell(key, lambda execution: execution.sent(key[1], key[2], at))

    def outcome(self, outcome: TaskOutcome, worker: str, epoch: int) -> None:
        """An attempt ended."""
        if outcome.output:
            self.prints.add(outcome.execution_id, outcome.output)
        driver = self._drivers.get(outcome.execution_id)
        if driver is None or driver.epoch != epoch:
            return
        if outcome.result is None and outcome.failure is None:
            self._drop(driver, "a worker refused it, because it knows a newer coordinator of this execution")
        else:
            key, now = (outcome.execution_id, outcome.seq, outcome.attempt), self.now()
            self._tell(key, lambda _: driver.outcome(outcome, worker, now), epoch)

    def lost(self, key: Key, failure: Failure, *, alone: bool, worker: str, epoch: int) -> None:
        """An attempt was lost with its worker."""
        about: dict[str, Any] = {"alone": alone, "worker": worker, "now": self.now()}
        self._tell(key, lambda execution: execution.lost(key[1], key[2], failure, **about), epoch)

    def not_begun(self, key: Key, epoch: int) -> None:
        """An attempt was given back."""
        self._tell(key, lambda execution: execution.not_begun(key[1], key[2]), epoch)

    def _tell(self, key: Key, what: Callable[[Execution], object], epoch: int | None = None) -> None:
        # An attempt of an earlier epoch is nobody's, also where this very coordinator took the execution up again.
        driver = self._drivers.get(key[0])
        if driver is not None and driver.execution is not None and epoch in {None, driver.epoch}:
            what(driver.execution)
            self._touch(driver)

    # --- turns ---------------------------------------------------------------------------------------------
    def _after(self) -> None:
        now = self.now()
        self._tick(now)
        self._hurry()
        self._commit(now)
        self._dispatchers.pump()

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

    # --- committing ----------------------------------------------------------------------------------------
    def _hurry(self) -> None:
        for execution_id in self._dirty:
            driver = self._drivers.get(execution_id)
            if driver is not None:
                self._performer.perform(driver, driver.hurry())
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
                driver.log.warning("what execution %s asks cannot be written now: %s", driver.id, error)
                self.later(RETRY_MOST, partial(self._touch, driver))
                continue
            if operations:
                members.append((driver, operations))
            else:
                self._finish(driver, [])
        if members:
            self._commits.send(members)

    def _fenced(self, error: WriterFenced) -> None:
        """Another cluster writes this store: nothing that is driven here counts any more."""
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
            driver.log.warning("the store refuses what execution %s has to write: %s", driver.id, error)
            if driver.set_aside(error, self.now()):
                self._touch(driver)
            else:
                self._drop(driver, error)
            return
        self._performer.perform(driver, actions)
        if driver.over:
            self._drop(driver, "it is over or parked", over=True)
        self._nudge(touched)
        if driver.over:
            return
        if driver.dirty:
            self._dirty[driver.id] = None
        if newest > driver.inbox_seen and driver.execution is not None:
            self._inboxes.read(driver)
        self._schedule(driver)

    def _nudge(self, touched: Sequence[str]) -> None:
        """Other executions have something new: those that are driven here read it, the supervisor sees to the rest."""
        mine = [name for name in touched if name in self._drivers]
        others = tuple(name for name in touched if name not in self._drivers)
        self.read_inboxes(mine)
        if others:
            self._reports.nudge(others)
