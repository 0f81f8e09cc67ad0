"""Brings what steps say while they run to their coordinators: the lines that they print, and their heartbeats.

It owns one thread. Steps never wait for it, so one that beats in an event loop does not hold up the others there.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Any

from rayflow.runtime.actors.base import ActorLost, ActorSystem
from rayflow.runtime.worker.attempt import Attempt

log = logging.getLogger(__name__)

#: Seconds after which a step's lines are sent ahead of its outcome, and between two times that they are.
LINES_AFTER = 0.5


class ProgressReporter:
    """See the module's docstring.

    Args:
        system: where coordinators are found.
        attempts: answers the attempts under way.
    """

    def __init__(self, system: ActorSystem, attempts: Callable[[], list[Attempt]]) -> None:
        self._system = system
        self._attempts = attempts
        self._working = threading.Event()
        self._woken = threading.Event()
        self._ended = False

    def start(self, name: str) -> None:
        """Start the thread, of that name."""
        threading.Thread(target=self._serve, name=name, daemon=True).start()

    def work(self) -> None:
        """There are attempts under way."""
        self._working.set()

    def rest(self) -> None:
        """There are none."""
        if not self._ended:
            self._working.clear()

    def wake(self) -> None:
        """A step beats."""
        self._woken.set()

    def stop(self) -> None:
        """End the thread. Not to be called at the same time as :meth:`rest`."""
        self._ended = True
        self._working.set()
        self._woken.set()

    def _serve(self) -> None:
        lines_at = time.monotonic() + LINES_AFTER
        wake_at = lines_at
        while True:
            self._working.wait()
            self._woken.wait(max(0.0, wake_at - time.monotonic()))
            self._woken.clear()
            if self._ended:
                return
            now = time.monotonic()
            attempts = self._attempts()
            for attempt in attempts:
                self._send_heartbeat(attempt, now)
            if now >= lines_at:
                for attempt in attempts:
                    if now - attempt.since >= LINES_AFTER:
                        self._send_lines(attempt)
                lines_at = now + LINES_AFTER
            wake_at = min([lines_at, *(attempt.beats.due for attempt in attempts)])

    def _send_heartbeat(self, attempt: Attempt, now: float) -> None:
        beat = attempt.beats.take(now)
        if beat is not None:
            task = attempt.task
            self._send(attempt, "heartbeat", (task.execution_id, task.seq, task.attempt), task.epoch, tuple(beat))

    def _send_lines(self, attempt: Attempt) -> None:
        lines = attempt.lines.take()
        if lines:
            task = attempt.task
            self._send(attempt, "output", task.execution_id, task.seq, task.step, lines)

    def _send(self, attempt: Attempt, method: str, *args: Any) -> None:
        task = attempt.task
        try:
            self._system.find(attempt.coordinator).send(method, *args)
        except ActorLost as error:
            log.info("nobody watches step %s of %s any more: %s", task.step, task.execution_id, error)
        except Exception:
            # Whatever it is, the other steps' heartbeats must go on: without them they count as hung.
            log.exception("cannot tell %s of step %s of %s", attempt.coordinator, task.step, task.execution_id)
