"""Deterministic actor system of a test: all actors on one thread.

Calls between actors run immediately, sent messages run in order. A read from outside the thread first lets everything
run that can run at the current time.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any

from rayflow.errors import ClusterError
from rayflow.runtime.actors.base import Actor, ActorLost, ActorSpec, Reply, RunningTask, TaskSpec
from rayflow.runtime.actors.in_process import InProcessSystem
from rayflow.testing.virtual_time import VirtualTimeLoop, in_step

#: Methods that read from outside only after everything has run that can run at the current time.
SETTLED = frozenset({
    "execution", "executions", "journal", "inbox", "notes", "locks", "schedules", "versions", "dead_letters", "totals",
    "live", "progress", "status",
})  # fmt: skip


class DeterministicActorSystem(InProcessSystem, VirtualTimeLoop):
    """Actor system on one thread with virtual time, see :class:`~rayflow.runtime.actors.base.ActorSystem`."""

    def __init__(self, now: float, patience: float) -> None:
        # Unique, to distinguish this writer from another process that writes the same store.
        self.identity = f"test/{uuid.uuid4().hex}"
        self._actors: dict[str, Any] = {}
        super().__init__(now, patience)

    def spawn(self, spec: ActorSpec) -> Actor:
        """Create an actor in this process; an actor adds its parts by :meth:`add`."""

        def make() -> None:
            if spec.name not in self._actors:
                self._actors[spec.name] = spec.cls(self, *spec.args)

        self.ask(make)
        return _Handle(self, spec.name)

    def find(self, name: str) -> Actor:
        """Return the handle of an actor. Raises ActorLost if it does not exist."""
        self.actor(name)
        return _Handle(self, name)

    def names(self) -> list[str]:
        """Return the names of all actors."""
        return list(self._actors)

    def kill(self, name: str, *, restart: bool = False) -> None:
        """Remove an actor without a restart."""
        self._actors.pop(name, None)

    def cpus(self) -> float:
        """Return 1: everything runs on one thread."""
        return 1.0

    def run(self, spec: TaskSpec, then: Callable[[Reply], None]) -> RunningTask:
        """Refuse: a step with its own resources runs like all others."""
        raise ClusterError(f"cannot run {spec.name!r}: a test starts no processes")

    def actor(self, name: str) -> Any:
        """Return an actor's object. Raises ActorLost if it does not exist."""
        if name not in self._actors:
            raise ActorLost(name, "no actor has that name")
        return self._actors[name]

    def perform(self, name: str, method: str, args: tuple[Any, ...]) -> Any:
        """Call a method of an actor, on the thread only."""
        return getattr(self.actor(name), method)(*args)

    def send(self, name: str, method: str, args: tuple[Any, ...], then: Callable[[Reply], None] | None) -> None:
        """Call a method of an actor later, in order."""

        def do() -> None:
            try:
                reply = Reply(value=self.perform(name, method, args))
            except Exception as error:  # noqa: BLE001 - the sender handles the error
                reply = Reply(error=error)
            if then is not None:
                then(reply)

        if self.here:
            self._sent.append(do)
        else:
            self._inbox.put(lambda: self._sent.append(do))


class _Handle:
    """Handle of an actor in this process."""

    def __init__(self, system: DeterministicActorSystem, name: str) -> None:
        self.name = name
        self._system = system

    def call(self, method: str, *args: Any, timeout: float | None = None, group: str = "") -> Any:
        """Call a method; a read from outside the thread waits until the system has settled."""
        settled = method in SETTLED and not self._system.here and in_step() is None

        def ask() -> Any:
            if settled:
                self._system.settle(self._system.patience)
            return self._system.perform(self.name, method, args)

        return self._system.ask(ask)

    def send(
        self,
        method: str,
        *args: Any,
        then: Callable[[Reply], None] | None = None,
        group: str = "",
        label: str = "",
    ) -> None:
        """Call a method later, in order."""
        self._system.send(self.name, method, args, then)
