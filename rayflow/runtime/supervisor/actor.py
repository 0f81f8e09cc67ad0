"""Supervisor actor: the actor methods in front of :class:`~rayflow.runtime.supervisor.supervisor.Supervisor`."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from rayflow.core.cluster.recovery import OverdueItem, RecoveryStatus
from rayflow.definition.options import PoolConfig
from rayflow.errors import ClusterError
from rayflow.runtime.actors import actor_names
from rayflow.runtime.actors.base import ActorSpec, ActorSystem
from rayflow.runtime.code.environment import Environment, Variables, supplied
from rayflow.runtime.settings import Settings
from rayflow.runtime.supervisor.supervisor import Supervisor
from rayflow.storage.model import ExecutionRecord


class SupervisorActor:
    """Actor that assigns executions to coordinators and repairs failures of actors."""

    def __init__(self, system: ActorSystem, settings: Settings) -> None:
        self._settings = settings
        self._supervisor = Supervisor(system, settings)
        # Started here, because nothing calls the actor when the system has restarted it.
        self._supervisor.start()

    def ready(self) -> Settings:
        """Return the settings of the namespace."""
        return self._settings

    def environment(self, text: str, variables: Variables) -> None:
        """Have a coordinator and workers ready for a code environment, because an engine uses it."""
        env = Environment.from_json(text)
        self._supervisor.mailbox.submit(lambda: self._supervisor.prepare_environment(env, variables))

    def known_environment(self, environment: str) -> tuple[Environment, Variables]:
        """Return a code environment and its variables, for a pool. Raises ClusterError if one of them is unknown."""
        coordinators = self._supervisor.coordinators
        known = coordinators.environments.get(environment)
        if known is None:
            raise ClusterError(f"the supervisor does not know code environment {environment!r} yet")
        return known, supplied(known, coordinators.variables.get(environment))

    def save_pool(self, config: str) -> None:
        """Create or change a pool, given its configuration as JSON. Raises StorageUnavailable."""
        made = PoolConfig.model_validate_json(config)
        self._supervisor.mailbox.call(lambda: self._supervisor.pools.save(made))

    def delete_pool(self, name: str) -> None:
        """Delete a pool and its workers. Raises InvalidArgument."""
        self._supervisor.mailbox.call(lambda: self._supervisor.pools.delete(name))

    def submit(self, records: Sequence[ExecutionRecord], code: str = "") -> None:
        """Have executions driven that were started.

        Args:
            records: the executions.
            code: fingerprint of the code that the client has now; "" for the fingerprints of the records.
        """
        self._supervisor.mailbox.submit(lambda: self._supervisor.submit(records, code=code))

    def notify(self, ids: Sequence[str], code: str = "") -> None:
        """Have executions driven that have new rows in their inboxes.

        Args:
            ids: the executions.
            code: fingerprint of the code that the client has now, for executions that are parked; "" if it has none.
        """
        self._supervisor.mailbox.submit(lambda: self._supervisor.notify(ids, code))

    def released(self, coordinator: str, epochs: Mapping[str, int]) -> None:
        """Receive that a coordinator has finished or parked executions, given with its epochs of them."""
        self._supervisor.mailbox.submit(lambda: self._supervisor.released(coordinator, epochs))

    def superseded(self, coordinator: str, epochs: Mapping[str, int]) -> None:
        """Receive that a coordinator has lost executions to another one."""
        self._supervisor.mailbox.submit(lambda: self._supervisor.superseded(coordinator, epochs))

    def outdated(self, coordinator: str, epochs: Mapping[str, int]) -> None:
        """Receive that a coordinator returns executions because its code has been edited since it was loaded."""
        self._supervisor.mailbox.submit(lambda: self._supervisor.outdated(coordinator, epochs))

    def recover(self, ids: Sequence[str] | None = None, older_than: float = 0.0) -> list[str]:
        """Resume unfinished executions that have no live coordinator, and return them.

        Args:
            ids: only these; None for all.
            older_than: only executions without activity for this many seconds.

        Raises:
            RayflowError: if the store cannot be read now.
        """
        return self._supervisor.mailbox.call(lambda: self._supervisor.recovery_loop.recover(ids, older_than))

    def overdue(self, grace: float) -> list[OverdueItem]:
        """Return items overdue by more than ``grace`` seconds, and resume those without a coordinator."""
        return self._supervisor.mailbox.call(lambda: self._supervisor.recovery_loop.overdue(grace))

    def recovery(self) -> RecoveryStatus:
        """Return the current state of the recovery."""
        return self._supervisor.mailbox.call(self._supervisor.recovery)

    def coordinators(self) -> dict[str, tuple[str, int]]:
        """Return the code environment of each coordinator, and the number of executions that it drives."""
        slots = list(self._supervisor.coordinators.slots.values())
        return {slot.name: (slot.environment, len(slot.executions)) for slot in slots}

    def ping(self) -> bool:
        """Return True, or raise what ended the supervisor's thread."""
        self._supervisor.mailbox.check()
        return True

    def pid(self) -> int:
        """Return the id of the actor's process."""
        return os.getpid()

    def stop(self) -> None:
        """Stop supervising. Other actors continue."""
        self._supervisor.mailbox.stop()


def supervisor_spec(settings: Settings) -> ActorSpec:
    """Return the specification of the supervisor actor."""
    return ActorSpec(
        cls=SupervisorActor,
        name=actor_names.SUPERVISOR,
        args=(settings,),
        groups={"control": 2},
        restart=True,
        pinned=True,
    )
