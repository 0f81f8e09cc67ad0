"""Reads the inboxes of a coordinator's executions."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from rayflow.runtime import naming
from rayflow.runtime.driver import Driver
from rayflow.runtime.outages import Outage
from rayflow.runtime.system import ActorSystem, Reply, send_to
from rayflow.storage.operations import InboxRow

log = logging.getLogger(__name__)

#: Seconds until an inbox that could not be read is read again.
_AGAIN = 1.0


class Inboxes:
    """See the module's docstring. Used on the coordinator's thread only.

    Args:
        system: where the store is found.
        post: runs an action on the coordinator's thread.
        later: the same, after some seconds.
        received: told of rows that a driver has not seen.
    """

    def __init__(
        self,
        system: ActorSystem,
        post: Callable[[Callable[[], None]], None],
        later: Callable[[float, Callable[[], None]], None],
        received: Callable[[Driver, Sequence[InboxRow]], None],
    ) -> None:
        self._system = system
        self._post = post
        self._later = later
        self._received = received
        self._outage = Outage(log, "inboxes cannot be read")

    def read(self, driver: Driver) -> None:
        """Read what is new in an execution's inbox."""

        def reply(answer: Reply) -> None:
            self._post(lambda: self._read(driver, answer))

        send_to(self._system, naming.PERSISTENCE, "inbox", driver.id, driver.inbox_seen, then=reply)

    def _read(self, driver: Driver, answer: Reply) -> None:
        if driver.over:
            return
        if answer.error is not None:
            self._outage.failed(answer.error)
            self._later(_AGAIN, lambda: self.read(driver))
            return
        self._outage.over()
        if answer.value:
            self._received(driver, answer.value)
