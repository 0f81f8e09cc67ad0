"""The supervisor actor: sees to it that every execution that needs a coordinator has one.

It starts coordinators and pools, watches them, and has the executions of a dead or hung coordinator taken up by
another. Everything that it knows can be read back from the store and the cluster, so it can be restarted at any
moment; nothing waits for it but new starts and recoveries.
"""

from __future__ import annotations

import logging
import os
import queue
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rayflow.core.events import Entry, Paused
from rayflow.core.placement import Place, Wanting, plan
from rayflow.errors import ClusterError, Failure, RayflowError
from rayflow.ids import ExecutionStatus
from rayflow.runtime import naming
from rayflow.runtime.coordinator import Coordinator
from rayflow.runtime.environment import Environment
from rayflow.runtime.persistence import Persistence
from rayflow.runtime.pool import Pool
from rayflow.runtime.settings import Settings
from rayflow.runtime.system import Actor, ActorLost, ActorSpec, ActorSystem, Reply
from rayflow.storage.base import Append, Claim, ExecutionRecord, Filter, JournalRow, Release
from rayflow.storage.records import append_digest, encode_entry, encode_failure

log = logging.getLogger(__name__)

#: Seconds between two looks into the store for executions that nobody was told of.
SWEEP = 1.0

#: Takeovers of an execution without any progress in between, after which it is set aside.
MOST_TAKEOVERS = 5

_UNFINISHED = (ExecutionStatus.PENDING, ExecutionStatus.RUNNING, ExecutionStatus.PAUSED)


@dataclass(slots=True)
class _Pinged:
    """What is known of an actor's pings."""

    answered: float
    asked: float = 0.0
    waiting: bool = False


