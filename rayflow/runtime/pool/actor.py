"""The actor of a worker pool: grants slots, and keeps its workers alive. It never sees a task.

Who gets which slot is decided by the pure :class:`~rayflow.core.pool.PoolActorMachine`; this shell tells it what
happened and performs what it answers: grants and recalls go to coordinators, workers are started and stopped by the
:class:`~rayflow.runtime.pool.workers.WorkerGroup`. It is restarted by the system when it dies; a new life has a higher
epoch, asks every worker what it has under way before anything is granted there, and hears from the coordinators what
they hold and want. How it is configured is kept in the store.
"""

from __future__ import annotations

import logging
import math
import os
import queue
import threading
import time
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
from rayflow.runtime.actors.health import keeping_alive
from rayflow.runtime.code.environment import Environment, Variables
from rayflow.runtime.logs import ThrottledWarning
from rayflow.runtime.messages import pack, unpack
from rayflow.runtime.pool.workers import WorkerGroup
from rayflow.runtime.settings import Settings
from rayflow.storage.codec.schedules import pool_config
from rayflow.storage.model import PoolRecord

log = logging.getLogger(__name__)

#: Seconds after which it is looked at what is due, whatever the machine says.
_TICK = 1.0

#: Seconds that the store may take to answer.
_PATIENCE = 10.0


