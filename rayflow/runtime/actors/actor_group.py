"""Actors of one kind that an owner starts, adopts, watches, pings and kills.

The supervisor keeps its coordinators in such a group, a pool its workers. The group knows which of them are starting
and which are running; how many there should be, and what they do, is up to the owner.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from rayflow.errors import ClusterError
from rayflow.runtime.actors.base import ActorLost, ActorSpec, ActorSystem, ActorUnavailable, Reply, kill_async, send_to
from rayflow.runtime.actors.health import HealthMonitor

log = logging.getLogger(__name__)


class ActorGroup:
    """Life cycle of the actors of one owner. All methods and callbacks run on the owner's thread.

    A failed call is not a death: the group repeats the call, and pings reveal an actor that hangs.

    Args:
        kind: what the log calls its members.
        ping_timeout: seconds within which a member has to reply to a ping.
        started: receives the name of a member that is ready, and what its last call of the start returned.
        ended: receives the name of a member that has ended and was killed, the error (None if the member was stopped),
            and whether the member had started.
    """

    def __init__(
        self,
        kind: str,
        system: ActorSystem,
        ping_timeout: float,
        submit: Callable[[Callable[[], None]], None],
        *,
        started: Callable[[str, Any], None],
        ended: Callable[[str, BaseException | None, bool], None],
    ) -> None:
        self._kind = kind
        self._system = system
        self._submit = submit
        self._tell_started = started
        self._tell_ended = ended
        #: Members that are not ready yet, with the monotonic time of their start.
        self.starting: dict[str, float] = {}
        #: Members that are ready.
        self.running: dict[str, None] = {}
        self._monitor = HealthMonitor(system, ping_timeout, submit, self._hangs, self._is_lost)

    def start(self, spec: ActorSpec, *given: object) -> None:
        """Create an actor. Raises ClusterError if the system cannot create it now.

        Args:
            spec: the actor.
            given: arguments of its ``ready``.
        """
        self._system.spawn(spec)
        self._prepare(spec.name, [("ready", *given)])

    def adopt(self, name: str, *given: object, census: bool = False) -> None:
        """Take over an actor that an earlier owner has started, and perhaps not yet made ready.

        Args:
            name: the actor.
            given: arguments of its ``ready``.
            census: pass the result of its ``census`` to ``started``.
        """
        ready = ("ready", *given)
        self._prepare(name, [ready, ("census",)] if census else [ready])

    def _prepare(self, name: str, calls: Sequence[tuple[Any, ...]]) -> None:
        self.starting.setdefault(name, time.monotonic())
        method, *arguments = calls[0]
        then, group = partial(self._prepared, name, calls), "" if method == "ready" else "control"
        self.send(name, method, then, *arguments, group=group)

    def _prepared(self, name: str, calls: Sequence[tuple[Any, ...]], reply: Reply) -> None:
        if name not in self.starting:
            return  # stopped in the meantime
        if isinstance(reply.error, ActorUnavailable):
            self._prepare(name, calls)
        elif reply.error is not None:
            self.end(name, reply.error)
        elif calls[1:]:
            self._prepare(name, calls[1:])
        else:
            del self.starting[name]
            self.running[name] = None
            self.watch(name)
            self._tell_started(name, reply.value)

    def watch(self, name: str) -> None:
        """Open the call that ends when the member stops or dies."""
        self.send(name, "watch", partial(self._watch_ended, name), group="watch")

    def _watch_ended(self, name: str, reply: Reply) -> None:
        if name not in self.running:
            return
        if isinstance(reply.error, ActorUnavailable):
            self.watch(name)
        else:
            self.end(name, reply.error)

    def send(
        self, name: str, method: str, then: Callable[[Reply], None], *arguments: object, group: str = "control"
    ) -> None:
        """Call a method of an actor without waiting; ``then`` receives the reply on the owner's thread."""

        def replied(reply: Reply) -> None:
            self._submit(partial(then, reply))

        send_to(self._system, name, method, *arguments, then=replied, group=group)

    def ping_all(self) -> None:
        """Ping all running members; those that stay silent for too long are killed."""
        for name in list(self.running):
            self.ping(name)

    def ping(self, name: str) -> None:
        """Ping one running member."""
        if name in self.running:
            self._monitor.ping(name)

    def check(self) -> None:
        """Kill the members that have been silent for too long."""
        self._monitor.check()

    def silent(self) -> dict[str, float]:
        """Return the members that have been silent for too long, with the seconds since the unanswered ping."""
        return self._monitor.silent()

    def _hangs(self, name: str, why: str) -> None:
        self.end(name, ClusterError(why))

    def _is_lost(self, name: str) -> None:
        if name in self.running:
            self.end(name, ActorLost(name))

    def end(self, name: str, why: BaseException | None) -> None:
        """Kill an actor and report its end."""
        if why is None:
            log.info("%s %s was stopped", self._kind, name)
        else:
            log.warning("%s %s is down: %s", self._kind, name, why)
        had_started = name not in self.starting
        self.kill(name)
        self._tell_ended(name, why, had_started)

    def kill(self, name: str) -> None:
        """Kill an actor without a report."""
        self.forget(name)
        kill_async(self._system, name)

    def forget(self, name: str) -> None:
        """Remove a member from the group. Its process continues."""
        self.starting.pop(name, None)
        self.running.pop(name, None)
        self._monitor.forget(name)
