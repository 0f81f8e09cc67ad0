"""The actor system of a test: all actors on one thread, which does one thing after another.

Calls of actors among each other are done at once, what they send is done in order. What somebody outside reads is what
has settled: first everything happens that can happen at this moment.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any

from rayflow.errors import ClusterError
from rayflow.runtime.actors.base import Actor, ActorLost, ActorSpec, Reply, RunningTask, TaskSpec
from rayflow.runtime.actors.in_process import InProcessSystem
from rayflow.testing.virtual_time import VirtualTimeLoop, in_step

#: What is only answered once everything has happened that can happen at this moment.
SETTLED = frozenset({
    "execution", "executions", "journal", "inbox", "notes", "locks", "schedules", "versions", "dead_letters", "totals",
    "live", "progress", "status",
})  # fmt: skip


class DeterministicActorSystem(InProcessSystem, VirtualTimeLoop):
    """See the module's docstring; for the rest :class:`~rayflow.runtime.actors.base.ActorSystem`.

    Args:
        now: what the clock shows at first, in seconds since the epoch.
        patience: seconds of real time for which whoever only looks waits for a real step.
    """

    def __init__(self, now: float, patience: float) -> None:
        # Its own, so that it is told from another process that writes the same store.
        self.identity = f"test/{uuid.uuid4().hex}"
        self._actors: dict[str, Any] = {}
        super().__init__(now, patience)

    # --- the actor system ----------------------------------------------------------------------------------
    def spawn(self, spec: ActorSpec) -> Actor:
        """See ActorSystem. An actor that has parts adds them by :meth:`add`."""

        def make() -> None:
            if spec.name not in self._actors:
                self._actors[spec.name] = spec.cls(self, *spec.args)

        self.ask(make)
        return _Handle(self, spec.name)

    def find(self, name: str) -> Actor:
        """See ActorSystem."""
        self.actor(name)
        return _Handle(self, name)

    def names(self) -> list[str]:
        """See ActorSystem."""
        return list(self._actors)

    def kill(self, name: str, *, restart: bool = False) -> None:
        """Forget an actor; nobody restarts it."""
        self._actors.pop(name, None)

    def cpus(self) -> float:
        """One: everything happens on one thread."""
        return 1.0

    def run(self, spec: TaskSpec, then: Callable[[Reply], None]) -> RunningTask:
        """Nothing: steps with resources of their own run like all others."""
        raise ClusterError(f"a test has no processes of its own: {spec.name} cannot be run")

    def actor(self, name: str) -> Any:
        """The object that is the actor. Raises ActorLost if there is none."""
        if name not in self._actors:
            raise ActorLost(name, "there is no actor of that name")
        return self._actors[name]

    def perform(self, name: str, method: str, args: tuple[Any, ...]) -> Any:
        """Call a method of an actor. On the stage only."""
        return getattr(self.actor(name), method)(*args)

    def send(self, name: str, method: str, args: tuple[Any, ...], then: Callable[[Reply], None] | None) -> None:
        """Have a method of an actor called in its turn."""

        def do() -> None:
            try:
                reply = Reply(value=self.perform(name, method, args))
            except Exception as error:  # noqa: BLE001 - whatever it is, it is the sender's
                reply = Reply(error=error)
            if then is not None:
                then(reply)

        if self.here:
            self._sent.append(do)
        else:
            self._inbox.put(lambda: self._sent.append(do))


class _Handle:
    """A handle on an actor of the stage."""

    def __init__(self, stage: DeterministicActorSystem, name: str) -> None:
        self.name = name
        self._stage = stage

    def call(self, method: str, *args: Any, timeout: float | None = None, group: str = "") -> Any:
        """See :class:`~rayflow.runtime.actors.base.Actor`. From outside, what is read is what has settled."""
        settled = method in SETTLED and not self._stage.here and in_step() is None

        def ask() -> Any:
            if settled:
                self._stage.settle(self._stage.patience)
            return self._stage.perform(self.name, method, args)

        return self._stage.ask(ask)

    def send(
        self,
        method: str,
        *args: Any,
        then: Callable[[Reply], None] | None = None,
        group: str = "",
        label: str = "",
    ) -> None:
        """See :class:`~rayflow.runtime.actors.base.Actor`."""
        self._stage.send(self.name, method, args, then)
