"""Pool actor: leases worker slots to coordinators and keeps the workers alive. It never sees a task.

The pure :class:`~rayflow.core.pool.PoolMachine` decides who gets which slot. This shell reports events to the machine
and carries out its commands: grants and recalls go to coordinators, and the
:class:`~rayflow.runtime.pool.workers.WorkerGroup` starts and stops workers. The system restarts the actor when it dies.
After a restart the pool has a higher epoch. It asks each worker what it runs before any slot of it is granted, and the
coordinators report what they hold and want. The pool's configuration is kept in the store.
"""

from __future__ import annotations

import math
import os
import threading
import uuid
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from rayflow.core.cluster.metrics import PoolStatus
from rayflow.core.pool import (
    Command,
    Grant,
    LeaseRevoked,
    PoolMachine,
    PoolTerms,
    Recall,
    Revoke,
    StartWorkers,
    StopWorker,
)
from rayflow.definition.options import PoolConfig
from rayflow.errors import ClusterError, RayflowError
from rayflow.runtime.actors import actor_names
from rayflow.runtime.actors.base import ActorSystem, send_to
from rayflow.runtime.actors.health import restarting_monitor
from rayflow.runtime.actors.mailbox import Mailbox
from rayflow.runtime.code.environment import Environment, Variables
from rayflow.runtime.messages import pack, unpack
from rayflow.runtime.pool.workers import WorkerGroup
from rayflow.runtime.settings import Settings
from rayflow.storage.codec.schedules import pool_config
from rayflow.storage.model import PoolRecord

#: Seconds between two checks for due actions, in addition to the moments that the machine names.
_TICK = 1.0

#: Seconds that the store may take to reply.
_STORE_TIMEOUT = 10.0


