"""Progress reporter: sends the output and the heartbeats of running steps to their coordinators.

The reporter owns one thread. Steps never wait for it, so a heartbeat in an event loop does not delay other steps there.
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

#: Seconds after which a step's output is sent ahead of its outcome, and between two such messages.
LINES_AFTER = 0.5


class ProgressReporter:
    """Reports on the running attempts of one worker.

    Args:
        attempts: returns the running attempts.
    """

    def __init__(self, system: ActorSystem, attempts: Callable[[], list[Attempt]]) -> None:
        self._system = system
        self._attempts = attempts
        self._working = threading.Event()
        self._woken = threading.Event()
        self._ended = False

    def start(self, name: str) -> None:
        """Start the thread under that name."""
        threading.Thread(target=self._serve, name=name, daemon=True).start()

    def resume(self) -> None:
        """Resume, because an attempt runs."""
        self._working.set()

    def pause(self) -> None:
        """Pause, because no attempt runs."""
        if not self._ended:
            self._working.clear()

    def wake(self) -> None:
        """Send a new heartbeat soon."""
        self._woken.set()

    def stop(self) -> None:
        """End the thread. The caller ensures that :meth:`pause` is not called at the same time."""
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
            log.info("step %s of %s has no coordinator to report to: %s", task.step, task.execution_id, error)
        except Exception:
            # Whatever it is, the other steps' heartbeats must be sent: without them the steps count as hung.
            log.exception("cannot report step %s of %s to %s", task.step, task.execution_id, attempt.coordinator)
