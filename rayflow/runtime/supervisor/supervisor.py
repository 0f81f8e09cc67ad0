"""Supervisor logic: ensures that every execution that needs a coordinator has one.

The supervisor owns the assignment of executions to coordinators, and the queue of those that wait for one. All of that
can be read back from the store and the coordinators, so its process can be restarted at any moment.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
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
from rayflow.runtime.supervisor.maintenance import MaintenanceLoop, RetentionLoop
from rayflow.runtime.supervisor.pools import PoolRegistry
from rayflow.runtime.supervisor.recovery import DRIVEN, RETRY_DELAY, Quarantine, RecoveryLoop
from rayflow.storage.base import Filter
from rayflow.storage.codec.payloads import MsgpackCodec
from rayflow.storage.model import ExecutionRecord

log = logging.getLogger(__name__)

#: Seconds between two sweeps of the store for executions that no message is about.
SWEEP = 1.0

#: Seconds that a sweep looks ahead for executions that become due: longer than until the next sweep.
AHEAD = 2.5

#: Seconds after a ping's timeout at which the timeout has certainly passed.
_MARGIN = 0.01


class Supervisor:
    """The logic of the supervisor actor. All methods run on its mailbox's thread."""

    def __init__(self, system: ActorSystem, settings: Settings) -> None:
        self._system = system
        self._settings = settings
        self._config = settings.config
        self.mailbox = Mailbox(
            "supervisor", self._place, lambda: None, clock=system.clock, tolerated=(RayflowError, OSError)
        )
        self.coordinators = CoordinatorRegistry(system, settings, self.mailbox.submit, self._coordinator_lost)
        self.pools = PoolRegistry(system, settings, self.mailbox.submit)
        codec = MsgpackCodec(allow_pickle=settings.allow_pickle)
        self._maintenance = MaintenanceLoop(self._call_store, self.notify, codec)
        self._retention = RetentionLoop(self.mailbox, self._call_store, partial(send_to, system, actor_names.STORE))
        self._quarantine = Quarantine(self.mailbox, self._call_store)
        self.recovery_loop = RecoveryLoop(
            self.mailbox, self._call_store, self._driven, self.submit, self._quarantine.put
        )
        #: The coordinator of each execution, and the epoch at which it drives it.
        self._owners: dict[str, tuple[str, int]] = {}
        self._pending: dict[str, tuple[PendingExecution, ExecutionRecord]] = {}
        #: Fingerprints of the code that clients had when they submitted executions or sent them messages, by execution.
        self._requested: dict[str, str] = {}
        #: Executions that wait for variables that no engine has supplied, with their environments.
        self._unsupplied: dict[str, Environment] = {}
        self._started = False
        self._next_runnable: float | None = None
        self._next_maintenance: float | None = None

    def start(self) -> None:
        """Start the supervisor's thread."""
        self.mailbox.submit(lambda: self.mailbox.retry(self._start, RETRY_DELAY))
        self.mailbox.start()

    def _start(self, again: Callable[[], None]) -> None:
        """Read back the pools, the coordinators with what they drive, and the unfinished executions."""
        try:
            # A supervisor that was restarted in a running namespace continues, whatever `recover` says.
            restarted = actor_names.pool(self._config.pool.name) in self._system.names()
            self.pools.start(restarted=restarted)
            self._owners.update(self.coordinators.adopt())
            for record in self._call_store("executions", DRIVEN):
                if (env := self._quarantine.environment(record)) is not None:
                    self.coordinators.environments.setdefault(env.id, env)
            if restarted or self._config.recover:
                self.recovery_loop.start()
        except (RayflowError, OSError) as error:
            log.warning("the supervisor cannot start, retrying: %s", error)
            again()
        else:
            self._started = True
            self._tick()
            self._retention.purge_values()

    def _tick(self) -> None:
        coordinators = self.coordinators
        for action in (
            coordinators.ping_all,
            self.pools.ping_all,
            self._sweep,
            self._run_maintenance,
            coordinators.check_startup,
            coordinators.stop_idle,
            self.recovery_loop.sweep,
        ):
            self.mailbox.submit(action)
        self._retention.tick()
        # Not with the next pings: a hung coordinator is known as soon as the timeout of these pings has passed.
        check = coordinators.group.check
        self.mailbox.submit_later(self._config.ping_timeout + _MARGIN, lambda: self.mailbox.submit(check))
        self.mailbox.submit_later(min(self._config.ping_interval, SWEEP), self._tick)

    def prepare_environment(self, env: Environment, variables: Variables) -> None:
        """Have a coordinator and workers ready for a code environment, because an engine uses it."""
        if env.variables:
            self.coordinators.variables[env.id] = variables
        self.coordinators.use(env)
        self.coordinators.keep_standbys(env.id)
        self.pools.want(env, variables)
        if waiting := [name for name, needed in self._unsupplied.items() if needed.id == env.id]:
            for name in waiting:
                del self._unsupplied[name]
            self.recovery_loop.submit_again(waiting)

    def submit(self, records: Sequence[ExecutionRecord], *, suspect: bool = False, code: str = "") -> None:
        """Have executions driven, now or when they are due.

        Args:
            records: the executions.
            suspect: give each of them its own coordinator.
            code: fingerprint that the code must not be older than; "" for the fingerprints of the records.
        """
        for record in records:
            if record.id in self._owners:
                continue
            if code:
                self._requested[record.id] = code
            if record.runnable_at is not None and record.runnable_at > self.mailbox.now():
                self._submit_runnable_at(record.runnable_at)
                continue
            env = self._quarantine.environment(record)
            if env is None or not self._is_supplied(record, env):
                continue
            self.coordinators.use(env)
            interrupted = bool(record.owner)
            want = PendingExecution(record.id, env.id, record.priority, record.created_at, suspect, interrupted)
            self._pending[record.id] = (want, record)

    def _is_supplied(self, record: ExecutionRecord, env: Environment) -> bool:
        """Return whether an execution's environment is known; otherwise it waits for an engine that supplies it."""
        if self.coordinators.is_supplied(env):
            self._unsupplied.pop(record.id, None)
            return True
        if env not in self._unsupplied.values():
            log.warning(
                "execution %s waits: needs environment %s; other executions may wait for it too. Open an engine with "
                "the same runtime environment", record.id, env.title,
            )  # fmt: skip
        self._unsupplied[record.id] = env
        return False

    def notify(self, ids: Sequence[str], code: str = "") -> None:
        """Have the coordinators of these executions read their inboxes; submit those that are parked."""
        owned: dict[str, list[str]] = {}
        others: list[str] = []
        for execution_id in ids:
            owner, _ = self._owners.get(execution_id, ("", 0))
            (owned.setdefault(owner, []) if owner else others).append(execution_id)
        for owner, mine in owned.items():
            send_to(self._system, owner, "notify", tuple(mine))
        if others:
            records = self._call_store("executions", Filter(ids=tuple(others), limit=len(others)))
            self.submit([record for record in records if record.runnable_at is not None], code=code)

    def released(self, coordinator: str, epochs: Mapping[str, int]) -> None:
        """Remove executions that a coordinator has finished or parked, given with its epochs of them."""
        self._forget_requested(epochs)
        self.recovery_loop.forget(self._release(coordinator, epochs))

    def superseded(self, coordinator: str, epochs: Mapping[str, int]) -> None:
        """Remove executions that a coordinator has lost to another one, and look up their owners in the store.

        An earlier supervisor may have assigned the same execution to another coordinator. The store decides between
        the two claims, and the loser reports it here.
        """
        self._forget_requested(epochs)
        self._release(coordinator, epochs)
        self.mailbox.retry(partial(self._look_up_owners, tuple(epochs)), RETRY_DELAY)

    def _forget_requested(self, ids: Iterable[str]) -> None:
        for execution_id in ids:
            self._requested.pop(execution_id, None)

    def _look_up_owners(self, ids: tuple[str, ...], again: Callable[[], None]) -> None:
        try:
            records = self._call_store("executions", Filter(ids=ids, limit=len(ids)))
        except RayflowError as error:
            log.warning("cannot look up the owners of %s, retrying: %s", ", ".join(ids), error)
            again()
            return
        for record in records:
            if record.id in self._owners or record.status.terminal:
                continue
            slot = self.coordinators.slots.get(record.coordinator) if record.owner else None
            if slot is not None:
                slot.executions.add(record.id)
                self._owners[record.id] = (slot.name, record.epoch)
            elif record.owner or record.runnable_at is not None:
                self.submit([record])

    def outdated(self, coordinator: str, epochs: Mapping[str, int]) -> None:
        """Reassign executions that a coordinator returns because its loaded code has been edited since."""
        ids = self._release(coordinator, epochs)
        slot = self.coordinators.slots.get(coordinator)
        if slot is not None:
            log.info("coordinator %s has outdated code, its executions go to another one", coordinator)
            slot.outdated = True
        self.recovery_loop.submit_again(ids)

    def _release(self, coordinator: str, epochs: Mapping[str, int]) -> list[str]:
        """Remove executions from a coordinator, except those assigned to it again at a later epoch. Return them."""
        slot = self.coordinators.slots.get(coordinator)
        released = []
        for execution_id, epoch in epochs.items():
            owner, since = self._owners.get(execution_id, ("", 0))
            if owner == coordinator and since > epoch:
                continue
            released.append(execution_id)
            if owner == coordinator:
                del self._owners[execution_id]
            if slot is not None:
                slot.executions.discard(execution_id)
        if slot is not None and not slot.executions:
            slot.reserved = False
            slot.idle_since = time.monotonic()
        return released

    def _place(self) -> None:
        """Assign pending executions to coordinators, and start coordinators for the others."""
        if not self._pending or not self._started:
            return
        decided = plan(
            [want for want, _ in self._pending.values()],
            list(self.coordinators.slots.values()),
            most=self.coordinators.limit,
            share=self._config.executions_per_coordinator,
        )
        for environment in decided.start:
            try:
                self.coordinators.start(environment)
            except RayflowError as error:  # only the executions of this environment have to wait
                log.error("cannot start a coordinator of code environment %s: %s", environment, error)  # noqa: TRY400
        batches: dict[str, list[ExecutionRecord]] = {}
        for want, slot in decided.assign:
            _, record = self._pending.pop(want.id)
            slot.executions.add(want.id)
            slot.reserved = slot.reserved or want.suspect
            self._owners[want.id] = (slot.name, record.epoch + 1)
            batches.setdefault(slot.name, []).append(record)
        for name, records in batches.items():
            self.mailbox.retry(partial(self._assign, name, records), RETRY_DELAY)

    def _assign(self, name: str, records: Sequence[ExecutionRecord], again: Callable[[], None]) -> None:
        """Send an assignment until it arrives. Claims are compare-and-set, so it may arrive twice."""

        def replied(reply: Reply) -> None:
            if reply.error is not None:
                self.mailbox.submit(again)

        if name in self.coordinators.slots:
            label = f"drive {records[0].id}" + (f" and {len(records) - 1} more" if len(records) > 1 else "")
            requested = tuple({code for record in records if (code := self._requested.get(record.id))})
            send_to(self._system, name, "assign", records, requested, then=replied, label=label)

    def _sweep(self) -> None:
        self._submit_runnable()
        for record in self._call_store("executions", Filter(unread_inbox=True, limit=1_000)):
            if record.id in self._owners:
                send_to(self._system, self._owners[record.id][0], "notify", (record.id,))
        for slot in self.coordinators.slots.values():
            if slot.reserved:
                slot.reserved = not self.recovery_loop.made_progress(slot.executions)

    def _submit_runnable(self) -> None:
        """Submit executions that are due, and schedule this again for the next that will be."""
        now = self.mailbox.now()
        if self._next_runnable is not None and self._next_runnable <= now:
            self._next_runnable = None
        runnable = self._call_store("executions", Filter(runnable_before=now + AHEAD, limit=10_000))
        self.submit([r for r in runnable if r.id not in self._owners and r.id not in self._pending])

    def _submit_runnable_at(self, moment: float) -> None:
        if self._next_runnable is None or moment < self._next_runnable:
            self._next_runnable = moment
            self.mailbox.submit_later(moment - self.mailbox.now(), self._submit_runnable)

    def _run_maintenance(self) -> None:
        """Run schedules and lock maintenance, and schedule this again for the next due schedule."""
        now = self.mailbox.now()
        if self._next_maintenance is not None and self._next_maintenance <= now:
            self._next_maintenance = None
        wake = self._maintenance.run(now)
        if (
            wake is not None
            and wake < now + SWEEP
            and (self._next_maintenance is None or wake < self._next_maintenance)
        ):
            self._next_maintenance = max(wake, now)
            self.mailbox.submit_later(self._next_maintenance - now, self._run_maintenance)

    def _coordinator_lost(self, name: str, executions: set[str]) -> None:
        for execution_id in executions:
            self._owners.pop(execution_id, None)
        self.pools.forget(name)
        self.recovery_loop.lost(name, executions)

    def _driven(self) -> set[str]:
        """Return the executions that have a coordinator, or wait for one or for their environment."""
        return {*self._owners, *self._pending, *self._unsupplied}

    def recovery(self) -> RecoveryStatus:
        """Return the current state of the recovery."""
        return RecoveryStatus(
            coordinators=self.coordinators.status(),
            driven=len(self._owners),
            waiting=tuple(self._pending),
            needs_environment={name: env.title for name, env in self._unsupplied.items()},
            stale=tuple(record.id for record in self.recovery_loop.stale()),
            takeovers=self.recovery_loop.takeovers.counts(),
        )

    def _call_store(self, method: str, *args: Any) -> Any:
        # With a short timeout: this is the thread that would notice that the store actor hangs.
        try:
            return self._system.find(actor_names.STORE).call(method, *args, timeout=self._config.ping_timeout)
        except WriterFenced:
            self._stop_coordinators()
            raise

    def _stop_coordinators(self) -> None:
        """Stop driving executions until an engine opens the store again, because another writer has taken it over."""
        if self.coordinators.slots:
            log.critical("stopping all coordinators: another process took over as the store's writer")
        self.coordinators.stop_all()
        self._owners.clear()
        self._pending.clear()
        self._requested.clear()
        self._unsupplied.clear()
        self.recovery_loop.forget(self.recovery_loop.takeovers.counts())
