"""Heartbeats of one attempt: recorded by its step, and sent to the coordinator at intervals."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from typing import Any, NamedTuple


class Heartbeat(NamedTuple):
    """One heartbeat: the encoded progress (None without a new one), and whether the step's code has finished."""

    progress: bytes | None
    ran: bool = False


class HeartbeatRecorder:
    """Keeps the newest heartbeat of an attempt until it may be sent. Thread-safe.

    Args:
        every: minimum seconds between two heartbeats that are sent.
        encode: encodes a progress.
        wake: called when there is a new heartbeat; it must be quick.

    Example:
        >>> beats = HeartbeatRecorder(10.0, lambda value: str(value).encode(), lambda: None)
        >>> beats.beat("half")
        >>> beats.take(1.0)
        Heartbeat(progress=b'half', ran=False)
        >>> beats.beat("most")
        >>> beats.take(2.0), beats.due
        (None, 11.0)
    """

    def __init__(self, every: float, encode: Callable[[Any], bytes], wake: Callable[[], None]) -> None:
        self._every = every
        self._encode = encode
        self._wake = wake
        self._lock = threading.Lock()
        self._pending: Heartbeat | None = None
        self._next = -math.inf
        self._ran = False

    def beat(self, progress: Any = None) -> None:
        """Record that the step is alive.

        Args:
            progress: how far it is; None keeps the last progress.

        Raises:
            CodecError: if the progress cannot be encoded.
        """
        # Encoded at once: the step may change the object later, and the error belongs to this call.
        beat = Heartbeat(None if progress is None else self._encode(progress))
        with self._lock:
            first = self._pending is None
            if first or beat.progress is not None:
                self._pending = Heartbeat(beat.progress, self._ran)
        if first:
            self._wake()

    def ran(self) -> None:
        """Record that the step's code has finished, while its result is still being stored. Sent at once."""
        with self._lock:
            if self._ran:
                return
            self._ran = True
            self._pending = Heartbeat(None if self._pending is None else self._pending.progress, ran=True)
            self._next = -math.inf
        self._wake()

    @property
    def due(self) -> float:
        """Return when a heartbeat may be taken, by the clock of :meth:`take`; infinity without a new one."""
        return math.inf if self._pending is None else self._next

    def take(self, now: float) -> Heartbeat | None:
        """Return the newest heartbeat, if one may be sent at ``now`` (seconds of a monotonic clock)."""
        with self._lock:
            if now < self.due:
                return None
            taken, self._pending = self._pending, None
            self._next = now + self._every
            return taken
