"""Context variables that workflow code sets, as its steps receive them."""

from __future__ import annotations

import contextvars
import sys
from collections.abc import Callable
from typing import Any

from rayflow.core.interpreter.effects import Payloads
from rayflow.errors import RayflowError

#: Modules whose variables mean something in this process alone.
_LEFT_OUT = ("rayflow", "asyncio", "anyio", "sniffio", "decimal", "_decimal")

#: Where variables are found, by variable; "" for one that is global in no module.
_places: dict[contextvars.ContextVar[Any], str] = {}


class ContextVariables:
    """The variables of one execution: encoded for each step, and reported once where that is not possible."""

    def __init__(self, payloads: Payloads, warn: Callable[[str, BaseException | None], None]) -> None:
        self._payloads = payloads
        self._warn = warn
        self._reported: set[str] = set()

    def encoded(self) -> tuple[tuple[str, bytes], ...]:
        """Return the variables that are set in the running task, as ``module:name``, with their encoded values."""
        context = contextvars.copy_context()
        if not context:  # as in most workflows
            return ()
        found = []
        # By name: a context iterates by address.
        for variable, value in sorted(context.items(), key=lambda item: item[0].name):
            place = _place_of(variable)
            if place.startswith(_LEFT_OUT) or variable.name == "decimal_context":
                continue
            if not place:
                self._report(variable.name, "it is not a global of a module, by which a worker could find it")
                continue
            try:
                found.append((place, self._payloads.encode(value)))
            except RayflowError as error:
                self._report(variable.name, str(error).partition(". ")[0])
        return tuple(found)

    def _report(self, name: str, why: str) -> None:
        if name not in self._reported:
            self._reported.add(name)
            self._warn(
                f"steps do not receive the context variable {name!r}: {why}. Pass the value as an argument", None
            )


def _place_of(variable: contextvars.ContextVar[Any]) -> str:
    known = _places.get(variable)
    if known is None:
        known = _places[variable] = next(
            (
                f"{module}:{name}"
                for module, loaded in list(sys.modules.items())
                for name, value in list(getattr(loaded, "__dict__", {}).items())
                if value is variable
            ),
            "",
        )
    return known
