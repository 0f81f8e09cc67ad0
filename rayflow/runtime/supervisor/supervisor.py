"""Sees to it that every execution that needs a coordinator has one.

It owns who drives what, and what waits for a coordinator. All of that can be read back from the store and the
coordinators, so its process can be restarted at any moment. What nobody drives is found by its part
:mod:`rayflow.runtime.supervisor.recovery`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from rayflow.core.cluster.placement import PendingExecution, plan
from rayflow.core.cluster.recovery import RecoveryStatus
from rayflow.errors import RayflowError, WriterFenced
from rayflow.runtime.actors import actor_names
from rayflow.runtime.actors.base import ActorSystem, Reply, send_to
from rayflow.runtime.actors.mailbox import Mailbox
from rayflow.runtime.code.environment import Environment, Variables
from rayflow.runtime.settings import Settings
from rayflow.runtime.supervisor.coordinators import CoordinatorRegistry
from rayflow.runtime.supervisor.maintenance import Collecting, MaintenanceLoop
from rayflow.runtime.supervisor.pools import PoolRegistry
from rayflow.runtime.supervisor.recovery import AGAIN, DRIVEN, Quarantine, RecoveryLoop
from rayflow.storage.base import Filter
from rayflow.storage.codec.payloads import MsgpackCodec
from rayflow.storage.model import ExecutionRecord

log = logging.getLogger(__name__)

#: Seconds between two looks into the store for executions that nobody was told of.
SWEEP = 1.0

#: How far ahead a look into the store sees what will be due: further than until the next look.
AHEAD = 2.5

#: Seconds after the end of a patience at which it is over for sure.
_JUST_AFTER = 0.01


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
        self.turns = Mailbox(
            "supervisor", self._place, lambda: None, clock=system.clock, tolerated=(RayflowError, OSError)
        )
        self.fleet = CoordinatorRegistry(system, settings, self.turns.post, self._lost_coordinator)
        self.pools = PoolRegistry(system, settings, self.turns.post)
        self._timekeeper = MaintenanceLoop(self._ask, self.nudge, MsgpackCodec(allow_pickle=settings.allow_pickle))
        self._collecting = Collecting(self.turns, self._ask, partial(send_to, system, actor_names.PERSISTENCE))
        self._asides = Quarantine(self.turns, self._ask)
        self.recovering = RecoveryLoop(self.turns, self._ask, self._driven, self.submit, self._asides.put)
        # Who drives what, and since which epoch.
        self._owners: dict[str, tuple[str, int]] = {}
        self._wanting: dict[str, tuple[PendingExecution, ExecutionRecord]] = {}
        #: Fingerprints of the code that clients had when they woke executions, as long as these wait.
        self._asked: dict[str, str] = {}
        #: Executions that wait for variables that no engine has supplied, with their environments.
        self._unsupplied: dict[str, Environment] = {}
        self._begun = False
        self._next_look: float | None = None
        self._next_time: float | None = None

    def start(self) -> None:
        """Begin, on its own thread."""
        self.turns.post(self._begin)
        self.turns.start()

    # --- turns ---------------------------------------------------------------------------------------------
    def _begin(self) -> None:
        """Read back what there is: pools, coordinators with what they drive, unfinished executions."""
        try:
            # Made anew in a namespace that is at work: then it goes on seeing to what there is, whatever was chosen.
            restarted = actor_names.pool(self._config.pool.name) in self._system.names()
            self.pools.begin(restarted=restarted)
            self._owners.update(self.fleet.adopt())
            for record in self._ask("executions", DRIVEN):
                if (env := self._asides.environment(record)) is not None:
                    self.fleet.environments.setdefault(env.id, env)
            if restarted or self._config.recover:
                self.recovering.begin()
        except (RayflowError, OSError) as error:
            log.warning("the supervisor cannot begin now; it tries again: %s", error)
            self.turns.later(AGAIN, self._begin)
        else:
            self._begun = True
            self._tick()
            self._collecting.look_for_values()

    def _tick(self) -> None:
        fleet = self.fleet
        pings = (fleet.ping_all, self.pools.ping_all)
        for action in (*pings, self._sweep, self._keep_time, fleet.tend, fleet.drop_idle, self.recovering.look):
            self.turns.post(action)
        self._collecting.tick()
        # Not with the next pings: who does not answer those of now is known to hang as soon as the patience is over.
        self.turns.later(self._config.ping_timeout + _JUST_AFTER, lambda: self.turns.post(fleet.look))
        self.turns.later(min(self._config.ping_interval, SWEEP), self._tick)

    # --- posted --------------------------------------------------------------------------------------------
    def want_environment(self, env: Environment, variables: Variables) -> None:
        """An engine of this code environment is at work: have a coordinator and workers ready."""
        if env.variables:
            self.fleet.variables[env.id] = variables
        self.fleet.use(env)
        self.fleet.keep_standbys(env.id)
        self.pools.want(env, variables)
        self.recovering.submit_again([name for name, needed in self._unsupplied.items() if needed.id == env.id])

    def submit(self, records: Sequence[ExecutionRecord], *, suspect: bool = False, code: str = "") -> None:
        """Have these executions driven, by code that is not older than that fingerprint."""
        for record in records:
            if record.id in self._owners:
                continue
            if code:
                self._asked[record.id] = code
            if record.runnable_at is not None and record.runnable_at > self.turns.now():
                self._look_at(record.runnable_at)
                continue
            env = self._asides.environment(record)
            if env is None or not self._is_supplied(record, env):
                continue
            self.fleet.use(env)
            interrupted = bool(record.owner)
            want = PendingExecution(record.id, env.id, record.priority, record.created_at, suspect, interrupted)
            self._wanting[record.id] = (want, record)

    def _is_supplied(self, record: ExecutionRecord, env: Environment) -> bool:
        """Whether an execution's environment can be had; else it waits for an engine that supplies it."""
        if self.fleet.is_supplied(env):
            self._unsupplied.pop(record.id, None)
            return True
        if env not in self._unsupplied.values():
            log.warning(
                "execution %s and others of its kind wait: needs environment %s; open an engine with the same runtime "
                "environment, which supplies it", record.id, env.title,
            )  # fmt: skip
        self._unsupplied[record.id] = env
        return False

    def nudge(self, ids: Sequence[str], code: str = "") -> None:
        """Something was put into the inboxes of these executions."""
        owned: dict[str, list[str]] = {}
        others: list[str] = []
        for execution_id in ids:
            owner, _ = self._owners.get(execution_id, ("", 0))
            (owned.setdefault(owner, []) if owner else others).append(execution_id)
        for owner, mine in owned.items():
            send_to(self._system, owner, "nudge", tuple(mine))
        if others:
            records = self._ask("executions", Filter(ids=tuple(others), limit=len(others)))
            self.submit([record for record in records if record.runnable_at is not None], code=code)

    def released(self, coordinator: str, epochs: Mapping[str, int]) -> None:
        """A coordinator does not drive these executions any more."""
        self._forget_asked(epochs)
        self.recovering.forget(self._let_go(coordinator, epochs))

    def superseded(self, coordinator: str, epochs: Mapping[str, int]) -> None:
        """Somebody else has these executions, by the store's word: perhaps one to whom an earlier supervisor gave them.

        The claim of two who were given the same one is decided there, and whoever loses says so afterwards.
        """
        self._forget_asked(epochs)
        self._let_go(coordinator, epochs)
        self._look_who(tuple(epochs))

    def _forget_asked(self, ids: Iterable[str]) -> None:
        for execution_id in ids:
            self._asked.pop(execution_id, None)

    def _look_who(self, ids: tuple[str, ...]) -> None:
        try:
            records = self._ask("executions", Filter(ids=ids, limit=len(ids)))
        except RayflowError as error:
            log.warning("who has %s cannot be looked up now; it is tried again: %s", ", ".join(ids), error)
            self.turns.later(AGAIN, lambda: self._look_who(ids))
            return
        for record in records:
            if record.id in self._owners or record.status.terminal:
                continue
            place = self.fleet.places.get(record.coordinator) if record.owner else None
            if place is not None:
                place.executions.add(record.id)
                self._owners[record.id] = (place.name, record.epoch)
            elif record.owner or record.runnable_at is not None:
                self.submit([record])

    def outdated(self, coordinator: str, epochs: Mapping[str, int]) -> None:
        """The code that a coordinator has loaded was edited since, so it does not take these executions up."""
        ids = self._let_go(coordinator, epochs)
        place = self.fleet.places.get(coordinator)
        if place is not None:
            log.info(
                "the code of coordinator %s was edited since it loaded it; another one takes its place", coordinator
            )
            place.outdated = True
        self.recovering.submit_again(ids)

    def _let_go(self, coordinator: str, epochs: Mapping[str, int]) -> list[str]:
        """Take them from a coordinator, but those that it was given again at a later epoch; answers which."""
        place = self.fleet.places.get(coordinator)
        gone = []
        for execution_id, epoch in epochs.items():
            owner, since = self._owners.get(execution_id, ("", 0))
            if owner == coordinator and since > epoch:
                continue
            gone.append(execution_id)
            if owner == coordinator:
                del self._owners[execution_id]
            if place is not None:
                place.executions.discard(execution_id)
        if place is not None and not place.executions:
            place.reserved = False
            place.idle_since = time.monotonic()
        return gone

    # --- placing -------------------------------------------------------------------------------------------
    def _place(self) -> None:
        if not self._wanting or not self._begun:
            return
        decided = plan(
            [want for want, _ in self._wanting.values()],
            list(self.fleet.places.values()),
            most=self.fleet.most,
            share=self._config.executions_per_coordinator,
        )
        for environment in decided.start:
            try:
                self.fleet.start(environment)
            except RayflowError as error:  # only the executions of this environment have to wait
                log.error("no coordinator of code environment %s can be started: %s", environment, error)  # noqa: TRY400
        batches: dict[str, list[ExecutionRecord]] = {}
        for want, place in decided.assign:
            _, record = self._wanting.pop(want.id)
            place.executions.add(want.id)
            place.reserved = place.reserved or want.suspect
            self._owners[want.id] = (place.name, record.epoch + 1)
            batches.setdefault(place.name, []).append(record)
        for name, records in batches.items():
            self._assign(name, records)

    def _assign(self, name: str, records: Sequence[ExecutionRecord]) -> None:
        if name not in self.fleet.places:
            return
        label = f"drive {records[0].id}" + (f" and {len(records) - 1} more" if len(records) > 1 else "")
        asked = tuple({code for record in records if (code := self._asked.get(record.id))})

        def reply(answer: Reply) -> None:
            # It may not have arrived: claims are by compare-and-set, so an assignment does no harm twice.
            if answer.error is not None:
                self.turns.post(lambda: self.turns.later(AGAIN, partial(self._assign, name, records)))

        send_to(self._system, name, "assign", records, asked, then=reply, label=label)

    def _sweep(self) -> None:
        self._look_at_runnable()
        for record in self._ask("executions", Filter(unread_inbox=True, limit=1_000)):
            if record.id in self._owners:
                send_to(self._system, self._owners[record.id][0], "nudge", (record.id,))
        for place in self.fleet.places.values():
            if place.reserved:
                place.reserved = not self.recovering.made_progress(place.executions)

    def _look_at_runnable(self) -> None:
        """Have driven what needs it, and look again at the moment when the next one does."""
        now = self.turns.now()
        if self._next_look is not None and self._next_look <= now:
            self._next_look = None
        runnable = self._ask("executions", Filter(runnable_before=now + AHEAD, limit=10_000))
        self.submit([r for r in runnable if r.id not in self._owners and r.id not in self._wanting])

    def _keep_time(self) -> None:
        """Do what is due of schedules and locks, and again at the moment when the next schedule is."""
        now = self.turns.now()
        if self._next_time is not None and self._next_time <= now:
            self._next_time = None
        wake = self._timekeeper.look(now)
        if wake is not None and wake < now + SWEEP and (self._next_time is None or wake < self._next_time):
            self._next_time = max(wake, now)
            self.turns.later(self._next_time - now, self._keep_time)

    def _look_at(self, moment: float) -> None:
        if self._next_look is None or moment < self._next_look:
            self._next_look = moment
            self.turns.later(moment - self.turns.now(), self._look_at_runnable)

    # --- recovering ----------------------------------------------------------------------------------------
    def _lost_coordinator(self, name: str, executions: set[str]) -> None:
        for execution_id in executions:
            self._owners.pop(execution_id, None)
        self.pools.forget(name)
        self.recovering.lost(name, executions)

    def _driven(self) -> set[str]:
        """Who has a coordinator, or waits for one."""
        return {*self._owners, *self._wanting, *self._unsupplied}

    def recovery(self) -> RecoveryStatus:
        """What the recovery knows and does now."""
        return RecoveryStatus(
            coordinators=self.fleet.status(),
            driven=len(self._owners),
            waiting=tuple(self._wanting),
            needs_environment={name: env.title for name, env in self._unsupplied.items()},
            stale=tuple(record.id for record in self.recovering.stale()),
            takeovers=self.recovering.takeovers.counted(),
        )

    # --- the store -----------------------------------------------------------------------------------------
    def _ask(self, method: str, *args: Any) -> Any:
        # Never for long: this is the thread that would notice that the store's actor hangs.
        try:
            return self._system.find(actor_names.PERSISTENCE).call(method, *args, timeout=self._config.ping_timeout)
        except WriterFenced:
            self._stop_driving()
            raise

    def _stop_driving(self) -> None:
        """Somebody else has the store: nothing is driven here any more, until an engine opens it anew."""
        if self.fleet.places:
            log.critical("all coordinators of this namespace stop: somebody else has taken its store over")
        self.fleet.give_up_all()
        self._owners.clear()
        self._wanting.clear()
        self._asked.clear()
        self._unsupplied.clear()
        self.recovering.forget(self.recovering.takeovers.counted())
