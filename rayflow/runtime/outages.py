"""Trouble that lasts, told without a flood: when it begins, from time to time while it goes on, and when it is over."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

#: Seconds between two lines about the same trouble; also when it comes and goes.
REMIND = 30.0

Log = logging.Logger | logging.LoggerAdapter[logging.Logger]


class Outage:
    """One thing that is tried again and again. Used by one thread at a time.

    Trouble that is not heard of for :data:`REMIND` seconds is over, whether anybody says so or not.

    Args:
        log: where it is told.
        what: what cannot be done, such as "the store cannot be written".
        clock: seconds, of any origin.
    """

    def __init__(self, log: Log, what: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._log = log
        self._what = what
        self._clock = clock
        self._since: float | None = None
        self._last = 0.0
        self._told: float | None = None
        self._times = 0

    def failed(self, error: object) -> None:
        """It failed, and will be tried again."""
        now = self._clock()
        if self._since is None or now - self._last >= REMIND:
            self._since, self._times = now, 0
        self._last = now
        self._times += 1
        if self._told is not None and now - self._told < REMIND:
            return
        self._told = now
        if self._times == 1:
            self._log.warning("%s, which is tried again: %s", self._what, error)
        else:
            lasts = now - self._since
            self._log.warning("%s for %.0f s now, tried %d times: %s", self._what, lasts, self._times, error)

    def over(self) -> None:
        """It was done."""
        since, self._since = self._since, None
        if since is not None and self._told is not None and self._told >= since:
            self._log.warning("over after %.1f s: %s", self._clock() - since, self._what)
