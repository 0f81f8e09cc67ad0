"""What runs attempts needs this of its coordinator."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from rayflow.core.execution import RunAttempt
from rayflow.core.slots import Key
from rayflow.errors import Failure
from rayflow.runtime.messages import TaskMessage, TaskOutcome


class Host(Protocol):
    """A coordinator, as dispatchers and local runs see it."""

    name: str
    #: When the coordinator last saw that its code is what is on the disk, in seconds since the epoch.
    code_as_of: float

    def post(self, action: Callable[[], None]) -> None:
        """Run the action on the coordinator's thread."""

    def later(self, seconds: float, action: Callable[[], None]) -> None:
        """The same, after a while."""

    def now(self) -> float:
        """Seconds since the epoch."""

    def message(self, run: RunAttempt, execution_id: str) -> TaskMessage | None:
        """The task as a worker gets it; None if nobody wants it any more."""

    def sent(self, key: Key, at: float) -> None:
        """The attempt began, or went out to where it begins at once."""

    def outcome(self, outcome: TaskOutcome, worker: str, epoch: int) -> None:
        """An attempt of that epoch ended."""

    def lost(self, key: Key, failure: Failure, *, alone: bool, worker: str, epoch: int) -> None:
        """An attempt was lost with its worker."""

    def not_begun(self, key: Key, epoch: int) -> None:
        """An attempt was given back."""

    def refused(self, key: Key, error: BaseException) -> None:
        """An attempt cannot be made."""

    def waits(self, key: Key, why: str) -> None:
        """An attempt waits for something that the cluster does not have."""

    def look_up_pool(self, pool: str) -> None:
        """The pool cannot be reached, or its actor is another one: it may have been deleted, or made again."""
