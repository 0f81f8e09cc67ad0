"""The supervisor actor: the door to a :class:`~rayflow.runtime.supervisor.supervisor.Supervisor`."""

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
    """Sees to it that every execution that needs a coordinator has one.

    Args:
        system: where actors are made and found.
        settings: shared by all actors of the namespace.
    """

    def __init__(self, system: ActorSystem, settings: Settings) -> None:
        self._settings = settings
        self._overseer = Supervisor(system, settings)
        # Here, since nobody calls it when the system has made it anew.
        self._overseer.start()

    def ready(self) -> Settings:
        """The settings that it was made with."""
        return self._settings

    def environment(self, text: str, variables: Variables) -> None:
        """An engine of this code environment is at work: have a coordinator and workers ready."""
        env = Environment.from_json(text)
        self._overseer.turns.post(lambda: self._overseer.want_environment(env, variables))

    def known_environment(self, environment: str) -> tuple[Environment, Variables]:
        """The code environment of that id with its variables, for a pool that was restarted. Raises ClusterError."""
        known = self._overseer.fleet.environments.get(environment)
        if known is None:
            raise ClusterError(f"the supervisor knows no code environment {environment!r} yet")
        return known, supplied(known, self._overseer.fleet.variables.get(environment))

    def save_pool(self, config: str) -> None:
        """Make a pool, or change it: its configuration as JSON. Raises StorageUnavailable."""
        made = PoolConfig.model_validate_json(config)
        self._overseer.turns.ask(lambda: self._overseer.pools.save(made))

    def delete_pool(self, name: str) -> None:
        """Delete a pool and its workers. Raises DefinitionError."""
        self._overseer.turns.ask(lambda: self._overseer.pools.delete(name))

    def submit(self, records: Sequence[ExecutionRecord], code: str = "") -> None:
        """These executions were started: have them driven.

        Args:
            records: their rows.
            code: fingerprint of the code that the client has now; "" for that of the rows.
        """
        self._overseer.turns.post(lambda: self._overseer.submit(records, code=code))

    def nudge(self, ids: Sequence[str], code: str = "") -> None:
        """Something was put into the inboxes of these executions.

        Args:
            ids: the executions.
            code: fingerprint of the code that the client has now, for those that are not driven; "" if it has none.
        """
        self._overseer.turns.post(lambda: self._overseer.nudge(ids, code))

    def released(self, coordinator: str, epochs: Mapping[str, int]) -> None:
        """A coordinator does not drive these executions, given with its epochs of them, any more."""
        self._overseer.turns.post(lambda: self._overseer.released(coordinator, epochs))

    def superseded(self, coordinator: str, epochs: Mapping[str, int]) -> None:
        """The same, since somebody else has them."""
        self._overseer.turns.post(lambda: self._overseer.superseded(coordinator, epochs))

    def outdated(self, coordinator: str, epochs: Mapping[str, int]) -> None:
        """A coordinator's code was edited since it loaded it: it does not take these executions up."""
        self._overseer.turns.post(lambda: self._overseer.outdated(coordinator, epochs))

    def recover(self, ids: Sequence[str] | None = None, older_than: float = 0.0) -> list[str]:
        """Take up unfinished executions that have no live coordinator; answers which.

        Args:
            ids: only these; None for all.
            older_than: only those for which nothing was done for so many seconds.

        Raises:
            RayflowError: the store cannot be read now.
        """
        return self._overseer.turns.ask(lambda: self._overseer.recovering.recover(ids, older_than))

    def overdue(self, grace: float) -> list[OverdueItem]:
        """Executions whose deadline or waking is overdue by more than so many seconds; nobody's are taken up."""
        return self._overseer.turns.ask(lambda: self._overseer.recovering.overdue(grace))

    def recovery(self) -> RecoveryStatus:
        """What the recovery knows and does now."""
        return self._overseer.turns.ask(self._overseer.recovery)

    def coordinators(self) -> dict[str, tuple[str, int]]:
        """Every coordinator: its environment and the number of executions it drives."""
        return {p.name: (p.environment, len(p.executions)) for p in list(self._overseer.fleet.places.values())}

    def ping(self) -> bool:
        """Answer. Raises whatever ended its thread."""
        self._overseer.turns.check()
        return True

    def pid(self) -> int:
        """The id of its process."""
        return os.getpid()

    def stop(self) -> None:
        """Stop supervising. Other actors stay as they are."""
        self._overseer.turns.stop()


def supervisor_spec(settings: Settings) -> ActorSpec:
    """How the supervisor is made."""
    return ActorSpec(
        cls=SupervisorActor,
        name=actor_names.SUPERVISOR,
        args=(settings,),
        groups={"control": 2},
        restart=True,
        pinned=True,
    )
