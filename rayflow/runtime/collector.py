"""Deletes what nobody needs any more, a little at a time: executions whose time to live is over, and large values.

It owns where it is in its round, and nothing else: what is deleted, the store decides, in one transaction for each
batch. So it may die anywhere, and two of them do no harm.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from rayflow.runtime.system import Reply
from rayflow.runtime.turns import Turns
from rayflow.storage.collecting import Collected, Over
from rayflow.storage.values import GRACE

log = logging.getLogger(__name__)

Ask = Callable[..., Any]

#: Executions that one transaction looks at, and seconds between two of them, so that commits go first.
BATCH, PAUSE = 100, 0.02

#: Large values that are deleted at a time, and seconds between two looks for some to which nothing refers.
VALUES, VALUES_PAUSE = 20, 30.0


class Collector:
    """See the module's docstring.

    Args:
        ask: calls a method of the store's actor.
    """

    def __init__(self, ask: Ask) -> None:
        self._ask = ask
        self._after: tuple[float, str] | None = None
        self._deleted = 0
        self._spare = False

    def look(self, now: float) -> bool:
        """Do one short piece of work; answers whether there is more to do at once.

        Args:
            now: seconds since the epoch.

        Raises:
            RayflowError: the store cannot be asked now.
        """
        found: Collected = self._ask("collect", Over(expired_by=now, after=self._after, limit=BATCH))
        self._after = found.after
        self._deleted += len(found.ids)
        self._spare = self._spare or bool(found.ids)
        if self._after is not None:
            return True
        if self._deleted:
            log.info("%d executions were deleted, whose time to live was over", self._deleted)
            self._deleted = 0
        self._spare = self._spare and bool(self._ask("reclaim"))
        return self._spare


class Collecting:
    """When the supervisor collects: it goes on in a moment where there is more, and nobody waits for it.

    Args:
        turns: the supervisor's.
        ask: calls a method of the store's actor.
        send: sends to the store's actor.
    """

    def __init__(self, turns: Turns, ask: Ask, send: Callable[..., None]) -> None:
        self._turns = turns
        self._send = send
        self._collector = Collector(ask)
        self._busy = False

    def tick(self) -> None:
        """Delete what has expired, unless it is at it."""
        if not self._busy:
            self._turns.post(self._look)

    def _look(self) -> None:
        self._busy = False  # also where the store cannot be asked
        if self._collector.look(self._turns.now()):
            self._busy = True
            self._turns.later(PAUSE, self._look)

    def look_for_values(self) -> None:
        """Have large values of nobody deleted, now and from time to time."""
        # Not asked, but sent: it may take longer than this thread may wait.
        self._send("collect_values", GRACE, VALUES, then=self._told, group="values")
        self._turns.later(VALUES_PAUSE, self.look_for_values)

    @staticmethod
    def _told(reply: Reply) -> None:
        if reply.error is not None:
            log.info("large values cannot be collected now: %s", reply.error)
        elif reply.value:
            log.info("%d large values were deleted, to which nothing refers any more", reply.value)
