"""Calls whose reply somebody waits for, in one process."""

from __future__ import annotations

import itertools
import logging
import threading
from collections.abc import Callable
from typing import NamedTuple

from rayflow.runtime.actors.base import ActorUnavailable, Reply

log = logging.getLogger(__name__)

Then = Callable[[Reply], None]


class _Waiting(NamedTuple):
    name: str
    then: Then
    kept: object


class PendingCalls:
    """Tells each waiting call its reply once: the actor's, or that this process has left the cluster."""

    def __init__(self) -> None:
        self._numbers = itertools.count()
        self._waiting: dict[int, _Waiting] = {}

    def expect(self, name: str, then: Then, kept: object) -> Then:
        """Wait for a reply. What is answered takes it, and passes it on the first time only.

        Args:
            name: who was called.
            then: told how the call ended.
            kept: held until then.
        """
        number = next(self._numbers)
        self._waiting[number] = _Waiting(name, then, kept)

        def settle(reply: Reply) -> None:
            waiting = self._waiting.pop(number, None)
            if waiting is not None:
                _tell(waiting.then, reply)

        return settle

    def give_up(self) -> None:
        """Tell all that wait that nothing will come any more."""
        for number in list(self._waiting):
            waiting = self._waiting.pop(number, None)
            if waiting is not None:
                error = ActorUnavailable(waiting.name, "this process has left the cluster")
                _tell(waiting.then, Reply(error=error))


def tell_elsewhere(then: Then, reply: Reply) -> None:
    """Tell the reply on a thread of its own: the caller may hold a lock that ``then`` wants."""
    threading.Thread(target=_tell, args=(then, reply), name="reply", daemon=True).start()


def _tell(then: Then, reply: Reply) -> None:
    try:
        then(reply)
    except Exception:
        log.exception("the callback of a call failed")
