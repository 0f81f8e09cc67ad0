"""What steps print, kept for whoever watches their execution, and how far it is."""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from collections.abc import Sequence
from dataclasses import dataclass, field

#: Lines that are kept for each execution, and executions for which they are kept.
LINES_KEPT = 1_000
EXECUTIONS_KEPT = 1_000


@dataclass(frozen=True, slots=True)
class Progress:
    """What a watcher is told.

    Args:
        lines: new lines of the steps' output.
        cursor: where to go on from.
        driving: whether this coordinator drives the execution.
        issued: steps that the workflow has issued so far.
        completed: steps of these that are over.
    """

    lines: tuple[str, ...] = ()
    cursor: int = 0
    driving: bool = False
    issued: int = 0
    completed: int = 0


@dataclass(slots=True)
class _Kept:
    lines: deque[str] = field(default_factory=lambda: deque(maxlen=LINES_KEPT))
    total: int = 0


class Prints:
    """The newest lines of each execution. Safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, _Kept] = OrderedDict()

    def add(self, execution_id: str, lines: Sequence[str]) -> None:
        """Keep lines."""
        with self._lock:
            kept = self._kept.setdefault(execution_id, _Kept())
            kept.lines.extend(lines)
            kept.total += len(lines)
            self._kept.move_to_end(execution_id)
            if len(self._kept) > EXECUTIONS_KEPT:
                self._kept.popitem(last=False)

    def since(self, execution_id: str, cursor: int) -> tuple[tuple[str, ...], int]:
        """The lines after a cursor, as far as they are kept, and the new cursor."""
        with self._lock:
            kept = self._kept.get(execution_id)
            if kept is None:
                return (), cursor
            fresh = min(len(kept.lines), max(0, kept.total - cursor))
            return tuple(kept.lines)[len(kept.lines) - fresh :], kept.total
