"""Keeps a singleton alive that the system makes anew when it dies, but not when it hangs."""

from __future__ import annotations

import logging
import threading
import time

from rayflow.runtime.system import ActorLost, ActorSystem, ActorUnavailable, Reply, kill_aside, send_to

log = logging.getLogger(__name__)


class Ping:
    """Pings one actor; if it does not answer for long, or says that it is broken, it is killed and made anew.

    Args:
        system: where it is found.
        name: its name.
        patience: seconds that it may take to answer.
    """

    def __init__(self, system: ActorSystem, name: str, patience: float) -> None:
        self._system = system
        self._name = name
        self._patience = patience
        self._lock = threading.Lock()
        self._asked: float | None = None

    def ping(self) -> None:
        """Ask it, unless it has not answered yet; then see for how long it has not."""
        now = time.monotonic()
        with self._lock:
            asked = self._asked
            if asked is None:
                self._asked = now
        if asked is None:
            send_to(self._system, self._name, "ping", then=self._answered, group="control")
        elif now - asked > self._patience:
            self._replace(f"it has not answered for {now - asked:.1f} s")

    def _answered(self, reply: Reply) -> None:
        with self._lock:
            self._asked = None
        # What is gone or restarting is the system's to make anew.
        if reply.error is not None and not isinstance(reply.error, ActorLost | ActorUnavailable):
            self._replace(f"it is broken: {reply.error}")

    def _replace(self, why: str) -> None:
        log.error("%s is killed and made anew: %s", self._name, why)
        with self._lock:
            self._asked = None
        kill_aside(self._system, self._name, restart=True)
