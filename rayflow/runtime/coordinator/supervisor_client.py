"""What a coordinator tells the supervisor of its executions, until it is heard.

A word may be lost, come twice, or be overtaken by the next one. So each names the epoch that it is about: the
supervisor, who may have given the same execution to the same coordinator again, knows which of the two is meant.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from rayflow.runtime.actors import actor_names
from rayflow.runtime.actors.base import ActorLost, ActorSystem, Reply, send_to
from rayflow.runtime.coordinator.driver import ExecutionDriver
from rayflow.storage.model import ExecutionRecord

#: Seconds until something is said again that was not heard.
AGAIN = 0.5
#: Seconds until the supervisor is told of a word for an execution that is not driven here: by then it knows better, or
#: the execution has come.
ASTRAY = 0.02


class SupervisorClient:
    """See the module's docstring. Used on the coordinator's thread only.

    Args:
        system: where the supervisor is found.
        name: the coordinator's name.
        post: runs an action on the coordinator's thread.
        later: the same, after some seconds.
    """

    def __init__(
        self,
        system: ActorSystem,
        name: str,
        post: Callable[[Callable[[], None]], None],
        later: Callable[[float, Callable[[], None]], None],
    ) -> None:
        self._system = system
        self._name = name
        self._post = post
        self._later = later

    def released(self, driver: ExecutionDriver) -> None:
        """It is not driven here any more: it is over, or parked."""
        self._tell("released", self._name, {driver.id: driver.epoch})

    def superseded(self, driver: ExecutionDriver) -> None:
        """It is not driven here any more, or never was, since somebody else has it: the store knows who."""
        self._tell("superseded", self._name, {driver.id: driver.epoch})

    def outdated(self, records: Sequence[ExecutionRecord]) -> None:
        """They are not taken up here: the code that is loaded was edited since."""
        self._tell("outdated", self._name, {record.id: record.epoch + 1 for record in records})

    def declined(self, driver: ExecutionDriver) -> None:
        """The same of one that was taken up already."""
        self._tell("outdated", self._name, {driver.id: driver.epoch})

    def astray(self, execution_id: str) -> None:
        """A word for it came here, and it is not driven here: it was parked, or is still on its way."""
        self._later(ASTRAY, lambda: self._tell("nudge", (execution_id,)))

    def nudge(self, ids: Sequence[str]) -> None:
        """Others have something new in their inboxes."""
        self._tell("nudge", tuple(ids))

    def _tell(self, method: str, *args: Any) -> None:
        def reply(answer: Reply) -> None:
            # Without a supervisor there is no namespace any more. One that was made anew asks what is driven here.
            if answer.error is not None and not isinstance(answer.error, ActorLost):
                self._post(lambda: self._later(AGAIN, lambda: self._tell(method, *args)))

        send_to(self._system, actor_names.SUPERVISOR, method, *args, then=reply)
