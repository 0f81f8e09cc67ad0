"""The supervisor of a test: it has executions driven when they are due, and knows when something is due next.

There is one coordinator, which does not die, and no pool has workers of its own; what is left of a supervisor's work is
done by the same rules: what is due is read from the store, and schedules and locks are looked after by the real
:class:`~rayflow.runtime.supervisor.maintenance.MaintenanceLoop`, and what is over is deleted by the real
:class:`~rayflow.runtime.supervisor.maintenance.RetentionSweeper`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from rayflow.core.cluster.metrics import PoolStatus
from rayflow.core.cluster.recovery import CoordinatorStatus, OverdueItem, RecoveryStatus, overdue, stale
from rayflow.core.locks.machine import Lock
from rayflow.definition.options import PoolConfig
from rayflow.errors import DefinitionError, PoolNotFound
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

#: Executions that a look into the store sees.
_MOST = 1_000


class DeterministicSupervisor:
    """See the module's docstring.

    Args:
        stage: the stage.
        settings: as for all actors.
        coordinator: the coordinator's name.
    """

    def __init__(self, stage: DeterministicActorSystem, settings: Settings, coordinator: str) -> None:
        self._stage = stage
        self._coordinator = coordinator
        self._default = settings.config.pool
        self._timekeeper = MaintenanceLoop(self._ask, self.nudge, MsgpackCodec(allow_pickle=settings.allow_pickle))
        self._collector = RetentionSweeper(self._ask)
        self._owned: set[str] = set()
        self._seen = -1
        self._wake: float | None = None
        self.pools: dict[str, PoolConfig] = {}
        self._keep(self._default)
        for record in self._ask("pools"):
            self._open(PoolConfig.model_validate_json(record.config))

    # --- what engines and the coordinator call -------------------------------------------------------------
    def environment(self, text: str, variables: Variables) -> None:
        """Nothing: all code is in this process."""

    def save_pool(self, config: str) -> None:
        """Make a pool, or change it: its configuration as JSON."""
        self._keep(PoolConfig.model_validate_json(config))

    def delete_pool(self, name: str) -> None:
        """Delete a pool. Raises DefinitionError, PoolNotFound."""
        if name == self._default.name:
            raise DefinitionError(f"the default pool {name!r} cannot be deleted; scale it to 0 instead")
        if not self._ask("delete_pool", name):
            raise PoolNotFound(name)
        self.pools.pop(name, None)
        self._stage.kill(actor_names.pool(name))

    def submit(self, records: Sequence[ExecutionRecord], code: str = "") -> None:
        """Have these executions driven, as far as they are due."""
        now = self._stage.clock.now()
        due = [r for r in records if r.id not in self._owned and (r.runnable_at is None or r.runnable_at <= now)]
        if due:
            self._owned.update(record.id for record in due)
            self._stage.send(self._coordinator, "assign", (due,), None)

    def nudge(self, ids: Sequence[str], code: str = "") -> None:
        """Something was put into the inboxes of these executions, or they were started."""
        mine = tuple(name for name in ids if name in self._owned)
        if mine:
            self._stage.send(self._coordinator, "nudge", (mine,), None)
        # The others are found by the next look into the store.

    def released(self, coordinator: str, epochs: Mapping[str, int]) -> None:
        """The coordinator does not drive these executions any more."""
        self._owned.difference_update(epochs)

    def superseded(self, coordinator: str, epochs: Mapping[str, int]) -> None:
        """The same."""
        self.released(coordinator, epochs)

    def recover(self, ids: Sequence[str] | None = None, older_than: float = 0.0) -> list[str]:
        """Take up unfinished executions that nobody drives; answers which."""
        lost = [record for record in self._stale(older_than) if ids is None or record.id in ids]
        self.submit(lost)
        return [record.id for record in lost]

    def _stale(self, older_than: float) -> list[ExecutionRecord]:
        rows: list[ExecutionRecord] = self._ask("executions", DRIVEN)
        return stale(rows, self._owned, now=self._stage.clock.now(), older_than=older_than)

    def overdue(self, grace: float) -> list[OverdueItem]:
        """What is overdue; nothing is, once all that is due at a moment was done at that moment."""
        return overdue(self._ask("executions", DRIVEN), now=self._stage.clock.now(), grace=grace)

    def coordinators(self) -> dict[str, tuple[str, int]]:
        """The one coordinator; all code is in this process, so its environment has no name."""
        return {self._coordinator: ("", len(self._owned))}

    def recovery(self) -> RecoveryStatus:
        """What there is to recover."""
        coordinator = CoordinatorStatus(self._coordinator, len(self._owned), ready=True)
        left = tuple(record.id for record in self._stale(0.0))
        return RecoveryStatus(coordinators=(coordinator,), driven=len(self._owned), stale=left)

    # --- a part of the stage -------------------------------------------------------------------------------
    def work(self) -> bool:
        """See Part: look at what is due, if anything has happened since the last look."""
        if self._seen == self._stage.done:
            return False
        self._seen = self._stage.done
        now, waiting = self._stage.clock.now(), self._stage.waiting
        self._wake = self._timekeeper.look(now)
        while self._collector.look(now):
            pass
        self.submit(self._ask("executions", Filter(runnable_before=now, limit=_MOST)))
        return self._stage.waiting > waiting

    def next_due(self) -> float | None:
        """See Part."""
        coming: list[ExecutionRecord] = self._ask("executions", Filter(runnable_before=math.inf, limit=_MOST))
        dues = [r.runnable_at for r in coming if r.id not in self._owned and r.runnable_at is not None]
        locks: list[Lock] = self._ask("locks", None)
        # One that lasts until a moment is over after it.
        ends = [claim.expires_at for lock in locks if lock.waiting for claim in lock.claims if claim.expires_at]
        dues.extend(math.nextafter(end, math.inf) for end in ends)
        return min([*dues, *([] if self._wake is None else [self._wake])], default=None)

    def moved(self) -> None:
        """See Part."""
        self._seen = -1

    # --- inside --------------------------------------------------------------------------------------------
    def _keep(self, config: PoolConfig) -> None:
        self._ask("save_pool", PoolRecord(config.name, config.model_dump_json().encode(), self._stage.clock.now()))
        self._open(config)

    def _open(self, config: PoolConfig) -> None:
        self.pools[config.name] = config
        self._stage.kill(actor_names.pool(config.name))
        self._stage.spawn(ActorSpec(_Pool, actor_names.pool(config.name), (config,)))

    def _ask(self, method: str, *args: Any) -> Any:
        return self._stage.perform(actor_names.PERSISTENCE, method, args)


class _Pool:
    """A pool, for those who look: it has no workers, since steps run on threads of the test."""

    def __init__(self, stage: DeterministicActorSystem, config: PoolConfig) -> None:
        self._config = config

    def configure(self) -> None:
        """Nothing: it is made anew when its configuration changes."""

    def now(self) -> PoolStatus:
        """What it does now: nothing."""
        return PoolStatus(name=self._config.name, config=self._config)
