"""Calls of those who can wait a moment: an engine's, for whom an actor that is made anew is no error.

Actors call each other without it. They have other things to do meanwhile, and are to notice what hangs.
"""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic, sleep
from typing import Any

from rayflow.runtime.system import Actor, ActorLost, ActorSystem, ActorUnavailable, send_to

#: Seconds for which a call is sent again: several times what the system takes to make an actor anew.
PATIENCE = 10.0
#: Seconds between two of them.
AGAIN = 0.1


class PatientActor(Actor):
    """An actor by its name, also while it restarts.

    Since a call that failed may have been executed, only what may be done twice is called like this.

    Args:
        system: where it is found.
        name: its name.
        over: whether nobody is to wait any more.
    """

    def __init__(self, system: ActorSystem, name: str, over: Callable[[], bool] = lambda: False) -> None:
        self._system = system
        self.name = name
        self._over = over

    def call(self, method: str, *args: Any, timeout: float | None = None, group: str = "") -> Any:
        """Call and wait, and again while it cannot be reached. See :meth:`Actor.call`."""
        give_up: float | None = None
        while True:
            try:
                return self._system.find(self.name).call(method, *args, timeout=timeout, group=group)
            except (ActorLost, ActorUnavailable) as error:
                give_up = give_up or monotonic() + PATIENCE
                # One that the method raised itself is about another actor.
                if error.name != self.name or self._over() or monotonic() > give_up:
                    raise
                sleep(AGAIN)

    def send(self, method: str, *args: Any, **how: Any) -> None:
        """Call once, without waiting; that there is none is told to ``then``. See :meth:`Actor.send`."""
        send_to(self._system, self.name, method, *args, **how)
