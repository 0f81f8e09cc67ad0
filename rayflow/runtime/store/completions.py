"""Completion log: the executions that have finished recently, for engines that wait for them.

An engine passes the cursor of the last answer. After a restart of the store actor, or after more completions than the
log holds, the answer says `reset`, and the engine reads the executions it waits for.
"""

from __future__ import annotations

import threading
import uuid
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

#: Completions that the log holds.
KEPT = 10_000


@dataclass(frozen=True, slots=True)
class Completions:
    """Executions that have finished since a cursor; ``reset`` means that some may be missing."""

    cursor: tuple[str, int]
    ended: tuple[str, ...] = ()
    reset: bool = False


class CompletionLog:
    """A bounded log of finished executions. Thread-safe.

    Attributes:
        generation: the first part of this log's cursors; :meth:`reset` changes it.
    """

    def __init__(self) -> None:
        self.generation = uuid.uuid4().hex
        self._ids: deque[str] = deque(maxlen=KEPT)
        self._count = 0
        self._changed = threading.Condition()

    def add(self, ids: Sequence[str]) -> None:
        """Add executions that have finished."""
        with self._changed:
            self._ids.extend(ids)
            self._count += len(ids)
            self._changed.notify_all()

    def reset(self) -> None:
        """Invalidate all cursors, because completions may be missing."""
        with self._changed:
            self.generation = uuid.uuid4().hex
            self._changed.notify_all()

    def wake(self) -> None:
        """Have all waiting callers check whether they should stop."""
        with self._changed:
            self._changed.notify_all()

    def since(self, cursor: tuple[str, int], timeout: float, stopped: Callable[[], bool]) -> Completions:
        """Wait for executions that finish after the cursor, and return them.

        Args:
            cursor: the cursor of the last answer.
            timeout: seconds to wait.
            stopped: returns whether to stop waiting.
        """
        generation, position = cursor
        with self._changed:
            if generation == self.generation:
                self._changed.wait_for(
                    lambda: generation != self.generation or self._count > position or stopped(), timeout
                )
            if generation != self.generation or position < self._count - len(self._ids):
                return Completions((self.generation, self._count), reset=True)
            fresh = self._count - position
            return Completions((self.generation, self._count), tuple(self._ids)[-fresh:] if fresh else ())
