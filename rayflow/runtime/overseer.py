"""Sees to it that every execution that needs a coordinator has one.

It owns who drives what, what waits for a coordinator, and how often an execution's coordinator died without any
progress. All of that can be read back from the store and the coordinators, so its process can be restarted at any
moment.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Sequence
from functools import partial
from typing import Any

from rayflow.core.events import Entry, Paused
from rayflow.core.placement import Place, Wanting, plan
from rayflow.errors import Failure, RayflowError
from rayflow.ids import ExecutionStatus
from rayflow.runtime import naming
from rayflow.runtime.environment import Environment
from rayflow.runtime.fleet import Fleet
from rayflow.runtime.keeper import PoolKeeper
from rayflow.runtime.settings import Settings
from rayflow.runtime.system import ActorSystem, Reply, send_to
from rayflow.runtime.timekeeper import Timekeeper
from rayflow.runtime.turns import Turns
from rayflow.storage.base import Filter
from rayflow.storage.codec import MsgpackCodec
from rayflow.storage.operations import Append, Claim, ExecutionRecord, JournalRow, Refused, Release
from rayflow.storage.records import append_digest, encode_entry, encode_failure
from rayflow.storage.values import GRACE

log = logging.getLogger(__name__)

#: Seconds between two looks into the store for executions that nobody was told of, and after something went wrong.
SWEEP, AGAIN = 1.0, 0.2

#: How far ahead a look into the store sees what will be due: further than until the next look.
AHEAD = 2.5

#: Seconds between two looks for large values to which nothing refers, and how many of them are deleted at a time.
COLLECT, COLLECTED = 30.0, 20

#: Takeovers of an execution without any progress in between: after so many it runs alone on a coordinator, and after
#: so many it is set aside.
TAKEOVERS_BEFORE_ALONE, MOST_TAKEOVERS = 2, 5

_UNFINISHED = (ExecutionStatus.PENDING, ExecutionStatus.RUNNING, ExecutionStatus.PAUSED)
_DRIVEN = Filter(status=_UNFINISHED, driven=True, limit=1_000_000)


class Overseer:
    """See the module's docstring.

    Args:
        system: where actors are made and found.
        settings: shared by all actors of the namespace.
    """

    def __init__(self, system: ActorSystem, settings: Settings) -> None:
        self._system = system
        self._settings = settings
        self._config = settings.config
        self.turns = Turns(
            "supervisor", self._place, lambda: None, clock=system.clock, tolerated=(RayflowError, OSError)
        )
        self.fleet = Fleet(system, settings, self.turns.post, self._lost_coordinator)
        self.pools = PoolKeeper(system, settings)
        self._timekeeper = Timekeeper(self._ask, self.nudge, MsgpackCodec(allow_pickle=settings.allow_pickle))
        self._owners: dict[str, str] = {}
        self._wanting: dict[str, tuple[Wanting, ExecutionRecord]] = {}
        self._takeovers: dict[str, tuple[int, int]] = {}
        self._found: list[str] = []
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
            restarted = naming.pool(self._config.pool.name) in self._system.names()
            self.pools.begin(restarted=restarted)
            self._owners.update(self.fleet.adopt())
            for record in self._ask("executions", _DRIVEN):
                env = Environment.from_json(record.environment)
                self.fleet.environments.setdefault(env.id, env)
            if restarted or self._config.recover == "auto":
                self._found = self._recover(None)
        except (RayflowError, OSError) as error:
            log.warning("the supervisor cannot begin now; it tries again: %s", error)
            self.turns.later(AGAIN, self._begin)
        else:
            self._begun = True
            self._tick()
            self._collect_values()

    def _tick(self) -> None:
        for action in (self.fleet.ping_all, self.pools.ping_all, self._sweep, self._keep_time, self.fleet.drop_idle):
            self.turns.post(action)
        self.turns.later(min(self._config.ping_interval, SWEEP), self._tick)

    # --- posted --------------------------------------------------------------------------------------------
    def want_environment(self, env: Environment) -> None:
        """An engine of this code environment is at work: have a coordinator and workers ready."""
        self.fleet.use(env)
        self.fleet.keep_standbys(env.id)
        self.pools.want(env)

    def submit(self, records: Sequence[ExecutionRecord], *, suspect: bool = False) -> None:
        """Have these executions driven."""
        for record in records:
            if record.id in self._owners:
                continue
            if record.runnable_at is not None and record.runnable_at > self.turns.now():
                self._look_at(record.runnable_at)
                continue
            env = Environment.from_json(record.environment)
            self.fleet.use(env)
            want = Wanting(record.id, env.id, record.priority, record.created_at, suspect)
            self._wanting[record.id] = (want, record)

    def nudge(self, ids: Sequence[str]) -> None:
        """Something was put into the inboxes of these executions."""
        owned: dict[str, list[str]] = {}
        others: list[str] = []
        for execution_id in ids:
            owner = self._owners.get(execution_id)
            (others if owner is None else owned.setdefault(owner, [])).append(execution_id)
        for owner, mine in owned.items():
            send_to(self._system, owner, "nudge", tuple(mine))
        if others:
            records = self._ask("executions", Filter(ids=tuple(others), limit=len(others)))
            self.submit([record for record in records if record.runnable_at is not None])

    def released(self, coordinator: str, ids: Sequence[str]) -> None:
        """A coordinator does not drive these executions any more."""
        self._let_go(coordinator, ids)
        for execution_id in ids:
            self._takeovers.pop(execution_id, None)

    def outdated(self, coordinator: str, ids: Sequence[str]) -> None:
        """The code that a coordinator has loaded was edited since, so it does not take these executions up."""
        self._let_go(coordinator, ids)
        place = self.fleet.places.get(coordinator)
        if place is not None:
            log.info(
                "the code of coordinator %s was edited since it loaded it; another one takes its place", coordinator
            )
            place.outdated = True
        for record in self._ask("executions", Filter(ids=tuple(ids), limit=len(ids))):
            if not record.status.terminal:
                alone = self._takeovers.get(record.id, (0, 0))[1] >= TAKEOVERS_BEFORE_ALONE
                self.submit([record], suspect=alone)

    def _let_go(self, coordinator: str, ids: Sequence[str]) -> None:
        place = self.fleet.places.get(coordinator)
        for execution_id in ids:
            if self._owners.get(execution_id) == coordinator:
                del self._owners[execution_id]
            if place is not None:
                place.executions.discard(execution_id)
        if place is not None and not place.executions:
            place.reserved = False
            place.idle_since = time.monotonic()

    def recovered(self, ids: Sequence[str] | None) -> list[str]:
        """What was taken up now, and what was at the beginning and is not told yet."""
        found, self._found = self._found, []
        return [i for i in found if ids is None or i in ids] + self._recover(ids)

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
            self._owners[want.id] = place.name
            batches.setdefault(place.name, []).append(record)
        for name, records in batches.items():
            label = f"drive {records[0].id}" + (f" and {len(records) - 1} more" if len(records) > 1 else "")
            send_to(self._system, name, "assign", records, then=partial(self._assigned, name, records), label=label)

    def _assigned(self, name: str, records: Sequence[ExecutionRecord], reply: Reply) -> None:
        if reply.error is not None:
            again = partial(self._assign_again, name, records)
            self.turns.post(lambda: self.turns.later(AGAIN, again))

    def _assign_again(self, name: str, records: Sequence[ExecutionRecord]) -> None:
        """An assignment may not have arrived: claims are by compare-and-set, so it does no harm twice."""
        if name in self.fleet.places:
            send_to(self._system, name, "assign", records, then=partial(self._assigned, name, records))

    def _sweep(self) -> None:
        self._look_at_runnable()
        for record in self._ask("executions", Filter(unread_inbox=True, limit=1_000)):
            if record.id in self._owners:
                send_to(self._system, self._owners[record.id], "nudge", (record.id,))
        for place in self.fleet.places.values():
            if place.reserved:
                place.reserved = not self._made_progress(place)

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

    def _collect_values(self) -> None:
        """Have large values deleted to which nothing refers; nobody waits for it."""

        def told(reply: Reply) -> None:
            if reply.error is not None:
                log.info("large values cannot be collected now: %s", reply.error)
            elif reply.value:
                log.info("%d large values were deleted, to which nothing refers any more", reply.value)

        send_to(self._system, naming.PERSISTENCE, "collect_values", GRACE, COLLECTED, then=told, group="values")
        self.turns.later(COLLECT, self._collect_values)

    def _look_at(self, moment: float) -> None:
        if self._next_look is None or moment < self._next_look:
            self._next_look = moment
            self.turns.later(moment - self.turns.now(), self._look_at_runnable)

    def _made_progress(self, place: Place) -> bool:
        """Whether all that a reserved coordinator drives has got further than where the one before died."""
        records = [self._ask("execution", execution_id) for execution_id in list(place.executions)]
        return all(r is None or r.last_seq > self._takeovers.get(r.id, (0, 0))[0] for r in records)

    # --- recovering ----------------------------------------------------------------------------------------
    def _recover(self, ids: Sequence[str] | None) -> list[str]:
        unfinished = self._ask("executions", _DRIVEN)
        now = self.turns.now()
        lost = [
            record
            for record in unfinished
            if (ids is None or record.id in ids)
            and record.id not in self._owners
            and record.id not in self._wanting
            and (record.owner or (record.runnable_at is not None and record.runnable_at <= now))
        ]
        self.submit(lost)
        return [record.id for record in lost]

    def _lost_coordinator(self, name: str, executions: set[str]) -> None:
        for execution_id in executions:
            self._owners.pop(execution_id, None)
        self.pools.forget(name)
        if executions:
            log.warning("coordinator %s is gone; %d executions are taken up by others", name, len(executions))
            self._take_over(executions)

    def _take_over(self, ids: set[str]) -> None:
        try:
            unfinished = self._ask("executions", _DRIVEN)
        except RayflowError as error:
            log.warning("what a lost coordinator drove cannot be looked up now; it is tried again: %s", error)
            self.turns.later(AGAIN, lambda: self._take_over(ids))
            return
        for record in unfinished:
            if record.id not in ids or record.id in self._owners:
                continue
            last_seq, count = self._takeovers.get(record.id, (-1, 0))
            count = count + 1 if last_seq == record.last_seq else 1
            self._takeovers[record.id] = (record.last_seq, count)
            if count > MOST_TAKEOVERS:
                self._try_to_set_aside(record, count)
            else:
                self.submit([record], suspect=count >= TAKEOVERS_BEFORE_ALONE)

    def _try_to_set_aside(self, record: ExecutionRecord, times: int) -> None:
        try:
            self._set_aside(record, times)
        except RayflowError as error:
            log.warning("execution %s cannot be set aside now; it is tried again: %s", record.id, error)
            self.turns.later(AGAIN, lambda: self._try_to_set_aside(record, times))

    def _set_aside(self, record: ExecutionRecord, times: int) -> None:
        message = (
            f"its coordinator died {times} times in a row without any progress of this execution; most likely its "
            "own code kills the process. Mend it, then resume the execution"
        )
        log.error("execution %s is set aside: %s", record.id, message)
        now = self.turns.now()
        rows = (JournalRow(record.last_seq + 1, encode_entry(Entry(record.last_seq + 1, Paused(now, message)))),)
        epoch = record.epoch + 1
        failure = encode_failure(Failure(type="rayflow.errors.CrashLoop", message=message))
        answers = self._ask(
            "start",
            [
                Claim(record.id, record.epoch, uuid.uuid4().hex, "", now),
                Append(
                    record.id, epoch, record.last_seq + 1, rows, append_digest(rows), now, ExecutionStatus.PAUSED,
                    inbox_done=record.inbox_done, failure=failure,
                ),
                Release(record.id, epoch, runnable_at=None, at=now, seen=record.inbox_last),
            ],
        )  # fmt: skip
        refused = [answer.error for answer in answers if isinstance(answer, Refused)]
        if refused:
            log.warning("execution %s is not set aside, somebody else has it: %s", record.id, refused[0])
        self._takeovers.pop(record.id, None)

    # --- the store -----------------------------------------------------------------------------------------
    def _ask(self, method: str, *args: Any) -> Any:
        # Never for long: this is the thread that would notice that the store's actor hangs.
        return self._system.find(naming.PERSISTENCE).call(method, *args, timeout=self._config.ping_timeout)
