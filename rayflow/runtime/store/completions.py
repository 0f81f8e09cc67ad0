"""What has ended, for engines that wait for it: remembered for a while, by the store's actor.

An engine asks with the cursor of the answer before. After a restart, and after more endings than are remembered, it is
told to look for itself.
"""

from __future__ import annotations

import threading
import uuid
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

#: How many endings are remembered.
KEPT = 10_000


@dataclass(frozen=True, slots=True)
class Completions:
    """What ended since a cursor; ``reset`` says that the cursor is from before a restart, so look for yourself."""

    cursor: tuple[str, int]
    ended: tuple[str, ...] = ()
    reset: bool = False


class CompletionLog:
    """See the module's docstring.

    Attributes:
        generation: what cursors of this memory begin with; another one after it was begun anew.
    """

    def __init__(self) -> None:
        self.generation = uuid.uuid4().hex
        self._kept: deque[str] = deque(maxlen=KEPT)
        self._count = 0
        self._told = threading.Condition()

    def add(self, ids: Sequence[str]) -> None:
        """These executions have ended."""
        with self._told:
            self._kept.extend(ids)
            self._count += len(ids)
            self._told.notify_all()

    def reset(self) -> None:
        """What is remembered may not be all."""
        with self._told:
            self.generation = uuid.uuid4().hex
            self._told.notify_all()

    def wake(self) -> None:
        """Have those who wait look whether it is stopped."""
        with self._told:
            self._told.notify_all()

    def since(self, cursor: tuple[str, int], timeout: float, stopped: Callable[[], bool]) -> Completions:
        """Wait until something has ended after the cursor; then say what has.

        Args:
            cursor: that of the last answer.
            timeout: seconds that it waits at most.
            stopped: answers whether it is not to be waited for any more.
        """
        generation, position = cursor
        with self._told:
            if generation == self.generation:
                self._told.wait_for(
                    lambda: generation != self.generation or self._count > position or stopped(), timeout
                )
            if generation != self.generation or position < self._count - len(self._kept):
                return Completions((self.generation, self._count), reset=True)
            fresh = self._count - position
            return Completions((self.generation, self._count), tuple(self._kept)[-fresh:] if fresh else ())
