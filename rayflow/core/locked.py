"""A permit that workflow code has."""

from __future__ import annotations

from collections.abc import Callable

from rayflow.definition.context import LockCall


class HeldLock:
    """See :class:`rayflow.definition.context.Held`.

    Args:
        seq: the number of the call that claimed it.
        call: that call.
        token: the fencing token of its newest grant.
        give_back: told its number when it is released.

    Attributes:
        own_token: the same, but 0 as long as it was granted to the execution that this one was forked from.
    """

    def __init__(self, seq: int, call: LockCall, token: int, give_back: Callable[[int], None]) -> None:
        self.seq = seq
        self.call = call
        self.token = self.own_token = token
        self._give_back = give_back

    def granted(self, token: int) -> None:
        """It is granted again."""
        self.token = self.own_token = token

    def release(self) -> None:
        """Give the permit back."""
        self._give_back(self.seq)
