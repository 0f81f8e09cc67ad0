"""Signs of life: finds actors that hang, which nobody's death notice tells of.

Who has been silent for too long is decided by :class:`~rayflow.core.cluster.recovery.HeartbeatTracker`; this shell
sends the questions. A question goes to the actor's ``ping`` in a group of threads of its own, so a busy actor answers
all the same; one that knows itself to be broken raises there. An answer counts from the moment when it arrives, and
time in which its owner does not listen (it waits for the store, or is stopped itself) counts against nobody: who is
taken for hung is killed, and all that was under way there is done again.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable

from rayflow.core.cluster.recovery import HeartbeatTracker
from rayflow.runtime.actors.base import ActorLost, ActorSystem, ActorUnavailable, Reply, kill_async, send_to

log = logging.getLogger(__name__)


class HealthMonitor:
    """Pings actors. Everything is called on its owner's one thread, also what it calls.

    Args:
        system: where they are found.
        patience: seconds that one may take to answer.
        post: runs an action on the owner's thread.
        failed: told of an actor that does not answer or is broken, with why, in words. It is not pinged any more
            until it is asked for again.
        gone: told of an actor that is dead; None where the system makes it anew by itself: then one that cannot be
            reached is taken for one that restarts.
    """

    def __init__(
        self,
        system: ActorSystem,
        patience: float,
        post: Callable[[Callable[[], None]], None],
        failed: Callable[[str, str], None],
        gone: Callable[[str], None] | None = None,
    ) -> None:
        self._system = system
        self._post = post
        self._failed = failed
        self._gone = gone
        self._patience = patience
        self._pulse = HeartbeatTracker(patience)
        #: Answers that have arrived and are not dealt with yet; appended by the system's threads.
        self._arrived: deque[tuple[str, Reply]] = deque()
        self._listened = time.monotonic()

    def ping(self, name: str) -> None:
        """Ask an actor, unless it owes an answer; then see for how long it has."""
        self._listen()
        if self._pulse.ask(name, time.monotonic()):

            def reply(answer: Reply) -> None:
                self._arrived.append((name, answer))
                self._post(self._listen)

            send_to(self._system, name, "ping", then=reply, group="control")
        self.look()

    def look(self) -> None:
        """See who has not answered for too long."""
        for name, seconds in self.silent().items():
            self._fails(name, f"it has not answered for {seconds:.1f} s")

    def silent(self) -> dict[str, float]:
        """Who has not answered for too long, and for how many seconds."""
        self._listen()
        return self._pulse.silent(time.monotonic())

    def forget(self, name: str) -> None:
        """Nobody asks this one any more."""
        self._pulse.forget(name)

    def _listen(self) -> None:
        """Deal with what has arrived."""
        while self._arrived:
            self._answered(*self._arrived.popleft())
        now = time.monotonic()
        if now - self._listened > self._patience / 2:
            self._pulse.extend_deadlines(now - self._listened)
        self._listened = now

    def _answered(self, name: str, answer: Reply) -> None:
        error = answer.error
        if error is None:
            self._pulse.answered(name)
        elif not isinstance(error, ActorLost | ActorUnavailable):
            self._fails(name, f"it is broken: {error}")
        elif self._gone is None:
            self._pulse.forget(name)
        elif isinstance(error, ActorLost):
            self._pulse.forget(name)
            self._gone(name)
        else:  # it may be on a node that nobody reaches
            self._pulse.answered(name, alive=False)

    def _fails(self, name: str, why: str) -> None:
        self._pulse.forget(name)
        self._failed(name, why)


def keeping_alive(system: ActorSystem, patience: float, post: Callable[[Callable[[], None]], None]) -> HealthMonitor:
    """Pings for actors that the system makes anew when they die, but not when they hang: those are killed.

    Args:
        system: where they are found.
        patience: seconds that one may take to answer.
        post: runs an action on the owner's thread.
    """

    def replace(name: str, why: str) -> None:
        log.error("%s is killed and made anew: %s", name, why)
        kill_async(system, name, restart=True)

    return HealthMonitor(system, patience, post, replace)
