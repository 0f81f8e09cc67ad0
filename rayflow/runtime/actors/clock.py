"""Clock of a namespace: the time by which executions, schedules, locks and leases are recorded.

An actor system has one clock (``ActorSystem.clock``). Code reads it wherever a time is recorded, or compared with a
recorded one: when an event happened, when a timer, a retry or a schedule is due, when a lease expires. Times that only
concern processes (pings, heartbeats of the store's writer, timeouts of calls) use the clock of the machine.
"""

from __future__ import annotations

import time


class SystemClock:
    """The machine's time. :mod:`rayflow.testing` has a virtual clock with the same methods.

    Example:
        >>> clock = SystemClock()
        >>> clock.monotonic() <= clock.monotonic()
        True
    """

    def now(self) -> float:
        """Return the time in seconds since the epoch."""
        return time.time()

    def monotonic(self) -> float:
        """Return seconds since an arbitrary moment, by a clock that is never set back."""
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        """Block the calling thread. Not for actors, which have a mailbox."""
        time.sleep(seconds)


#: The machine's clock. It has no state, so one is enough.
REAL = SystemClock()
