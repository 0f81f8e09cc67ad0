"""Supervisor client of a coordinator: reports which executions the coordinator no longer drives.

A message may be lost, arrive twice, or be overtaken by the next one, so each is repeated until it is delivered and
names the epoch that it is about. The supervisor, which may have assigned the same execution to the same coordinator
again, thus knows which assignment is meant.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rayflow.runtime.actors import actor_names
from rayflow.runtime.actors.base import ActorLost, ActorSystem, Reply, send_to
from rayflow.runtime.actors.mailbox import Mailbox
from rayflow.runtime.coordinator.driver import ExecutionDriver
from rayflow.storage.model import ExecutionRecord

#: Seconds until a message that was not delivered is sent again.
RETRY_DELAY = 0.5
#: Seconds until the supervisor receives a misrouted notification: by then it knows the right coordinator, or the
#: execution has arrived here.
MISROUTED_DELAY = 0.02


class SupervisorClient:
    """Messages to the supervisor. All methods run on the coordinator's thread."""

    def __init__(self, system: ActorSystem, name: str, mailbox: Mailbox) -> None:
        self._system = system
        self._name = name
        self._mailbox = mailbox

    def released(self, driver: ExecutionDriver) -> None:
        """Report that an execution has finished or is parked."""
        self._send("released", self._name, {driver.id: driver.epoch})

    def superseded(self, driver: ExecutionDriver) -> None:
        """Report that another coordinator owns an execution, which is recorded in the store."""
        self._send("superseded", self._name, {driver.id: driver.epoch})

    def outdated(self, records: Sequence[ExecutionRecord]) -> None:
        """Return assignments, because the code that is loaded here has been edited since."""
        self._send("outdated", self._name, {record.id: record.epoch + 1 for record in records})

    def rejected(self, driver: ExecutionDriver) -> None:
        """Return an execution that is claimed already, for the same reason."""
        self._send("outdated", self._name, {driver.id: driver.epoch})

    def misrouted(self, execution_id: str) -> None:
        """Pass on a notification for an execution that is parked, or has not arrived here yet."""
        self._mailbox.submit_later(MISROUTED_DELAY, lambda: self.notify((execution_id,)))

    def notify(self, ids: Sequence[str]) -> None:
        """Notify other executions of new rows in their inboxes."""
        self._send("notify", tuple(ids))

    def _send(self, method: str, *args: Any) -> None:
        def attempt(again: Any) -> None:
            def replied(reply: Reply) -> None:
                # A namespace ends with its supervisor. A restarted one asks for the executions that are driven here.
                if reply.error is not None and not isinstance(reply.error, ActorLost):
                    self._mailbox.submit(again)

            send_to(self._system, actor_names.SUPERVISOR, method, *args, then=replied)

        self._mailbox.retry(attempt, RETRY_DELAY)