class PoolActor:
    """The actor of one pool."""

    def __init__(self, system: ActorSystem, name: str, settings: Settings) -> None:
        self._system = system
        self._name = name
        self._settings = settings
        self._clock = system.clock
        self._lock = threading.Lock()
        self._machine: PoolMachine | None = None
        self._workers: WorkerGroup | None = None
        self._epoch = 0
        self._wakes_at = math.inf
        self._mailbox = Mailbox(
            "pool", self._wake, self._next_wake, clock=system.clock, tolerated=(RayflowError, OSError)
        )
        self._monitor = restarting_monitor(system, settings.config.ping_timeout, self._mailbox.submit)
        self._mailbox.submit_every(_TICK, self._tick)
        self._mailbox.submit_every(settings.config.ping_interval, self._ping_all)
        # Started here, because nothing calls the actor when the system has restarted it.
        self._mailbox.start()

    def ready(self) -> str:
        """Return the pool's name once the pool has started."""
        with self._lock:
            self._ready_machine()
        return self._name

    def update(self, data: bytes) -> bytes:
        """Process a coordinator's report of what it holds and wants.

        Return the packed epoch, decisions, and whether the queue is full.
        """
        coordinator, report = unpack(data)
        mine: list[Command] = []
        with self._lock:
            if report.epoch > self._ready_machine().epoch:
                self._start(report.epoch + 1)
            machine = self._ready_machine()
            now = self._clock.now()
            machine.update(
                coordinator,
                sequence=report.sequence,
                epoch=report.epoch,
                seen=report.seen,
                demand=report.demand,
                holding=report.holding,
                begun=report.begun,
                now=now,
            )
            self._perform(machine.decide(now), mine, coordinator)
            self._wake_by(machine.next_wake(now))
            full = self._is_full(machine)
        return pack((self._epoch, mine, full))

    def want(self, environment: str, variables: Variables) -> None:
        """Have workers ready for a code environment, because an engine uses it."""
        env = Environment.from_json(environment)
        with self._lock:
            self._ready_workers().environments[env.id] = env, variables
            self._changed(lambda machine, now: machine.request_environment(env.id, now))

    def configure(self) -> None:
        """Read the configuration from the store again. New sizes apply at once."""
        config = self._stored()
        with self._lock:
            self._ready_workers().config = config
            self._changed(lambda machine, now: machine.configure(config, now))

    def forget(self, coordinator: str) -> None:
        """Free the slots of a coordinator that died."""
        with self._lock:
            self._changed(lambda machine, now: machine.forget(coordinator, now))

    def suspect(self, worker: str) -> None:
        """Ping a worker, because a call to it failed."""
        self._mailbox.submit(lambda: self._locked_workers().ping(worker))

    def retire(self, worker: str, token: str) -> None:
        """Replace a worker, once its other tasks are done, because the task in this slot cannot be stopped."""
        with self._lock:
            self._changed(lambda machine, now: machine.worker_stuck(worker, token, now))

    def worn(self, worker: str) -> None:
        """Replace a worker, once its tasks are done, because it has run as many tasks as it may."""
        with self._lock:
            self._changed(lambda machine, now: machine.worker_worn_out(worker, now))

    def status(self) -> PoolStatus:
        """Return the current state of the pool."""
        with self._lock:
            machine, workers = self._ready_machine(), self._ready_workers()
            stats = machine.stats(self._clock.now())
            full = self._is_full(machine)
        return PoolStatus(
            name=self._name,
            config=workers.config,
            queued=stats.tasks,
            oldest_waiting=stats.oldest_waiting,
            full=full,
            wanted=sum(environment.wanted for environment in stats.environments),
            workers=sum(environment.up for environment in stats.environments),
            starting=stats.workers_starting,
            leaving=sum(environment.leaving for environment in stats.environments),
            busy=stats.busy,
            idle=stats.idle,
            problem=workers.problem(),
        )

    def workers(self) -> list[str]:
        """Return the workers that are ready, by their names in leases."""
        with self._lock:
            return self._ready_workers().names()

    def ping(self) -> int:
        """Return the epoch, which is higher after a restart. Raises what ended the pool's thread."""
        self._mailbox.check()
        return self._epoch

    def pid(self) -> int:
        """Return the id of the actor's process."""
        return os.getpid()

    def stop(self) -> None:
        """Stop. Workers continue."""
        self._mailbox.stop()

    def up(self, worker: str, busy_tokens: Sequence[str]) -> None:
        """Receive from the worker group that a worker is ready."""
        environment = actor_names.environment_of(worker)
        with self._lock:
            self._changed(lambda machine, now: machine.worker_up(worker, environment, now, busy_tokens=busy_tokens))

    def down(self, worker: str) -> None:
        """Receive from the worker group that a worker is down."""
        with self._lock:
            self._changed(lambda machine, now: machine.worker_down(worker, now))

    def freed(self, worker: str, token: str) -> None:
        """Receive from the worker group that no task runs on a revoked token."""
        with self._lock:
            self._changed(lambda machine, now: machine.slot_free(worker, token, now))

    # The methods from here on expect the caller to hold the lock, up to `_locked_workers`.
    def _ready_machine(self) -> PoolMachine:
        if self._machine is None:
            self._start()
        assert self._machine is not None
        return self._machine

    def _ready_workers(self) -> WorkerGroup:
        self._ready_machine()
        assert self._workers is not None
        return self._workers

    def _start(self, least_epoch: int = 0) -> None:
        config = self._stored()
        found = [
            actor_names.worker_in(name) for name in self._system.names() if actor_names.is_worker(name, self._name)
        ]
        # Milliseconds of the clock: higher than before the restart without any record, unless the clock was set back.
        now = self._clock.now()
        self._epoch = max(int(now * 1000), least_epoch)
        # Only a pool that existed before waits for the reports of coordinators first.
        again = bool(found) or self._system.restarted
        idle = self._settings.config.environment_idle_timeout
        terms = PoolTerms(environment_idle_timeout=idle, settle=PoolTerms().settle if again else 0.0)
        self._workers = WorkerGroup(self._system, config, self._settings, self, self._mailbox.submit)
        self._machine = PoolMachine(config, epoch=self._epoch, now=now, terms=terms)
        for name in found:
            self._machine.worker_starting(name, actor_names.environment_of(name), now)
            self._mailbox.submit(partial(self._workers.adopt, name, self._epoch))

    def _stored(self) -> PoolConfig:
        record: PoolRecord | None = self._system.find(actor_names.STORE).call(
            "pool", self._name, timeout=_STORE_TIMEOUT
        )
        if record is None:
            raise ClusterError(f"the store has no pool {self._name!r}: it was deleted")
        return pool_config(record)

    def _is_full(self, machine: PoolMachine) -> bool:
        limit = self._ready_workers().config.queue_limit
        return limit is not None and machine.stats(self._clock.now()).tasks >= limit

    def _changed(self, change: Callable[[PoolMachine, float], Any]) -> None:
        machine, now = self._ready_machine(), self._clock.now()
        change(machine, now)
        self._perform(machine.decide(now))
        self._wake_by(machine.next_wake(now))

    def _wake_by(self, moment: float | None) -> None:
        if moment is not None and moment < self._wakes_at:
            self._wakes_at = moment
            self._mailbox.submit(lambda: None)  # so that the thread reads the new moment

    def _perform(self, commands: Sequence[Command], mine: list[Command] | None = None, caller: str = "") -> None:
        messages: dict[str, list[Command]] = {}
        workers = self._ready_workers()
        for command in commands:
            match command:
                case Grant() | Recall() | LeaseRevoked() if command.coordinator == caller and mine is not None:
                    mine.append(command)
                case Grant() | Recall() | LeaseRevoked():
                    messages.setdefault(command.coordinator, []).append(command)
                case Revoke():
                    self._mailbox.submit(partial(workers.revoke, command.worker, command.token))
                case StartWorkers():
                    for _ in range(command.count):
                        self._start_worker(command.environment)
                case StopWorker():
                    self._mailbox.submit(partial(workers.stop, command.worker, at_once=command.at_once))
        for coordinator, decisions in messages.items():
            # The coordinator's next report repairs a lost message.
            send_to(self._system, coordinator, "slots", pack((self._name, self._epoch, decisions)))

    def _start_worker(self, environment: str) -> None:
        name = f"{environment}-{self._epoch}-{uuid.uuid4().hex[:6]}"
        self._ready_machine().worker_starting(name, environment, self._clock.now())
        self._mailbox.submit(partial(self._ready_workers().start, name, environment))

    def _locked_workers(self) -> WorkerGroup:
        with self._lock:
            return self._ready_workers()

    # The methods from here on run on the mailbox's thread.
    def _next_wake(self) -> float | None:
        return None if self._wakes_at == math.inf else self._wakes_at

    def _wake(self) -> None:
        if self._clock.now() >= self._wakes_at:
            self._tick()

    def _tick(self) -> None:
        with self._lock:
            self._wakes_at = math.inf
            self._changed(lambda machine, now: None)
        self._locked_workers().tick()

    def _ping_all(self) -> None:
        self._locked_workers().ping_all()
        # Only one pool does this: of several that kill a hung actor, the last would kill its successor.
        if self._name == self._settings.config.pool.name:
            self._monitor.ping(actor_names.SUPERVISOR)
            # The supervisor's own thread waits for the store, so it would notice a hung store late.
            self._monitor.ping(actor_names.STORE)
