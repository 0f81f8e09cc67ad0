"""The lives of actors that are objects of one process, and the calls that they have not answered."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from rayflow.runtime.daemons import Daemons
from rayflow.runtime.system import ActorSpec, Reply
from rayflow.runtime.threadtasks import ThreadTask


class Life:
    """One object of an actor, from its making to its death, and the calls that it has not answered."""

    def __init__(self, spec: ActorSpec, *, restarted: bool) -> None:
        self.name = spec.name
        self.restarted = restarted
        self.target: Any = None
        self.alive = True
        self.pending: set[Call] = set()
        self.tasks: set[ThreadTask] = set()
        self.groups = {group: Daemons(f"{spec.name}/{group}", n) for group, n in spec.groups.items()}
        self.groups[""] = Daemons(spec.name, spec.threads)


class Call:
    """A call under way. It is settled once, by its answer or by the death of the actor."""

    def __init__(self, life: Life, then: Callable[[Reply], None] | None) -> None:
        self.life = life
        self.then = then
        self.reply = Reply()
        self._first = True
        self.settled = threading.Event()

    def settle(self, reply: Reply) -> bool:
        """Whether this was the first answer."""
        with _settling:
            if not self._first:
                return False
            self._first = False
            self.reply = reply
        self.settled.set()
        return True


#: Guards the first answer of every call; it is held for an instant.
_settling = threading.Lock()


def check_alive(caller: Life | None) -> None:
    """End the thread if it belongs to an actor that was killed."""
    if caller is not None and not caller.alive:
        # Threads end quietly by this very class, and by none that is derived from it.
        raise SystemExit(f"actor {caller.name!r} was killed")


def unless_dead(then: Callable[[Reply], None], caller: Life | None) -> Callable[[Reply], None]:
    """A callback that is not called when the actor that it belongs to was killed."""

    def told(reply: Reply) -> None:
        if caller is None or caller.alive:
            then(reply)

    return told
