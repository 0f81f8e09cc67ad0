"""The time that a namespace goes by: its executions, their schedules and locks, and whoever waits for them.

An actor system has one clock (``ActorSystem.clock``), and everything whose moment is recorded, or compared with what
is recorded, reads it there: when something happened, when a timer, a retry or a schedule is due, until when a lease
lasts. What is only about processes (pings, heartbeats of a store's writer, patience with a call) goes by the machine's
own time, whatever the clock says.
"""

from __future__ import annotations

import time


class SystemClock:
    """The machine's own time; :mod:`rayflow.testing` has another one behind the same methods.

    Example:
        >>> clock = SystemClock()
        >>> clock.monotonic() <= clock.monotonic()
        True
    """

    def now(self) -> float:
        """Seconds since the epoch."""
        return time.time()

    def monotonic(self) -> float:
        """Seconds since some moment, by a clock that is never set back: for whoever waits."""
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        """Wait, while others work. Not for actors: they have their turns."""
        time.sleep(seconds)


#: The machine's clock. It holds nothing, so one is enough.
REAL = SystemClock()
