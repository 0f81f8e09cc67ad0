"""Health checks by ping: finds actors that hang, which no death notice reports.

:class:`~rayflow.core.cluster.recovery.HeartbeatTracker` decides which actors have been silent for too long; this shell
sends the pings. A ping goes to the actor's ``ping`` method in the concurrency group ``control``, so a busy actor
replies too; an actor that knows itself to be broken raises there. A hung actor is killed and its work is repeated, so
two rules protect the living: a reply counts from the moment it arrives, and time in which the monitor's owner does not
run (it waits for the store, or its process is stopped) does not count.
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
    """Pings actors and reports those that hang, are broken or are dead.

    All methods and callbacks run on the owner's thread.

    Args:
        timeout: seconds within which an actor has to reply.
        failed: receives the name of an actor that hangs or is broken, and why. It is pinged again only on request.
        gone: receives the name of a dead actor; None if the system restarts dead actors itself.
    """

    def __init__(
        self,
        system: ActorSystem,
        timeout: float,
        submit: Callable[[Callable[[], None]], None],
        failed: Callable[[str, str], None],
        gone: Callable[[str], None] | None = None,
    ) -> None:
        self._system = system
        self._submit = submit
        self._failed = failed
        self._gone = gone
        self._timeout = timeout
        self._tracker = HeartbeatTracker(timeout)
        #: Replies that are not processed yet; the system's threads append to it.
        self._arrived: deque[tuple[str, Reply]] = deque()
        self._processed_at = time.monotonic()

    def ping(self, name: str) -> None:
        """Ping an actor, unless its last reply is still due; then check all open pings."""
        self._process_replies()
        if self._tracker.ask(name, time.monotonic()):

            def replied(reply: Reply) -> None:
                self._arrived.append((name, reply))
                self._submit(self._process_replies)

            send_to(self._system, name, "ping", then=replied, group="control")
        self.check()

    def check(self) -> None:
        """Report the actors that have been silent for too long."""
        for name, seconds in self.silent().items():
            self._report(name, f"no reply to a ping for {seconds:.1f} s")

    def silent(self) -> dict[str, float]:
        """Return the actors that have been silent for too long, with the seconds since the unanswered ping."""
        self._process_replies()
        return self._tracker.silent(time.monotonic())

    def forget(self, name: str) -> None:
        """Drop the open ping of an actor."""
        self._tracker.forget(name)

    def _process_replies(self) -> None:
        while self._arrived:
            self._replied(*self._arrived.popleft())
        now = time.monotonic()
        if now - self._processed_at > self._timeout / 2:
            self._tracker.extend_deadlines(now - self._processed_at)
        self._processed_at = now

    def _replied(self, name: str, reply: Reply) -> None:
        error = reply.error
        if error is None:
            self._tracker.answered(name)
        elif not isinstance(error, ActorLost | ActorUnavailable):
            self._report(name, f"it is broken: {error}")
        elif self._gone is None:
            self._tracker.forget(name)
        elif isinstance(error, ActorLost):
            self._tracker.forget(name)
            self._gone(name)
        else:  # perhaps its node is unreachable
            self._tracker.answered(name, alive=False)

    def _report(self, name: str, why: str) -> None:
        self._tracker.forget(name)
        self._failed(name, why)


def restarting_monitor(
    system: ActorSystem, timeout: float, submit: Callable[[Callable[[], None]], None]
) -> HealthMonitor:
    """Return a monitor for actors that the system restarts when they die: it kills those that hang."""

    def restart(name: str, why: str) -> None:
        log.error("killing %s so that it is restarted: %s", name, why)
        kill_async(system, name, restart=True)

    return HealthMonitor(system, timeout, submit, restart)
