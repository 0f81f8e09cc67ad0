"""What an execution waits for, as text: kept in its row for those who look, signal, or search for deadlocks."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from rayflow.core.signals import Awaited

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
