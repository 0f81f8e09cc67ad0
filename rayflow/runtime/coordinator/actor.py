"""Coordinator actor: the actor methods in front of :class:`~rayflow.runtime.coordinator.coordinator.Coordinator`.

Ray wraps every method of an actor's class, including those that the class calls itself, so the logic is a separate
class.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence

from rayflow.core.cluster.recovery import OverdueItem
from rayflow.core.execution.actions import LiveTask
from rayflow.core.pool.slots import Key
from rayflow.runtime.actors.base import ActorSystem
from rayflow.runtime.code import environment
from rayflow.runtime.coordinator.coordinator import Coordinator
from rayflow.runtime.coordinator.progress import Progress
from rayflow.runtime.settings import Settings
from rayflow.runtime.worker.heartbeat import Heartbeat
from rayflow.storage.model import ExecutionRecord


class CoordinatorActor:
    """The actor that drives executions.

    Args:
        coordinator: creates the coordinator's logic.
    """

    def __init__(
        self,
        system: ActorSystem,
        name: str,
        env: environment.Environment,
        settings: Settings,
        coordinator: Callable[..., Coordinator] = Coordinator,
    ) -> None:
        self._name = name
        self._env = env
        self._coordinator = coordinator(system, name, env, settings)
        self._starting = threading.Lock()
        self._variables: environment.Variables | None = None

    def __repr__(self) -> str:
        return self._name

    def ready(self, variables: environment.Variables | None = None) -> str:
        """Apply the code environment, start, and return the actor's name.

        Args:
            variables: the variables of the code environment; None if they are unknown, which suffices after the start.

        Raises:
            ClusterError: if the coordinator has not started, and needs variables that are unknown.
        """
        with self._starting:
            if self._variables is None:
                supplied = environment.supplied(self._env, variables)
                supplied.apply()
                environment.apply(self._env)
                self._variables = supplied
                self._coordinator.start()
        return self._name

    def environment(self) -> tuple[environment.Environment, environment.Variables | None]:
        """Return the code environment and its variables; None for the variables before the start."""
        return self._env, self._variables

    def assign(self, records: Sequence[ExecutionRecord], requested: Sequence[str] = ()) -> None:
        """Drive executions, if their epochs still equal those of the records.

        Args:
            records: the executions.
            requested: fingerprints of the code that clients have now; the loaded code must not be older.
        """
        self._coordinator.mailbox.submit(lambda: self._coordinator.assign(records, requested))

    def notify(self, ids: Sequence[str]) -> None:
        """Read the inboxes of executions."""
        self._coordinator.mailbox.submit(lambda: self._coordinator.read_inboxes(ids))

    def slots(self, data: bytes) -> None:
        """Apply a pool's decisions about slots: grants, recalls and revoked leases."""
        self._coordinator.mailbox.submit(lambda: self._coordinator.slots(data))

    def output(self, execution_id: str, seq: int, step: str, lines: Sequence[str]) -> None:
        """Receive output of a running step."""
        self._coordinator.output_buffer.add(execution_id, lines)

    def heartbeat(self, key: Key, epoch: int, beat: tuple[bytes | None, bool]) -> None:
        """Receive a heartbeat of a step: its progress, and whether its code has finished."""
        self._coordinator.mailbox.submit(lambda: self._coordinator.heartbeat(key, epoch, Heartbeat(*beat)))

    def begun(self, execution_id: str, seq: int, attempt: int, epoch: int, at: float) -> None:
        """Receive that a step has begun as a Ray task."""
        self._coordinator.mailbox.submit(lambda: self._coordinator.begun((execution_id, seq, attempt), epoch, at))

    def live(self, execution_id: str) -> list[tuple[LiveTask, str]]:
        """Return the unfinished steps of an execution, each with its worker."""
        return self._coordinator.mailbox.call(lambda: self._coordinator.live(execution_id))

    def overdue(self, grace: float) -> list[OverdueItem]:
        """Return the attempts that should have ended more than ``grace`` seconds ago."""
        return self._coordinator.mailbox.call(lambda: self._overdue(self._coordinator.now(), grace))

    def _overdue(self, now: float, grace: float) -> list[OverdueItem]:
        return [
            OverdueItem(name, "step", task.name, task.due, now - task.due, self._name)
            for name in self._coordinator.census()
            for task, _ in self._coordinator.live(name)
            if task.due and task.due + grace < now
        ]

    def progress(self, execution_id: str, cursor: int = 0) -> Progress:
        """Return how far an execution is, and the output of its steps since a cursor."""
        return self._coordinator.progress(execution_id, cursor)

    def census(self) -> dict[str, int]:
        """Return the executions that are driven here, with their epochs."""
        return self._coordinator.census()

    def ping(self) -> bool:
        """Return True, or raise what ended the coordinator's thread."""
        self._coordinator.mailbox.check()
        return True

    def pid(self) -> int:
        """Return the id of the actor's process."""
        return os.getpid()

    def watch(self) -> None:
        """Block until the coordinator stops. The call fails at once when its process dies."""
        self._coordinator.mailbox.wait()

    def stop(self) -> None:
        """Stop. Other coordinators resume its executions."""
        self._coordinator.stop()
