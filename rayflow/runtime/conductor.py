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

from rayflow.core.execution import Action, Execution, RunAttempt, StopAttempt
from rayflow.core.machine import failure_of
from rayflow.errors import (
    ClusterError,
    DefinitionError,
    ExecutionNotFound,
    Failure,
    Fenced,
    InvalidTransition,
    RayflowError,
    StorageUnavailable,
)
from rayflow.runtime import naming
from rayflow.runtime.codes import Codes
from rayflow.runtime.commits import RETRY_FIRST, RETRY_MOST, Commits, Members
from rayflow.runtime.dispatcher import Dispatcher, Key
from rayflow.runtime.driver import Driver, is_fresh
from rayflow.runtime.environment import Environment
from rayflow.runtime.inboxes import Inboxes
from rayflow.runtime.localruns import LocalRuns
from rayflow.runtime.messages import TaskMessage, TaskOutcome, pack, unpack
from rayflow.runtime.persistence import TakenUp
from rayflow.runtime.prints import Prints, Progress
from rayflow.runtime.settings import Settings
from rayflow.runtime.system import ActorLine, ActorSystem, Reply, send_to
from rayflow.runtime.turns import Turns
from rayflow.storage.base import Answer, ExecutionRecord, InboxRow, Refused
from rayflow.storage.codec import MsgpackCodec

log = logging.getLogger(__name__)

#: Seconds between two full reports to the pools.
REFRESH = 1.0


