"""Deletes executions whose time to live is over, a little at a time.

It owns where it is in its round, and nothing else: what is deleted, the store decides, in one transaction for each
batch. So it may die anywhere, and two of them do no harm.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from rayflow.storage.collecting import Collected, Over

log = logging.getLogger(__name__)

Ask = Callable[..., Any]

#: Executions that one transaction looks at.
BATCH = 100


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
