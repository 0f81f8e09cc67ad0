"""Handles on large values that are in the system's own memory, as a coordinator passes them on between its workers."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping

from rayflow.runtime.system import Held

#: Bytes and handles that a coordinator holds at most.
MOST_BYTES, MOST = 1 << 30, 1_000


class HeldValues:
    """Who was used longest ago goes first. See the module's docstring.

    It owns handles, never the bytes behind them: those are wherever they were made. A handle that is dropped, or whose
    bytes are lost, only costs its user a read from the store.

    Args:
        most_bytes: how many bytes are held at most.
        most: how many handles.
    """

    def __init__(self, most_bytes: int = MOST_BYTES, most: int = MOST) -> None:
        self._most_bytes, self._most = most_bytes, most
        self._held: OrderedDict[str, Held] = OrderedDict()
        self._of: dict[str, set[str]] = {}
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._held)

    def add(self, executions: Iterable[str], held: Mapping[str, Held]) -> None:
        """Handles have come with what steps of these executions answered; of no execution, nobody will ask for them."""
        names = list(executions)
        if not names:
            return
        for digest, each in held.items():
            self._drop(digest)
            self._held[digest] = each
            self.bytes += each.size
        for name in names:
            self._of.setdefault(name, set()).update(held)
        while self._held and (self.bytes > self._most_bytes or len(self._held) > self._most):
            self._drop(next(iter(self._held)))

    def of(self, digests: Iterable[str]) -> dict[str, Held]:
        """The handles on these, as far as there are any."""
        found = {digest: self._held[digest] for digest in digests if digest in self._held}
        for digest in found:
            self._held.move_to_end(digest)
        return found

    def forget(self, execution_id: str) -> None:
        """The execution is not driven here any more: what no other one has used goes."""
        used = self._of.pop(execution_id, set())
        for digest in used.difference(*self._of.values()):
            self._drop(digest)

    def _drop(self, digest: str) -> None:
        gone = self._held.pop(digest, None)
        if gone is not None:
            self.bytes -= gone.size