class Supervisor:
    """See the module's docstring.

    Args:
        system: where actors are made and found.
        settings: shared by all actors of the namespace.
    """

    def __init__(self, system: ActorSystem, settings: Settings) -> None:
        self._system = system
        self._settings = settings
        self._config = settings.config
        self._queue: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._places: dict[str, Place] = {}
        self._owners: dict[str, str] = {}
        self._wanting: dict[str, tuple[Wanting, ExecutionRecord]] = {}
        self._environments: dict[str, Environment] = {}
        self._active: dict[str, float] = {}
        self._takeovers: dict[str, tuple[int, int]] = {}
        self._pings: dict[str, _Pinged] = {}
        self._most: int = 0
        self._found: list[str] = []
        self._stopped = threading.Event()
        # Started here, since nobody calls it when the system has made it anew.
        self._thread = threading.Thread(target=self._run, name="supervisor", daemon=True)
        self._thread.start()

    # --- called by others, on any thread -------------------------------------------------------------------
    def ready(self) -> Settings:
        """Answer the settings that it was made with."""
        return self._settings

    def environment(self, text: str) -> None:
        """An engine of this code environment is at work: have a coordinator and workers ready."""
        self._queue.put(lambda: self._want_environment(Environment.from_json(text)))

    def environment_text(self, environment: str) -> str:
        """The code environment of that id, as text, for a pool that was restarted."""
        return self._environments[environment].to_json()

    def submit(self, records: Sequence[ExecutionRecord]) -> None:
        """These executions were started: have them driven."""
        self._queue.put(lambda: self._submit(records))

    def nudge(self, ids: Sequence[str]) -> None:
        """Something was put into the inboxes of these executions."""
        self._queue.put(lambda: self._nudge(ids))

    def released(self, coordinator: str, ids: Sequence[str]) -> None:
        """A coordinator does not drive these executions any more."""
        self._queue.put(lambda: self._released(coordinator, ids))

    def recover(self, ids: Sequence[str] | None = None) -> list[str]:
        """Take up unfinished executions that have no live coordinator; answers which.

        Args:
            ids: only these; None for all.
        """
        done: queue.SimpleQueue[list[str]] = queue.SimpleQueue()
        self._queue.put(lambda: done.put(self._recovered(ids)))
        return done.get(timeout=60)

    def coordinators(self) -> dict[str, tuple[str, int]]:
        """Every coordinator: its environment and the number of executions it drives."""
        return {p.name: (p.environment, len(p.executions)) for p in list(self._places.values())}

    def ping(self) -> bool:
        """Answer.

        Raises:
            ClusterError: its thread has ended by a defect.
        """
        if not self._thread.is_alive():
            raise ClusterError("the supervisor's thread has ended; see its log")
        return True

    def pid(self) -> int:
        """The id of its process."""
        return os.getpid()

    def stop(self) -> None:
        """Stop supervising. Actors stay as they are."""
        self._stopped.set()
        self._queue.put(lambda: None)
        self._thread.join(timeout=5)

    # --- the thread ----------------------------------------------------------------------------------------
    def _run(self) -> None:
        tick = min(self._config.ping_interval, SWEEP)
        next_tick = 0.0
        started = False
        while not self._stopped.is_set():
            try:
                if not started:
                    self._begin()
                    started = True
                action = self._queue.get(timeout=max(0.0, next_tick - time.monotonic()))
                action()
            except queue.Empty:
                next_tick = time.monotonic() + tick
                self._safely(self._tick)
            except (RayflowError, OSError) as error:
                log.warning("the supervisor could not do something; it tries again: %s", error)
                self._stopped.wait(0.2)
            self._safely(self._place)

    def _safely(self, action: Callable[[], None]) -> None:
        try:
            action()
        except (RayflowError, OSError) as error:
            log.warning("the supervisor could not do something; it tries again: %s", error)

    def _begin(self) -> None:
        """Read back what there is: pools, coordinators with what they drive, unfinished executions."""
        self._most = self._config.max_coordinators or max(2, int(2 * self._system.cpus()))
        # Made anew in a namespace that is at work: then it goes on seeing to what there is, whatever was chosen.
        restarted = naming.pool(self._config.pool.name) in self._system.names()
        self._spawn_pool()
        for name in self._system.names():
            if naming.is_coordinator(name):
                self._adopt(name)
        if restarted or self._config.recover == "auto":
            self._found = self._recover(None)

    def _adopt(self, name: str) -> None:
        try:
            held = self._system.find(name).call("census", timeout=self._config.ping_timeout, group="control")
        except ClusterError:
            self._system.kill(name)
            return
        place = Place(name, naming.environment_of(name), ready=True, idle_since=time.monotonic())
        place.executions.update(held)
        self._owners.update((execution_id, name) for execution_id in held)
        self._places[name] = place
        self._watch(name)

    def _tick(self) -> None:
        self._ping_all()
        self._sweep()
        self._drop_idle()

    # --- executions ----------------------------------------------------------------------------------------
    def _submit(self, records: Sequence[ExecutionRecord], *, suspect: bool = False) -> None:
        for record in records:
            if record.id in self._owners and not suspect:
                continue
            env = Environment.from_json(record.environment)
            self._environments.setdefault(env.id, env)
            self._active[env.id] = time.monotonic()
            want = Wanting(record.id, env.id, record.priority, record.created_at, suspect)
            self._wanting[record.id] = (want, record)

    def _place(self) -> None:
        if not self._wanting:
            return
        decided = plan(
            [want for want, _ in self._wanting.values()],
            list(self._places.values()),
            most=self._most,
            share=self._config.executions_per_coordinator,
        )
        for environment in decided.start:
            self._start_coordinator(environment)
        batches: dict[str, list[ExecutionRecord]] = {}
        for want, place in decided.assign:
            _, record = self._wanting.pop(want.id)
            place.executions.add(want.id)
            place.reserved = place.reserved or want.suspect
            self._owners[want.id] = place.name
            batches.setdefault(place.name, []).append(record)
        for name, records in batches.items():
            label = f"drive {records[0].id}" + (f" and {len(records) - 1} more" if len(records) > 1 else "")
            self._actor(name).send("assign", records, label=label)

    def _nudge(self, ids: Sequence[str]) -> None:
        for execution_id in ids:
            owner = self._owners.get(execution_id)
            if owner is not None:
                self._actor(owner).send("nudge", (execution_id,))
                continue
            record = self._persistence().call("execution", execution_id)
            if record is not None and record.runnable_at is not None:
                self._submit([record])

    def _released(self, coordinator: str, ids: Sequence[str]) -> None:
        place = self._places.get(coordinator)
        for execution_id in ids:
            if self._owners.get(execution_id) == coordinator:
                del self._owners[execution_id]
            self._takeovers.pop(execution_id, None)
            if place is not None:
                place.executions.discard(execution_id)
        if place is not None and not place.executions:
            place.reserved = False
            place.idle_since = time.monotonic()

    def _sweep(self) -> None:
        store = self._persistence()
        runnable = store.call("executions", Filter(runnable_before=time.time(), limit=10_000))
        self._submit([r for r in runnable if r.id not in self._owners and r.id not in self._wanting])
        for record in store.call("executions", Filter(unread_inbox=True, limit=1_000)):
            if record.id in self._owners:
                self._actor(self._owners[record.id]).send("nudge", (record.id,))
        self._clear_suspects()

    def _clear_suspects(self) -> None:
        """A suspect that made progress under its new coordinator is like any other again."""
        for place in self._places.values():
            if place.reserved:
                records = [self._persistence().call("execution", i) for i in list(place.executions)]
                known = (self._takeovers.get(r.id, (0, 0))[0] for r in records if r is not None)
                place.reserved = any(r is not None and r.last_seq <= k for r, k in zip(records, known, strict=False))

    def _recovered(self, ids: Sequence[str] | None) -> list[str]:
        """What was taken up now, and what was at the beginning and is not told yet."""
        found, self._found = self._found, []
        return [i for i in found if ids is None or i in ids] + self._recover(ids)

    def _recover(self, ids: Sequence[str] | None) -> list[str]:
        unfinished = self._persistence().call("executions", Filter(status=_UNFINISHED, limit=1_000_000))
        lost = [
            record
            for record in unfinished
            if (ids is None or record.id in ids)
            and record.id not in self._owners
            and record.id not in self._wanting
            and (record.owner or record.runnable_at is not None)
        ]
        self._submit(lost)
        return [record.id for record in lost]

    def _take_over(self, ids: set[str]) -> None:
        """The coordinator of these executions is gone: others take them up, each alone at first."""
        if not ids:
            return
        unfinished = self._persistence().call("executions", Filter(status=_UNFINISHED, limit=1_000_000))
        for record in unfinished:
            if record.id not in ids:
                continue
            last_seq, count = self._takeovers.get(record.id, (-1, 0))
            count = count + 1 if last_seq == record.last_seq else 1
            self._takeovers[record.id] = (record.last_seq, count)
            if count > MOST_TAKEOVERS:
                self._set_aside(record, count)
            else:
                self._submit([record], suspect=True)

    def _set_aside(self, record: ExecutionRecord, times: int) -> None:
        message = (
            f"its coordinator died {times} times in a row without any progress of this execution; most likely its "
            "own code kills the process. Mend it, then resume the execution"
        )
        log.error("execution %s is set aside: %s", record.id, message)
        now = time.time()
        rows = (JournalRow(record.last_seq + 1, encode_entry(Entry(record.last_seq + 1, Paused(now, message)))),)
        epoch = record.epoch + 1
        failure = encode_failure(Failure(type="rayflow.errors.CrashLoop", message=message))
        self._persistence().call(
            "start",
            [
                Claim(record.id, record.epoch, uuid.uuid4().hex, "", now),
                Append(
                    record.id, epoch, record.last_seq + 1, rows, append_digest(rows), now, ExecutionStatus.PAUSED,
                    inbox_done=record.inbox_done, failure=failure,
                ),
                Release(record.id, epoch, runnable_at=record.deadline, at=now, seen=record.inbox_last),
            ],
        )  # fmt: skip
        self._takeovers.pop(record.id, None)

    # --- coordinators --------------------------------------------------------------------------------------
    def _want_environment(self, env: Environment) -> None:
        self._environments[env.id] = env
        self._active[env.id] = time.monotonic()
        self._keep_standbys(env.id)
        self._pool().send("want", env.to_json())

    def _keep_standbys(self, environment: str) -> None:
        idle = [p for p in self._places.values() if p.environment == environment and not p.executions]
        for _ in range(self._config.standbys - len(idle)):
            if len(self._places) < self._most:
                self._start_coordinator(environment)

    def _start_coordinator(self, environment: str) -> None:
        env = self._environments[environment]
        name = naming.coordinator(environment, uuid.uuid4().hex[:6])
        spec = ActorSpec(
            cls=Coordinator,
            name=name,
            args=(name, env, self._settings),
            groups={"watch": 2, "control": 4},
            runtime_env=env.runtime_env(),
        )
        self._places[name] = Place(name, environment, idle_since=time.monotonic())
        actor = self._system.spawn(spec)

        def ready(reply: Reply) -> None:
            self._queue.put(lambda: self._started(name, reply))

        actor.send("ready", then=ready)

    def _started(self, name: str, reply: Reply) -> None:
        place = self._places.get(name)
        if place is None:
            return
        if reply.error is not None:
            log.error("coordinator %s did not start: %s", name, reply.error)
            self._gone(name)
            return
        place.ready = True
        place.idle_since = time.monotonic()
        self._watch(name)
        self._keep_standbys(place.environment)

    def _watch(self, name: str) -> None:
        self._pings[name] = _Pinged(time.monotonic())

        def ended(reply: Reply) -> None:
            self._queue.put(lambda: self._gone(name))

        self._actor(name).send("watch", then=ended, group="watch")

    def _gone(self, name: str) -> None:
        place = self._places.pop(name, None)
        self._pings.pop(name, None)
        if place is None:
            return
        for execution_id in place.executions:
            self._owners.pop(execution_id, None)
        self._pool().send("forget", name)
        if place.executions:
            log.warning("coordinator %s is gone; %d executions are taken up by others", name, len(place.executions))
        self._take_over(place.executions)

    def _drop_idle(self) -> None:
        """Give up coordinators of environments that have had no work for long."""
        now = time.monotonic()
        for place in list(self._places.values()):
            if place.executions:
                self._active[place.environment] = now
        for place in list(self._places.values()):
            idle = now - self._active.get(place.environment, 0.0)
            if not place.executions and place.ready and idle > self._config.environment_idle:
                del self._places[place.name]
                self._pings.pop(place.name, None)
                self._system.kill(place.name)

    # --- pings ---------------------------------------------------------------------------------------------
    def _ping_all(self) -> None:
        names = [p.name for p in self._places.values() if p.ready]
        singletons = [naming.PERSISTENCE, naming.pool(self._config.pool.name)]
        for name in (*names, *singletons):
            self._ping(name, restart=name in singletons)

    def _ping(self, name: str, *, restart: bool) -> None:
        now = time.monotonic()
        known = self._pings.setdefault(name, _Pinged(now))
        if known.waiting and now - known.asked > self._config.ping_timeout:
            log.error("%s has not answered for %.1f s; it is killed", name, now - known.answered)
            del self._pings[name]
            # Fenced first: taking over needs no answer from the hung process, and killing one that is stopped
            # takes seconds.
            threading.Thread(target=self._system.kill, args=(name,), kwargs={"restart": restart}, daemon=True).start()
            if not restart:
                self._gone(name)
            return
        if known.waiting:
            return
        known.waiting, known.asked = True, now

        def pong(reply: Reply) -> None:
            self._queue.put(lambda: self._ponged(name, reply))

        try:
            self._actor(name).send("ping", then=pong, group="control")
        except ActorLost:
            known.waiting = False

    def _ponged(self, name: str, reply: Reply) -> None:
        known = self._pings.get(name)
        if known is None:
            return
        known.waiting = False
        if reply.error is None:
            known.answered = time.monotonic()
        elif name in self._places and not isinstance(reply.error, ActorLost):
            log.error("coordinator %s is broken: %s", name, reply.error)
            self._system.kill(name)

    # --- singletons ----------------------------------------------------------------------------------------
    def _spawn_pool(self) -> None:
        config = self._config.pool
        self._system.spawn(pool_spec(config.name, self._settings)).call("ready", timeout=60)

    def _actor(self, name: str) -> Actor:
        return self._system.find(name)

    def _persistence(self) -> Actor:
        return self._system.find(naming.PERSISTENCE)

    def _pool(self) -> Actor:
        return self._system.find(naming.pool(self._config.pool.name))


def persistence_spec(url: str, *, take_over: bool = False) -> ActorSpec:
    """How the persistence actor is made: beside its disk, restarted when it dies."""
    return ActorSpec(
        cls=Persistence,
        name=naming.PERSISTENCE,
        args=(url, take_over),
        threads=32,
        groups={"control": 2, "news": 64},
        restart=True,
        pinned=True,
    )


def supervisor_spec(settings: Settings) -> ActorSpec:
    """How the supervisor is made."""
    return ActorSpec(
        cls=Supervisor, name=naming.SUPERVISOR, args=(settings,), groups={"control": 2}, restart=True, pinned=True
    )


def pool_spec(name: str, settings: Settings) -> ActorSpec:
    """How a pool's actor is made."""
    return ActorSpec(
        cls=Pool, name=naming.pool(name), args=(name, settings), groups={"control": 2}, restart=True, pinned=True
    )


