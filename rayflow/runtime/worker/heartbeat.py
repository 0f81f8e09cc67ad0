"""Heartbeats of one attempt, taken from its step and sent to the coordinator at intervals."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from typing import Any, NamedTuple


class Heartbeat(NamedTuple):
    """One heartbeat: the encoded progress, or None if it says nothing of that; and whether the step's code is done."""

    progress: bytes | None
    ran: bool = False


class HeartbeatRecorder:
    """See the module's docstring. Safe to use from several threads.

    Args:
        every: seconds between two beats that are taken, at least.
        encode: writes a progress.
        wake: called when there is something to be taken, now or soon; it must be quick.

    Example:
        >>> beats = Beats(10.0, lambda value: str(value).encode(), lambda: None)
        >>> beats.beat("half")
        >>> beats.take(1.0)
        Beat(progress=b'half')
        >>> beats.beat("most")
        >>> beats.take(2.0), beats.due
        (None, 11.0)
    """

    def __init__(self, every: float, encode: Callable[[Any], bytes], wake: Callable[[], None]) -> None:
        self._every = every
        self._encode = encode
        self._wake = wake
        self._lock = threading.Lock()
        self._held: Heartbeat | None = None
        self._next = -math.inf
        self._ran = False

    def beat(self, progress: Any = None) -> None:
        """The step is alive.

        Args:
            progress: how far it is; None leaves what was said last.

        Raises:
            CodecError: the progress cannot be written.
        """
        # Written at once: the step may change the object, and must see that it cannot be written.
        beat = Heartbeat(None if progress is None else self._encode(progress))
        with self._lock:
            first = self._held is None
            if first or beat.progress is not None:
                self._held = Heartbeat(beat.progress, self._ran)
        if first:
            self._wake()

    def ran(self) -> None:
        """The step's code is done, which is said at once, and with all that follows; its result takes longer."""
        with self._lock:
            if self._ran:
                return
            self._ran = True
            self._held = Heartbeat(None if self._held is None else self._held.progress, ran=True)
            self._next = -math.inf
        self._wake()

    @property
    def due(self) -> float:
        """When there is a beat to take, by the clock of :meth:`take`; infinity if the step said nothing new."""
        return math.inf if self._held is None else self._next

    def take(self, now: float) -> Heartbeat | None:
        """The newest beat, if one may go out.

        Args:
            now: seconds of a clock that never goes back.
        """
        with self._lock:
            if now < self.due:
                return None
            taken, self._held = self._held, None
            self._next = now + self._every
            return taken
