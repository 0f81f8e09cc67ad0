"""Supervisor of a test: assigns due executions, and knows when the next one is due.

A test has one coordinator, which does not crash, and pools have no workers. The rest follows the rules of production:
due executions are read from the store, the real :class:`~rayflow.runtime.supervisor.maintenance.MaintenanceLoop`
maintains schedules and locks, and the real :class:`~rayflow.runtime.supervisor.maintenance.RetentionSweeper` deletes
expired executions.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from rayflow.core.cluster.metrics import PoolStatus
from rayflow.core.cluster.recovery import CoordinatorStatus, OverdueItem, RecoveryStatus, overdue, stale
from rayflow.core.locks.machine import Lock
from rayflow.definition.options import PoolConfig
from rayflow.errors import InvalidArgument, PoolNotFound
from rayflow.runtime.actors import actor_names
from rayflow.runtime.actors.base import ActorSpec
from rayflow.runtime.code.environment import Variables
from rayflow.runtime.settings import Settings
from rayflow.runtime.supervisor.maintenance import MaintenanceLoop, RetentionSweeper
from rayflow.runtime.supervisor.recovery import DRIVEN
from rayflow.storage.base import Filter
from rayflow.storage.codec.payloads import MsgpackCodec
from rayflow.storage.model import ExecutionRecord, PoolRecord
from rayflow.testing.actors import DeterministicActorSystem

#: Executions that one query reads.
_MOST = 1_000


class DeterministicSupervisor:
    """Supervisor actor of a test, as a part of the actor system's loop."""

    def __init__(self, system: DeterministicActorSystem, settings: Settings, coordinator: str) -> None:
        self._actor_system = system
        self._coordinator = coordinator
        self._default = settings.config.pool
        self._maintenance = MaintenanceLoop(self._ask, self.notify, MsgpackCodec(allow_pickle=settings.allow_pickle))
        self._retention = RetentionSweeper(self._ask)
        self._owned: set[str] = set()
        self._seen = -1
        self._next: float | None = None
        self.pools: dict[str, PoolConfig] = {}
        self._keep(self._default)
        for record in self._ask("pools"):
            self._open(PoolConfig.model_validate_json(record.config))

    def environment(self, text: str, variables: Variables) -> None:
        """Do nothing: all code is in this process."""

    def save_pool(self, config: str) -> None:
        """Create or change a pool; ``config`` is its configuration as JSON."""
        self._keep(PoolConfig.model_validate_json(config))

    def delete_pool(self, name: str) -> None:
        """Delete a pool. Raises InvalidArgument, PoolNotFound."""
        if name == self._default.name:
            raise InvalidArgument(f"the default pool {name!r} cannot be deleted; scale it to 0 instead")
        if not self._ask("delete_pool", name):
            raise PoolNotFound(name)
        self.pools.pop(name, None)
        self._actor_system.kill(actor_names.pool(name))

    def submit(self, records: Sequence[ExecutionRecord], code: str = "") -> None:
        """Assign the due executions of these to the coordinator."""
        now = self._actor_system.clock.now()
        due = [r for r in records if r.id not in self._owned and (r.runnable_at is None or r.runnable_at <= now)]
        if due:
            self._owned.update(record.id for record in due)
            self._actor_system.send(self._coordinator, "assign", (due,), None)

    def notify(self, ids: Sequence[str], code: str = "") -> None:
        """Notify the coordinator of new messages for its executions."""
        mine = tuple(name for name in ids if name in self._owned)
        if mine:
            self._actor_system.send(self._coordinator, "notify", (mine,), None)
        # The next query of the store finds the others.

    def released(self, coordinator: str, epochs: Mapping[str, int]) -> None:
        """Note that the coordinator has released these executions."""
        self._owned.difference_update(epochs)

    def superseded(self, coordinator: str, epochs: Mapping[str, int]) -> None:
        """Note that the coordinator has lost these executions to another owner."""
        self.released(coordinator, epochs)

    def recover(self, ids: Sequence[str] | None = None, older_than: float = 0.0) -> list[str]:
        """Assign the unfinished executions that the coordinator does not drive, and return their ids."""
        lost = [record for record in self._stale(older_than) if ids is None or record.id in ids]
        self.submit(lost)
        return [record.id for record in lost]

    def _stale(self, older_than: float) -> list[ExecutionRecord]:
        rows: list[ExecutionRecord] = self._ask("executions", DRIVEN)
        return stale(rows, self._owned, now=self._actor_system.clock.now(), older_than=older_than)

    def overdue(self, grace: float) -> list[OverdueItem]:
        """Return overdue executions; there are none after everything due has run."""
        return overdue(self._ask("executions", DRIVEN), now=self._actor_system.clock.now(), grace=grace)

    def coordinators(self) -> dict[str, tuple[str, int]]:
        """Return the only coordinator, whose code environment has no name."""
        return {self._coordinator: ("", len(self._owned))}

    def recovery(self) -> RecoveryStatus:
        """Return the recovery status."""
        coordinator = CoordinatorStatus(self._coordinator, len(self._owned), ready=True)
        left = tuple(record.id for record in self._stale(0.0))
        return RecoveryStatus(coordinators=(coordinator,), driven=len(self._owned), stale=left)

    def work(self) -> bool:
        """Query the store for due executions, if anything has run since the last query."""
        if self._seen == self._actor_system.done:
            return False
        self._seen = self._actor_system.done
        now, waiting = self._actor_system.clock.now(), self._actor_system.waiting
        self._next = self._maintenance.run(now)
        while self._retention.sweep(now):
            pass
        self.submit(self._ask("executions", Filter(runnable_before=now, limit=_MOST)))
        return self._actor_system.waiting > waiting

    def next_due(self) -> float | None:
        """Return when the next execution, schedule, lock or retention is due."""
        coming: list[ExecutionRecord] = self._ask("executions", Filter(runnable_before=math.inf, limit=_MOST))
        dues = [r.runnable_at for r in coming if r.id not in self._owned and r.runnable_at is not None]
        locks: list[Lock] = self._ask("locks", None)
        # A lease that expires at a time is free just after that time.
        ends = [claim.expires_at for lock in locks if lock.waiting for claim in lock.claims if claim.expires_at]
        dues.extend(math.nextafter(end, math.inf) for end in ends)
        return min([*dues, *([] if self._next is None else [self._next])], default=None)

    def moved(self) -> None:
        """Query the store again after the clock has moved."""
        self._seen = -1

    def _keep(self, config: PoolConfig) -> None:
        self._ask(
            "save_pool", PoolRecord(config.name, config.model_dump_json().encode(), self._actor_system.clock.now())
        )
        self._open(config)

    def _open(self, config: PoolConfig) -> None:
        self.pools[config.name] = config
        self._actor_system.kill(actor_names.pool(config.name))
        self._actor_system.spawn(ActorSpec(_Pool, actor_names.pool(config.name), (config,)))

    def _ask(self, method: str, *args: Any) -> Any:
        return self._actor_system.perform(actor_names.STORE, method, args)


class _Pool:
    """Pool actor without workers: steps run on threads of the test."""

    def __init__(self, system: DeterministicActorSystem, config: PoolConfig) -> None:
        self._config = config

    def configure(self) -> None:
        """Do nothing: a new configuration creates a new actor."""

    def status(self) -> PoolStatus:
        """Return the status of an idle pool."""
        return PoolStatus(name=self._config.name, config=self._config)