class PoolActor:
    """See the module's docstring.

    Args:
        system: where workers and coordinators are found.
        name: the pool's name.
        settings: shared by all actors of the namespace.
    """

    def __init__(self, system: ActorSystem, name: str, settings: Settings) -> None:
        self._system = system
        self._name = name
        self._settings = settings
        self._clock = system.clock
        self._lock = threading.Lock()
        self._machine: PoolMachine | None = None
        self._crew: WorkerGroup | None = None
        self._epoch = 0
        self._wakes_at = math.inf
        self._work: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._pings = keeping_alive(system, settings.config.ping_timeout, self._work.put)
        self._stopped = threading.Event()
        # Started here, since nobody calls it when the system has made it anew.
        self._thread = threading.Thread(target=self._run, name="pool", daemon=True)
        self._thread.start()

    # --- called by others, on any thread -------------------------------------------------------------------
    def ready(self) -> str:
        """Answer the pool's name once it has begun."""
        with self._lock:
            self._ready_machine()
        return self._name

    def update(self, data: bytes) -> bytes:
        """A coordinator says all that it holds and wants; answers epoch, decisions, and whether the queue is full."""
        coordinator, report = unpack(data)
        mine: list[Command] = []
        with self._lock:
            if report.epoch > self._ready_machine().epoch:
                self._begin(report.epoch + 1)
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
        """An engine of this code environment is at work: have its workers ready."""
        env = Environment.from_json(environment)
        with self._lock:
            self._ready_crew().environments[env.id] = env, variables
            self._changed(lambda machine, now: machine.want(env.id, now))

    def configure(self) -> None:
        """Its configuration in the store has changed: read it again. Sizes take effect at once, on what runs too."""
        config = self._stored()
        with self._lock:
            self._ready_crew().config = config
            self._changed(lambda machine, now: machine.configure(config, now))

    def forget(self, coordinator: str) -> None:
        """A coordinator died: its slots are free again."""
        with self._lock:
            self._changed(lambda machine, now: machine.forget(coordinator, now))

    def suspect(self, worker: str) -> None:
        """Somebody's call to this worker failed: see whether it lives."""
        self._work.put(lambda: self._locked_crew().ping(worker))

    def retire(self, worker: str, token: str) -> None:
        """A task in this slot cannot be stopped: replace the worker once its other tasks are done."""
        with self._lock:
            self._changed(lambda machine, now: machine.retire(worker, token, now))

    def worn(self, worker: str) -> None:
        """A worker has begun as many tasks as it may: replace it once they are done."""
        with self._lock:
            self._changed(lambda machine, now: machine.worn(worker, now))

    def now(self) -> PoolStatus:
        """What the pool does now."""
        with self._lock:
            machine, crew = self._ready_machine(), self._ready_crew()
            stats = machine.stats(self._clock.now())
            full = self._is_full(machine)
        return PoolStatus(
            name=self._name,
            config=crew.config,
            queued=stats.tasks,
            oldest_waiting=stats.oldest_waiting,
            full=full,
            wanted=sum(environment.wanted for environment in stats.environments),
            workers=sum(environment.up for environment in stats.environments),
            starting=stats.workers_starting,
            leaving=sum(environment.leaving for environment in stats.environments),
            busy=stats.busy,
            idle=stats.idle,
            problem=crew.problem(),
        )

    def workers(self) -> list[str]:
        """The workers that are up, by the names that leases have."""
        with self._lock:
            return self._ready_crew().names()

    def ping(self) -> int:
        """Its epoch: a higher one after a restart.

        Raises:
            ClusterError: its thread has ended by a defect.
        """
        if not self._thread.is_alive():
            raise ClusterError(f"the thread of pool {self._name} has ended; see its log")
        return self._epoch

    def pid(self) -> int:
        """The id of its process."""
        return os.getpid()

    def stop(self) -> None:
        """Stop. Workers stay as they are."""
        self._stopped.set()
        self._work.put(lambda: None)
        self._thread.join(timeout=5)

    # --- what the crew tells, on the thread ----------------------------------------------------------------
    def up(self, worker: str, busy_tokens: Sequence[str]) -> None:
        """See Told."""
        environment = actor_names.environment_of(worker)
        with self._lock:
            self._changed(lambda machine, now: machine.worker_up(worker, environment, now, busy_tokens=busy_tokens))

    def down(self, worker: str) -> None:
        """See Told."""
        if not self._stopped.is_set():
            with self._lock:
                self._changed(lambda machine, now: machine.worker_down(worker, now))

    def freed(self, worker: str, token: str) -> None:
        """See Told."""
        with self._lock:
            self._changed(lambda machine, now: machine.slot_free(worker, token, now))

    # --- with the lock held --------------------------------------------------------------------------------
    def _ready_machine(self) -> PoolMachine:
        if self._machine is None:
            self._begin()
        assert self._machine is not None
        return self._machine

    def _ready_crew(self) -> WorkerGroup:
        self._ready_machine()
        assert self._crew is not None
        return self._crew

    def _begin(self, least: int = 0) -> None:
        config = self._stored()
        found = [
            actor_names.worker_in(name) for name in self._system.names() if actor_names.is_worker(name, self._name)
        ]
        # Milliseconds of the clock: higher than in any earlier life, without anything to remember, unless the clock
        # was set back.
        now = self._clock.now()
        self._epoch = max(int(now * 1000), least)
        # Only a pool that was there before has coordinators to hear from first.
        again = bool(found) or self._system.restarted
        idle = self._settings.config.environment_idle_timeout
        terms = PoolTerms(environment_idle_timeout=idle, settle=PoolTerms().settle if again else 0.0)
        self._crew = WorkerGroup(self._system, config, self._settings, self, self._work.put)
        self._machine = PoolMachine(config, epoch=self._epoch, now=now, terms=terms)
        for name in found:
            self._machine.worker_starting(name, actor_names.environment_of(name), now)
            self._work.put(partial(self._crew.adopt, name, self._epoch))

    def _stored(self) -> PoolConfig:
        record: PoolRecord | None = self._system.find(actor_names.PERSISTENCE).call(
            "pool", self._name, timeout=_PATIENCE
        )
        if record is None:
            raise ClusterError(f"the store has no pool {self._name!r}: it was deleted")
        return pool_config(record)

    def _is_full(self, machine: PoolMachine) -> bool:
        limit = self._ready_crew().config.queue_limit
        return limit is not None and machine.stats(self._clock.now()).tasks >= limit

    def _changed(self, change: Callable[[PoolMachine, float], Any]) -> None:
        machine, now = self._ready_machine(), self._clock.now()
        change(machine, now)
        self._perform(machine.decide(now))
        self._wake_by(machine.next_wake(now))

    def _wake_by(self, moment: float | None) -> None:
        if moment is not None and moment < self._wakes_at:
            self._wakes_at = moment
            self._work.put(_nothing)  # so that the thread looks when to wake

    def _perform(self, commands: Sequence[Command], mine: list[Command] | None = None, caller: str = "") -> None:
        told: dict[str, list[Command]] = {}
        crew = self._ready_crew()
        for command in commands:
            match command:
                case Grant() | Recall() | LeaseRevoked() if command.coordinator == caller and mine is not None:
                    mine.append(command)
                case Grant() | Recall() | LeaseRevoked():
                    told.setdefault(command.coordinator, []).append(command)
                case Revoke():
                    self._work.put(partial(crew.revoke, command.worker, command.token))
                case StartWorkers():
                    for _ in range(command.count):
                        self._start(command.environment)
                case StopWorker():
                    self._work.put(partial(crew.stop, command.worker, at_once=command.at_once))
        for coordinator, said in told.items():
            # A message that does not arrive is repaired by the coordinator's next report.
            send_to(self._system, coordinator, "slots", pack((self._name, self._epoch, said)))

    def _start(self, environment: str) -> None:
        name = f"{environment}-{self._epoch}-{uuid.uuid4().hex[:6]}"
        self._ready_machine().worker_starting(name, environment, self._clock.now())
        self._work.put(partial(self._ready_crew().start, name, environment))

    # --- the thread ----------------------------------------------------------------------------------------
    def _run(self) -> None:
        next_pings = time.monotonic()
        outage = ThrottledWarning(log, f"pool {self._name} cannot do something")
        while not self._stopped.is_set():
            try:
                action = self._work.get(timeout=min(_TICK, max(0.0, self._wakes_at - self._clock.now())))
            except queue.Empty:
                action = self._tick
            try:
                action()
                if time.monotonic() >= next_pings:
                    next_pings = time.monotonic() + self._settings.config.ping_interval
                    # Behind what has arrived meanwhile: answers to the pings before are among it.
                    self._work.put(self._ping_all)
            except (RayflowError, OSError) as error:
                outage.failed(error)
            except SystemExit:  # this actor was killed, in a process that goes on
                return

    def _tick(self) -> None:
        with self._lock:
            self._wakes_at = math.inf
            self._changed(lambda machine, now: None)
        self._locked_crew().tick()

    def _ping_all(self) -> None:
        self._locked_crew().ping_all()
        if self._name == self._settings.config.pool.name:  # of several that kill, the last would meet the new life
            self._pings.ping(actor_names.SUPERVISOR)
            # The supervisor's own thread waits for the store, so it would notice late.
            self._pings.ping(actor_names.PERSISTENCE)

    def _locked_crew(self) -> WorkerGroup:
        with self._lock:
            return self._ready_crew()


def _nothing() -> None:
    """What is done only to be awake."""