class Conductor:
    """See the module's docstring.

    Args:
        system: where the other actors are found.
        name: the coordinator's name.
        env: its code environment.
        settings: shared by all actors of the namespace.
    """

    def __init__(self, system: ActorSystem, name: str, env: Environment, settings: Settings) -> None:
        self.name = name
        self.prints = Prints()
        self.turns = Turns("coordinator", self._after, self._next_wake)
        self.post = self.turns.post
        self.later = self.turns.later
        self.now = self.turns.now
        self._system = system
        self._env = env
        self._settings = settings
        self._nonce = uuid.uuid4().hex
        self._codec = MsgpackCodec(allow_pickle=settings.allow_pickle)
        self._codes = Codes(system)
        self._drivers: dict[str, Driver] = {}
        self._dirty: dict[str, None] = {}
        self._wakes: list[tuple[float, str]] = []
        self._dispatchers: dict[str, Dispatcher] = {}
        self._local: LocalRuns | None = None
        self._commits: Commits | None = None
        self._inboxes = Inboxes(system, self.post, self.later, self._received)

    def start(self) -> None:
        """Begin."""
        line = ActorLine(self._system.find(naming.PERSISTENCE), "commit")
        self._commits = Commits(line, self.post, self.later, self._finish, self._fenced)
        self.later(REFRESH, self._refresh)
        self.turns.start()

    def stop(self) -> None:
        """Stop, and drop all code; nothing is issued any more."""
        self.turns.stop()
        for driver in list(self._drivers.values()):
            driver.evict()
        if self._local is not None:
            self._local.stop()

    # --- asked from other threads --------------------------------------------------------------------------
    def progress(self, execution_id: str, cursor: int) -> Progress:
        """How far an execution is, and what its steps printed since a cursor."""
        lines, cursor = self.prints.since(execution_id, cursor)
        driver = self._drivers.get(execution_id)
        execution = None if driver is None else driver.execution
        if execution is None:
            return Progress(lines, cursor, driving=driver is not None)
        return Progress(
            lines,
            cursor,
            driving=True,
            issued=execution.issued,
            completed=execution.issued - execution.unanswered,
        )

    def census(self) -> dict[str, int]:
        """The executions driven here, with their epochs."""
        return {driver.id: driver.epoch for driver in list(self._drivers.values())}

    # --- posted --------------------------------------------------------------------------------------------
    def slots(self, data: bytes) -> None:
        """A pool says something by itself."""
        pool, epoch, commands = unpack(data)
        self._dispatcher(pool).apply(epoch, commands)

    def assign(self, records: Sequence[ExecutionRecord]) -> None:
        """Drive these executions."""
        for record in records:
            held = self._drivers.get(record.id)
            if held is not None and held.epoch > record.epoch:
                continue  # told twice
            if held is not None:
                self._let_go(held)
            driver = Driver(
                record,
                nonce=self._nonce,
                coordinator=self.name,
                codec=self._codec,
                cache=self._codes.cache,
                fetch=self._codes.fetch,
            )
            self._drivers[record.id] = driver
            if is_fresh(record):
                self._load(driver, partial(driver.begin, self.now()))
            else:
                self._take_up(driver)

    def _load(self, driver: Driver, load: Callable[[], None], wait: float = RETRY_FIRST) -> None:
        if self._drivers.get(driver.id) is not driver:
            return
        try:
            load()
        except (RayflowError, OSError) as error:
            driver.log.warning("execution %s cannot be loaded now: %s", driver.id, error)
            self.later(wait, lambda: self._load(driver, load, min(wait * 2, RETRY_MOST)))
        else:
            self._touch(driver)

    def _take_up(self, driver: Driver, wait: float = RETRY_FIRST) -> None:
        def reply(answer: Reply) -> None:
            self.post(lambda: self._taken_up(driver, answer, wait))

        request = pack(driver.claim(self.now()))
        send_to(self._system, naming.PERSISTENCE, "take_up", request, then=reply, label=f"take up {driver.id}")

    def _taken_up(self, driver: Driver, answer: Reply, wait: float) -> None:
        if self._drivers.get(driver.id) is not driver:
            return
        if answer.error is not None:
            if isinstance(answer.error, Fenced):
                self._drop(driver, answer.error)
                return
            driver.log.warning("execution %s cannot be taken up now: %s", driver.id, answer.error)
            self.later(wait, lambda: self._take_up(driver, min(wait * 2, RETRY_MOST)))
            return
        taken: TakenUp = unpack(answer.value)
        if isinstance(taken.answer, Refused):
            self._drop(driver, taken.answer.error)
            return
        record = taken.record
        assert record is not None
        self._load(driver, lambda: driver.restore(record, taken.journal, taken.inbox, self.now()))

    def _drop(self, driver: Driver, why: object) -> None:
        driver.log.info("execution %s is not driven here any more: %s", driver.id, why)
        self._let_go(driver)
        send_to(self._system, naming.SUPERVISOR, "released", self.name, (driver.id,))

    def _let_go(self, driver: Driver) -> None:
        for dispatcher in self._dispatchers.values():
            dispatcher.forget(driver.id)
        if self._local is not None:
            self._local.forget(driver.id)
        driver.evict()
        if self._drivers.get(driver.id) is driver:
            del self._drivers[driver.id]

    # --- inbox ---------------------------------------------------------------------------------------------
    def read_inboxes(self, ids: Sequence[str]) -> None:
        """Look into the inboxes of these executions."""
        for execution_id in ids:
            driver = self._drivers.get(execution_id)
            if driver is not None and driver.execution is not None:
                self._inboxes.read(driver)

    def _received(self, driver: Driver, rows: Sequence[InboxRow]) -> None:
        if self._drivers.get(driver.id) is driver:
            driver.receive(rows, self.now())
            self._touch(driver)

    # --- Host: what dispatchers call -----------------------------------------------------------------------
    def message(self, run: RunAttempt, execution_id: str) -> TaskMessage | None:
        """The task as a worker gets it."""
        driver = self._drivers.get(execution_id)
        if driver is None:
            return None
        try:
            code, part = self._codes.reference(run.call.target, driver.code)
        except DefinitionError as error:
            self._refuse(driver, run, error)
            return None
        except (ClusterError, StorageUnavailable) as error:
            driver.log.warning("the code of step %s cannot be stored now: %s", run.call.name, error)
            self.later(RETRY_MOST, lambda: self.not_begun((execution_id, run.seq, run.attempt), driver.epoch))
            return None
        return driver.message(run, code, part)

    def _refuse(self, driver: Driver, run: RunAttempt, error: RayflowError) -> None:
        """An attempt cannot be sent at all, and another could not either."""
        if driver.execution is not None:
            failure = dataclasses.replace(failure_of(error), retryable=False)
            driver.execution.failed(run.seq, run.attempt, failure, began=0.0, worker="", now=self.now())
            self._touch(driver)

    def sent(self, key: Key) -> None:
        """The attempt went out: its timeout begins."""
        self._tell(key, lambda execution: execution.sent(key[1], key[2], self.now()))

    def outcome(self, outcome: TaskOutcome, worker: str, epoch: int) -> None:
        """An attempt ended."""
        key = (outcome.execution_id, outcome.seq, outcome.attempt)
        about: dict[str, Any] = {"began": outcome.began, "worker": worker, "now": self.now()}
        if outcome.output:
            self.prints.add(outcome.execution_id, outcome.output)
        if (result := outcome.result) is not None:
            self._tell(key, lambda execution: execution.completed(key[1], key[2], result, **about), epoch)
        elif (failure := outcome.failure) is not None:
            self._tell(key, lambda execution: execution.failed(key[1], key[2], failure, **about), epoch)
        elif (driver := self._drivers.get(outcome.execution_id)) is not None and driver.epoch == epoch:
            self._drop(driver, "a worker refused it, because it knows a newer coordinator of this execution")

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
        for dispatcher in self._dispatchers.values():
            dispatcher.pump()

    def _next_wake(self) -> float | None:
        wakes = [w for d in self._dispatchers.values() if (w := d.next_wake()) is not None]
        if self._wakes:
            wakes.append(self._wakes[0][0])
        return min(wakes, default=None)

    def _refresh(self) -> None:
        for dispatcher in self._dispatchers.values():
            dispatcher.refresh()
        self.later(REFRESH, self._refresh)

    def _touch(self, driver: Driver) -> None:
        driver.dirty = True
        self._dirty[driver.id] = None

    def _tick(self, now: float) -> None:
        while self._wakes and self._wakes[0][0] <= now:
            driver = self._drivers.get(heapq.heappop(self._wakes)[1])
            if driver is not None and driver.execution is not None:
                driver.execution.tick(now)
                self._touch(driver)

    def _schedule(self, driver: Driver) -> None:
        wake = None if driver.execution is None else driver.execution.next_wake()
        if wake is not None and wake != driver.wake:
            heapq.heappush(self._wakes, (wake, driver.id))
        driver.wake = wake

    # --- committing ----------------------------------------------------------------------------------------
    def _hurry(self) -> None:
        for execution_id in self._dirty:
            driver = self._drivers.get(execution_id)
            if driver is not None:
                self._perform(driver, driver.hurry())
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
            operations = driver.operations(now)
            if operations:
                members.append((driver, operations))
            else:
                self._finish(driver, [])
        if members:
            self._commits.send(members)

    def _fenced(self, error: Fenced) -> None:
        """Another cluster writes this store: nothing that is driven here counts any more."""
        for driver in list(self._drivers.values()):
            self._drop(driver, error)

    def _finish(self, driver: Driver, answers: Sequence[Answer]) -> None:
        if self._drivers.get(driver.id) is not driver:
            return
        try:
            actions, newest = driver.committed(answers)
        except (Fenced, InvalidTransition, ExecutionNotFound) as error:
            self._drop(driver, error)
            return
        except RayflowError as error:
            driver.log.warning("the store refuses what execution %s has to write: %s", driver.id, error)
            if driver.set_aside(error, self.now()):
                self._touch(driver)
            else:
                self._drop(driver, error)
            return
        self._perform(driver, actions)
        if driver.over:
            self._drop(driver, "it is over or parked")
            return
        if driver.dirty:
            self._dirty[driver.id] = None
        if newest > driver.inbox_seen and driver.execution is not None:
            self._inboxes.read(driver)
        self._schedule(driver)

    # --- doing ---------------------------------------------------------------------------------------------
    def _perform(self, driver: Driver, actions: Sequence[Action]) -> None:
        for action in actions:
            key = (driver.id, action.seq, action.attempt)
            if isinstance(action, StopAttempt):
                self._stop(key)
            elif action.local:
                self._run_local(driver, action)
            else:
                self._run_on_pool(driver, key, action)

    def _run_on_pool(self, driver: Driver, key: Key, run: RunAttempt) -> None:
        pool = run.call.options.pool
        try:
            dispatcher = self._dispatcher(pool)
        except DefinitionError as error:
            self._refuse(driver, run, error)
        else:
            dispatcher.want(driver.id, run, driver.options.priority)

    def _stop(self, key: Key) -> None:
        for dispatcher in self._dispatchers.values():
            dispatcher.stop(key)
        if self._local is not None:
            self._local.cancel(key)

    def _dispatcher(self, pool: str) -> Dispatcher:
        if pool not in self._dispatchers:
            grace = self._settings.pool(pool).stop_grace
            self._dispatchers[pool] = Dispatcher(self, self._system, pool, self._env.id, grace)
        return self._dispatchers[pool]

    def _run_local(self, driver: Driver, run: RunAttempt) -> None:
        if self._local is None:
            self._local = LocalRuns(self, self._system, self._env, allow_pickle=self._settings.allow_pickle)
        message = self.message(run, driver.id)
        if message is not None:
            self._local.run(message)
