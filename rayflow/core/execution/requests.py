"""Open requests of one execution: children, signals and locks.

This module owns which requests are open, and which locks have to be released. The store sends and completes requests,
in the transactions of the journal entries.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from rayflow.core.execution.actions import CancelRequest, Request
from rayflow.core.interpreter.calls import LockPermit
from rayflow.core.interpreter.effects import Dispatch
from rayflow.core.interpreter.signals import Awaited
from rayflow.definition.context import ChildCall, LockCall, SignalCall, StepCall


class Requests:
    """Table of the open requests and held locks of one execution."""

    def __init__(self) -> None:
        self._open: dict[int, Request] = {}
        self._held: set[int] = set()
        #: Locks that the code holds, and that must be granted again before it may continue.
        self._lost: set[int] = set()
        #: Number of rewinds by now, and before each call that was issued by then.
        self._rewinds = 0
        self._issued_at: Sequence[int] = ()

    def __len__(self) -> int:
        return len(self._open) - len(self._held)

    def remember(self, issued_at: Sequence[int], rewinds: int) -> None:
        """Set the journal's rewinds: their number before each call was issued, and their number by now."""
        self._issued_at, self._rewinds = issued_at, rewinds

    def restore(self, dispatches: Iterable[Dispatch], held: Iterable[LockPermit], reissued: Collection[int]) -> None:
        """Set the open calls and locks after a replay.

        Args:
            dispatches: calls without an answer.
            held: locks that the code holds.
            reissued: numbers of the calls that were sent again and have not completed since.
        """
        for dispatch in dispatches:
            self.add(dispatch)
        for lock in held:
            self._open[lock.seq] = Request(lock.seq, lock.call, b"", self.rewinds_of(lock.seq), lock.own_token)
            self._held.add(lock.seq)
        self._lost = self._held.intersection(reissued)

    def add(self, dispatch: Dispatch) -> Request:
        """Add a child, signal or lock call that the code issued."""
        call, seq = dispatch.call, dispatch.seq
        assert not isinstance(call, StepCall)
        request = self._open[seq] = Request(seq, call, dispatch.payload, self.rewinds_of(seq))
        return request

    def rewinds_of(self, seq: int) -> int:
        """Return the number of rewinds before a call was issued."""
        return self._issued_at[seq - 1] if seq <= len(self._issued_at) else self._rewinds

    def reissue(self) -> list[Request]:
        """Return all open requests to send again; held locks count as lost until they are granted again.

        Held locks come first: a task that still waits for a permit must not get it before the tasks that had it,
        since the execution cannot continue without theirs.
        """
        self._lost = set(self._held)
        return sorted(self._open.values(), key=lambda request: request.seq not in self._held)

    @property
    def regaining(self) -> bool:
        """Whether a lock that the code holds has to be granted again."""
        return bool(self._lost)

    def is_open(self, seq: int) -> bool:
        """Return whether a call is not completed, or its lock has to be granted again."""
        return seq in self._open and (seq not in self._held or seq in self._lost)

    def waiting(self) -> list[Request]:
        """Return the requests that are not completed."""
        return [request for seq, request in self._open.items() if self.is_open(seq)]

    def complete(self, seq: int, *, refused: bool = False) -> bool:
        """Complete a request; return whether it was open."""
        if not self.is_open(seq):
            return False
        self._lost.discard(seq)
        if isinstance(self._open[seq].call, LockCall) and not refused:
            self._held.add(seq)
        else:
            self._held.discard(seq)
            del self._open[seq]
        return True

    def drop(self, seq: int) -> CancelRequest | None:
        """Drop a request or a lock; return the cancellation to send, if there is one."""
        request = self._open.pop(seq, None)
        self._held.discard(seq)
        self._lost.discard(seq)
        if request is None or isinstance(request.call, SignalCall):
            return None
        if isinstance(request.call, ChildCall) and request.call.on_parent_end == "abandon":
            return None
        return CancelRequest(seq, request.call, request.rewinds)

    def end(self) -> list[CancelRequest]:
        """Drop everything, since the code has ended."""
        dropped = [self.drop(seq) for seq in list(self._open)]
        return [cancel for cancel in dropped if cancel is not None]


#: Prefix of the text if only other executions can wake this one: it waits for locks and children, and no signal.
OTHERS = "others "


@dataclass(frozen=True, slots=True)
class WaitsFor:
    """What an execution waits for, apart from its own steps and timers.

    Args:
        signals: names of signals, each with its payload's type as ``module:qualname``; "" for any payload.
        locks: names of locks.
        children: ids of executions whose results it waits for.
    """

    signals: tuple[tuple[str, str], ...] = ()
    locks: tuple[str, ...] = ()
    children: tuple[str, ...] = ()

    def to_text(self) -> str:
        """Return the text for the store, "" for nothing; see :data:`OTHERS` for its prefix."""
        fields = {"signals": self.signals, "locks": self.locks, "children": self.children}
        given = {kind: value for kind, value in fields.items() if value}
        if not given:
            return ""
        return ("" if self.signals else OTHERS) + json.dumps(given, separators=(",", ":"))

    def describe(self) -> list[str]:
        """Return one text for people per item."""
        return [
            *(f"signal {name}" for name, _ in self.signals),
            *(f"lock {name}" for name in self.locks),
            *(f"child {name}" for name in self.children),
        ]

    @classmethod
    def from_text(cls, text: str) -> WaitsFor:
        """Read the text of :meth:`to_text`. A damaged text reads as nothing, because no replay depends on it."""
        text = text.removeprefix(OTHERS)
        try:
            given: dict[str, Any] = json.loads(text) if text else {}
            signals = tuple((str(name), str(kind)) for name, kind in given.get("signals", ()))
            locks, children = (tuple(map(str, given.get(kind, ()))) for kind in ("locks", "children"))
        except (ValueError, TypeError, AttributeError):
            return cls()
        return cls(signals, locks, children)


def describe_awaited(awaited: list[Awaited]) -> tuple[tuple[str, str], ...]:
    """Return awaited signals in the form of :attr:`WaitsFor.signals`."""
    return tuple((one.name, type_name(one.annotation)) for one in awaited)


def type_name(annotation: Any) -> str:
    """Return a class as ``module:qualname``, if another process may import it by that; otherwise ""."""
    if not isinstance(annotation, type) or annotation.__module__ in {"__main__", "builtins"}:
        return ""
    return "" if "<" in annotation.__qualname__ else f"{annotation.__module__}:{annotation.__qualname__}"
