"""Pending calls of one process, which also end when the process leaves the cluster."""

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
    """Passes exactly one reply to each pending call: the actor's, or that this process has left the cluster."""

    def __init__(self) -> None:
        self._numbers = itertools.count()
        self._waiting: dict[int, _Waiting] = {}

    def expect(self, name: str, then: Then, kept: object) -> Then:
        """Register a call, and return the function that passes its first reply on.

        Args:
            name: the called actor.
            then: receives the reply.
            kept: an object to keep alive until then.
        """
        number = next(self._numbers)
        self._waiting[number] = _Waiting(name, then, kept)

        def settle(reply: Reply) -> None:
            waiting = self._waiting.pop(number, None)
            if waiting is not None:
                _call_back(waiting.then, reply)

        return settle

    def abandon(self) -> None:
        """End all pending calls with ActorUnavailable."""
        for number in list(self._waiting):
            waiting = self._waiting.pop(number, None)
            if waiting is not None:
                error = ActorUnavailable(waiting.name, "this process has left the cluster")
                _call_back(waiting.then, Reply(error=error))


def reply_async(then: Then, reply: Reply) -> None:
    """Pass a reply on from a new thread: the caller may hold a lock that ``then`` needs."""
    threading.Thread(target=_call_back, args=(then, reply), name="reply", daemon=True).start()


def _call_back(then: Then, reply: Reply) -> None:
    try:
        then(reply)
    except Exception:
        log.exception("the callback of a call failed")
