"""The actor of a worker pool: grants slots, and keeps its workers alive. It never sees a task.

Who gets which slot is decided by the pure :class:`~rayflow.core.pool.PoolMachine`; this shell tells it what
happened and performs what it answers: grants and recalls go to coordinators, workers are started and stopped.
It is restarted by the system when it dies; a new life has a higher epoch, asks every worker what it has under way
before anything is granted there, and hears from the coordinators what they hold and want.
"""

from __future__ import annotations

import logging
import os
import queue
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from rayflow.core.metrics import PoolNow
from rayflow.core.pool import Command, Grant, PoolMachine, PoolTerms, Recall, Revoke, StartWorkers, StopWorker, Void
from rayflow.errors import ClusterError, RayflowError
from rayflow.runtime import naming
from rayflow.runtime.environment import Environment, make_available
from rayflow.runtime.messages import pack, unpack
from rayflow.runtime.pings import Ping
from rayflow.runtime.settings import Settings
from rayflow.runtime.system import ActorLost, ActorSpec, ActorSystem, Reply, send_to
from rayflow.runtime.worker import Worker, WorkerSettings

log = logging.getLogger(__name__)

#: Seconds between two looks at what is due.
_TICK = 0.25


class Pool:
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
        self._config = settings.pool(name)
        self._lock = threading.Lock()
        self._machine: PoolMachine | None = None
        self._epoch = 0
        self._environments: dict[str, Environment] = {}
        self._asked: dict[str, float] = {}
        self._up_workers: dict[str, None] = {}
        self._work: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._supervisor = Ping(system, naming.SUPERVISOR, settings.config.ping_timeout)
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
        """A coordinator says all that it holds and wants; answers the epoch and what is decided for it."""
        coordinator, report = unpack(data)
        mine: list[Command] = []
        with self._lock:
            machine = self._ready_machine()
            now = time.time()
            machine.update(
                coordinator,
                sequence=report.sequence,
                epoch=report.epoch,
                seen=report.seen,
                demand=report.demand,
                holding=report.holding,
                now=now,
            )
            self._perform(machine.decide(now), mine, coordinator)
        return pack((self._epoch, mine))

    def want(self, environment: str) -> None:
        """An engine of this code environment is at work: have its workers ready."""
        env = Environment.from_json(environment)
        with self._lock:
            self._environments[env.id] = env
            self._changed(lambda machine, now: machine.want(env.id, now))

    def forget(self, coordinator: str) -> None:
        """A coordinator died: its slots are free again."""
        with self._lock:
            self._changed(lambda machine, now: machine.forget(coordinator, now))

    def suspect(self, worker: str) -> None:
        """Somebody's call to this worker failed: see whether it lives."""
        self._work.put(lambda: self._ping(worker))

    def retire(self, worker: str, token: str) -> None:
        """A task in this slot cannot be stopped: replace the worker once its other tasks are done."""
        with self._lock:
            self._changed(lambda machine, now: machine.retire(worker, token, now))

    def now(self) -> PoolNow:
        """What the pool does now."""
        with self._lock:
            stats = self._ready_machine().stats(time.time())
        return PoolNow(
            waiting=sum(stats.waiting.values()),
            oldest_waiting=stats.oldest_waiting,
            workers=sum(environment.up for environment in stats.environments),
            busy=stats.busy,
        )

    def workers(self) -> list[str]:
        """The workers that are up, by the names that leases have."""
        return list(self._up_workers)

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

    # --- with the lock held --------------------------------------------------------------------------------
    def _ready_machine(self) -> PoolMachine:
        if self._machine is None:
            self._begin()
        assert self._machine is not None
        return self._machine

    def _begin(self) -> None:
        # Milliseconds of the clock: higher than in any earlier life, without anything to remember.
        now = time.time()
        self._epoch = int(now * 1000)
        config = self._settings.config
        found = [naming.worker_in(name) for name in self._system.names() if naming.is_worker(name, self._name)]
        # Only a pool that was there before has coordinators to hear from first.
        terms = PoolTerms(environment_idle=config.environment_idle, settle=PoolTerms().settle if found else 0.0)
        self._machine = PoolMachine(self._config, epoch=self._epoch, now=now, terms=terms)
        for name in found:
            self._machine.worker_starting(name, naming.environment_of(name), now)
            self._work.put(partial(self._adopt, name))

    def _changed(self, change: Callable[[PoolMachine, float], Any]) -> None:
        machine, now = self._ready_machine(), time.time()
        change(machine, now)
        self._perform(machine.decide(now))

    def _perform(self, commands: Sequence[Command], mine: list[Command] | None = None, caller: str = "") -> None:
        told: dict[str, list[Command]] = {}
        for command in commands:
            match command:
                case Grant() | Recall() | Void() if command.coordinator == caller and mine is not None:
                    mine.append(command)
                case Grant() | Recall() | Void():
                    told.setdefault(command.coordinator, []).append(command)
                case Revoke():
                    self._work.put(partial(self._revoke, command.worker, command.token))
                case StartWorkers():
                    for _ in range(command.count):
                        self._start(command.environment)
                case StopWorker():
                    self._work.put(partial(self._kill, command.worker))
        for coordinator, said in told.items():
            self._tell(coordinator, said)

    def _tell(self, coordinator: str, commands: list[Command]) -> None:
        # A message that does not arrive is repaired by the coordinator's next report.
        send_to(self._system, coordinator, "slots", pack((self._name, self._epoch, commands)))

    def _start(self, environment: str) -> None:
        name = f"{environment}-{self._epoch}-{uuid.uuid4().hex[:6]}"
        assert self._machine is not None
        self._machine.worker_starting(name, environment, time.time())
        self._work.put(lambda: self._spawn(name, environment))

    # --- the thread ----------------------------------------------------------------------------------------
    def _run(self) -> None:
        next_tick = time.monotonic() + _TICK
        next_pings = time.monotonic()
        while not self._stopped.is_set():
            try:
                action = self._work.get(timeout=max(0.0, next_tick - time.monotonic()))
            except queue.Empty:
                next_tick = time.monotonic() + _TICK
                action = self._tick
            try:
                action()
                if time.monotonic() >= next_pings:
                    next_pings = time.monotonic() + self._settings.config.ping_interval
                    self._ping_all()
                    self._supervisor.ping()
            except (RayflowError, OSError) as error:
                log.warning("pool %s could not do something: %s", self._name, error)

    def _tick(self) -> None:
        with self._lock:
            self._changed(lambda machine, now: None)

    def _spawn(self, name: str, environment: str) -> None:
        try:
            self._try_spawn(name, self._environments.get(environment) or self._learn(environment))
        except (RayflowError, OSError) as error:
            self._down(name, error)  # the machine has another one started, after a while

    def _try_spawn(self, name: str, env: Environment) -> None:
        make_available(self._system, env)
        concurrency = self._config.concurrency
        actor_name = naming.worker(self._name, name)
        spec = ActorSpec(
            cls=Worker,
            name=actor_name,
            args=(
                actor_name,
                env,
                WorkerSettings(concurrency, self._name, naming.PERSISTENCE, self._settings.allow_pickle),
            ),
            threads=2 * concurrency + 2,  # a run and a collect for each slot
            groups={"watch": 2, "control": 4},
            num_cpus=self._config.num_cpus,
            runtime_env=env.runtime_env(),
        )
        self._system.spawn(spec).send("ready", then=lambda reply: self._work.put(lambda: self._came_up(name, reply)))

    def _learn(self, environment: str) -> Environment:
        """The environment of that id, from the supervisor: this actor was restarted."""
        text: str = self._system.find(naming.SUPERVISOR).call("environment_text", environment, timeout=10)
        self._environments[environment] = Environment.from_json(text)
        return self._environments[environment]

    def _adopt(self, name: str) -> None:
        """A worker of an earlier life: ask what it has under way."""
        self._send(name, "fence_pool", self._epoch)
        self._send(name, "census", then=lambda answer: self._work.put(partial(self._counted, name, answer)))

    def _counted(self, name: str, answer: Reply) -> None:
        if answer.error is not None:
            self._down(name, answer.error)
            return
        busy = [token for token, *_ in answer.value]
        self._up(name, busy)

    def _came_up(self, name: str, reply: Reply) -> None:
        if reply.error is not None:
            self._down(name, reply.error)
        else:
            self._up(name, ())

    def _up(self, name: str, busy: Sequence[str]) -> None:
        self._watch(name)
        self._up_workers[name] = None
        with self._lock:
            self._changed(
                lambda machine, now: machine.worker_up(name, naming.environment_of(name), now, busy_tokens=busy)
            )

    def _watch(self, name: str) -> None:
        def ended(reply: Reply) -> None:
            self._work.put(partial(self._down, name, reply.error))

        self._send(name, "watch", then=ended, group="watch")

    def _down(self, name: str, why: BaseException | None) -> None:
        if self._stopped.is_set():
            return
        log.warning("worker %s is down: %s", name, why)
        with self._lock:
            self._changed(lambda machine, now: machine.worker_down(name, now))
        self._kill(name)

    def _kill(self, name: str) -> None:
        self._asked.pop(name, None)
        self._up_workers.pop(name, None)
        self._system.kill(naming.worker(self._name, name))

    def _revoke(self, worker: str, token: str) -> None:
        # While a task still runs there the machine asks again, after a while.
        def reply(answer: Reply) -> None:
            if answer.error is None and answer.value:
                self._work.put(partial(self._freed, worker, token))

        self._send(worker, "revoke_token", token, then=reply)

    def _freed(self, worker: str, token: str) -> None:
        with self._lock:
            self._changed(lambda machine, now: machine.slot_free(worker, token, now))

    # --- pings ---------------------------------------------------------------------------------------------
    def _ping_all(self) -> None:
        for name in self.workers():
            self._ping(name)

    def _ping(self, name: str) -> None:
        now = time.monotonic()
        asked = self._asked.get(name)
        if asked is not None:
            if now - asked > self._settings.config.ping_timeout:
                self._down(name, ClusterError(f"it has not answered for {now - asked:.1f} s"))
            return
        self._asked[name] = now
        self._send(name, "ping", then=lambda reply: self._work.put(partial(self._ponged, name, reply)))

    def _ponged(self, name: str, reply: Reply) -> None:
        self._asked.pop(name, None)
        if isinstance(reply.error, ActorLost):
            self._down(name, reply.error)

    def _send(
        self, worker: str, method: str, *args: Any, then: Callable[[Reply], None] | None = None, group: str = "control"
    ) -> None:
        send_to(self._system, naming.worker(self._name, worker), method, *args, then=then, group=group)
