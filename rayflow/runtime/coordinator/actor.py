"""The coordinator actor: the door to a :class:`~rayflow.runtime.coordinator.coordinator.Coordinator`.

Ray wraps every method of an actor's class, also those that it calls itself; so the class that has the work to do is
another one.
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
    """Drives executions. See :mod:`rayflow.runtime.coordinator.coordinator`.

    Args:
        system: where the other actors are found.
        name: its own name.
        env: its code environment.
        settings: shared by all actors of the namespace.
        conductor: makes what does the work.
    """

    def __init__(
        self,
        system: ActorSystem,
        name: str,
        env: environment.Environment,
        settings: Settings,
        conductor: Callable[..., Coordinator] = Coordinator,
    ) -> None:
        self._name = name
        self._env = env
        self._conductor = conductor(system, name, env, settings)
        self._begun = threading.Lock()
        self._variables: environment.Variables | None = None

    def __repr__(self) -> str:
        return self._name

    def ready(self, variables: environment.Variables | None = None) -> str:
        """Load what it needs and begin; answers its name.

        Args:
            variables: those of its code environment; None if they are not known, which is enough once it has begun.

        Raises:
            ClusterError: it has not begun, and needs variables that are not known.
        """
        with self._begun:
            if self._variables is None:
                self._variables = environment.supplied(self._env, variables)
                self._variables.apply()
                environment.apply(self._env)
                self._conductor.start()
        return self._name

    def environment(self) -> tuple[environment.Environment, environment.Variables | None]:
        """Its code environment with the variables; None for those as long as it has not begun."""
        return self._env, self._variables

    def assign(self, records: Sequence[ExecutionRecord], asked: Sequence[str] = ()) -> None:
        """Drive these executions, if their epochs still are those of the records.

        Args:
            records: their rows.
            asked: fingerprints of the code that clients have now; the loaded code must not be older.
        """
        self._conductor.turns.post(lambda: self._conductor.assign(records, asked))

    def nudge(self, ids: Sequence[str]) -> None:
        """Look into the inboxes of these executions."""
        self._conductor.turns.post(lambda: self._conductor.read_inboxes(ids))

    def slots(self, data: bytes) -> None:
        """A pool grants, recalls or voids slots by itself."""
        self._conductor.turns.post(lambda: self._conductor.slots(data))

    def output(self, execution_id: str, seq: int, step: str, lines: Sequence[str]) -> None:
        """A step that still runs printed something."""
        self._conductor.prints.add(execution_id, lines)

    def beat(self, key: Key, epoch: int, beat: tuple[bytes | None, bool]) -> None:
        """A step says that it is alive, how far it is, and whether its code is done."""
        self._conductor.turns.post(lambda: self._conductor.beat(key, epoch, Heartbeat(*beat)))

    def begun(self, execution_id: str, seq: int, attempt: int, epoch: int, at: float) -> None:
        """A step that is a Ray task of its own has begun."""
        self._conductor.turns.post(lambda: self._conductor.begun((execution_id, seq, attempt), epoch, at))

    def live(self, execution_id: str) -> list[tuple[LiveTask, str]]:
        """The unanswered steps of an execution, each with the worker that has it."""
        return self._conductor.turns.ask(lambda: self._conductor.live(execution_id))

    def overdue(self, grace: float) -> list[OverdueItem]:
        """The attempts driven here whose time was up more than so many seconds ago, and that nobody has ended."""
        return self._conductor.turns.ask(lambda: self._overdue(self._conductor.now(), grace))

    def _overdue(self, now: float, grace: float) -> list[OverdueItem]:
        return [
            OverdueItem(name, "step", task.name, task.due, now - task.due, self._name)
            for name in self._conductor.census()
            for task, _ in self._conductor.live(name)
            if task.due and task.due + grace < now
        ]

    def progress(self, execution_id: str, cursor: int = 0) -> Progress:
        """How far an execution is, and the new output of its steps since a cursor."""
        return self._conductor.progress(execution_id, cursor)

    def census(self) -> dict[str, int]:
        """The executions driven here, with their epochs."""
        return self._conductor.census()

    def ping(self) -> bool:
        """Answer. Raises whatever ended its thread: its executions have to be taken up elsewhere then."""
        self._conductor.turns.check()
        return True

    def pid(self) -> int:
        """The id of its process."""
        return os.getpid()

    def watch(self) -> None:
        """Block until it is stopped: whoever calls this learns at once when its process dies."""
        self._conductor.turns.wait()

    def stop(self) -> None:
        """Stop. Its executions are taken up elsewhere."""
        self._conductor.stop()
