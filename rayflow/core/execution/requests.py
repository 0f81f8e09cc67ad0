"""What an execution's code has asked of others and has not got yet, or must give back: children, signals, locks.

It owns which of them are open. Asking and answering are done by the store, in the transactions of the entries.
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
    """See the module's docstring."""

    def __init__(self) -> None:
        self._open: dict[int, Request] = {}
        self._held: set[int] = set()
        #: Locks that the code takes for its own, and that have to be granted again before it may go on.
        self._lost: set[int] = set()
        #: How often the execution has been rewound, by now and when it issued those calls that it had by then.
        self._rewinds = 0
        self._issued_at: Sequence[int] = ()

    def __len__(self) -> int:
        return len(self._open) - len(self._held)

    def remember(self, issued_at: Sequence[int], rewinds: int) -> None:
        """What the journal knows of rewinds.

        Args:
            issued_at: how often the execution had been rewound when it issued its first call, its second one, and so
                on.
            rewinds: how often it has been rewound by now.
        """
        self._issued_at, self._rewinds = issued_at, rewinds

    def restore(self, dispatches: Iterable[Dispatch], held: Iterable[LockPermit], asked: Collection[int]) -> None:
        """What is open after a replay.

        Args:
            dispatches: calls that are not answered.
            held: locks that the code takes for its own.
            asked: numbers of calls that were asked again, and not answered since.
        """
        for dispatch in dispatches:
            self.add(dispatch)
        for lock in held:
            self._open[lock.seq] = Request(lock.seq, lock.call, b"", self.rewinds_of(lock.seq), lock.own_token)
            self._held.add(lock.seq)
        self._lost = self._held.intersection(asked)

    def add(self, dispatch: Dispatch) -> Request:
        """The code issued a call that is no step."""
        call = dispatch.call
        assert not isinstance(call, StepCall)
        ask = self._open[dispatch.seq] = Request(dispatch.seq, call, dispatch.payload, self.rewinds_of(dispatch.seq))
        return ask

    def rewinds_of(self, seq: int) -> int:
        """How often the execution had been rewound when its code issued a call."""
        return self._issued_at[seq - 1] if seq <= len(self._issued_at) else self._rewinds

    def again(self) -> list[Request]:
        """All that is open, to be asked again; locks that were held count as lost until then.

        They come first: a task that still waits for a permit is not to get one before those who had it, since nothing
        goes on before they have it again.
        """
        self._lost = set(self._held)
        return sorted(self._open.values(), key=lambda ask: ask.seq not in self._held)

    @property
    def regaining(self) -> bool:
        """Whether the code believes to hold a lock that it does not hold."""
        return bool(self._lost)

    def is_open(self, seq: int) -> bool:
        """Whether a call has still to be answered, or its lock to be granted again."""
        return seq in self._open and (seq not in self._held or seq in self._lost)

    def waiting(self) -> list[Request]:
        """What is not answered yet."""
        return [ask for seq, ask in self._open.items() if self.is_open(seq)]

    def answered(self, seq: int, *, refused: bool = False) -> bool:
        """An answer arrived, or a refusal; answers whether anybody waited for it."""
        if not self.is_open(seq):
            return False
        ask = self._open[seq]
        self._lost.discard(seq)
        if isinstance(ask.call, LockCall) and not refused:
            self._held.add(seq)
        else:
            self._held.discard(seq)
            del self._open[seq]
        return True

    def drop(self, seq: int) -> CancelRequest | None:
        """The code does not wait for it any more, or gave it back; answers what is to be said to others."""
        ask = self._open.pop(seq, None)
        self._held.discard(seq)
        self._lost.discard(seq)
        if ask is None or isinstance(ask.call, SignalCall):
            return None
        if isinstance(ask.call, ChildCall) and ask.call.on_parent_end == "abandon":
            return None
        return CancelRequest(seq, ask.call, ask.rewinds)

    def end(self) -> list[CancelRequest]:
        """The code is over: all that is open is dropped."""
        dropped = [self.drop(seq) for seq in list(self._open)]
        return [unask for unask in dropped if unask is not None]


#: How the text begins if only other executions can let this one go on: locks and children, and no signal.
OTHERS = "others "


@dataclass(frozen=True, slots=True)
class WaitsFor:
    """What an execution waits for, apart from its own steps and timers.

    Args:
        signals: names of signals, each with what its payload has to be as ``module:qualname``; "" for anything.
        locks: names of locks.
        children: ids of executions whose results it waits for.
    """

    signals: tuple[tuple[str, str], ...] = ()
    locks: tuple[str, ...] = ()
    children: tuple[str, ...] = ()

    def to_text(self) -> str:
        """As text; "" for nothing. It begins with :data:`OTHERS` where only other executions can let it go on."""
        said = {"signals": self.signals, "locks": self.locks, "children": self.children}
        given = {kind: value for kind, value in said.items() if value}
        if not given:
            return ""
        return ("" if self.signals else OTHERS) + json.dumps(given, separators=(",", ":"))

    def words(self) -> list[str]:
        """For people, one by one."""
        return [
            *(f"signal {name}" for name, _ in self.signals),
            *(f"lock {name}" for name in self.locks),
            *(f"child {name}" for name in self.children),
        ]

    @classmethod
    def from_text(cls, text: str) -> WaitsFor:
        """What :meth:`to_text` wrote. A damaged text says nothing: it is for those who look, and no replay reads it."""
        text = text.removeprefix(OTHERS)
        try:
            said: dict[str, Any] = json.loads(text) if text else {}
            signals = tuple((str(name), str(kind)) for name, kind in said.get("signals", ()))
            locks, children = (tuple(map(str, said.get(kind, ()))) for kind in ("locks", "children"))
        except (ValueError, TypeError, AttributeError):
            return cls()
        return cls(signals, locks, children)


def signals_text(awaited: list[Awaited]) -> tuple[tuple[str, str], ...]:
    """Signals that the code waits for, as :class:`WaitsFor` has them."""
    return tuple((one.name, type_name(one.annotation)) for one in awaited)


def type_name(annotation: Any) -> str:
    """A class as ``module:qualname``, where another process may find it by that; "" for anything else."""
    if not isinstance(annotation, type) or annotation.__module__ in {"__main__", "builtins"}:
        return ""
    return "" if "<" in annotation.__qualname__ else f"{annotation.__module__}:{annotation.__qualname__}"
