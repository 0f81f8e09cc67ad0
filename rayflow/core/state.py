"""An execution's state, as its code sets it and its snapshot shows it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, MutableMapping
from typing import Any

from rayflow.core.effects import Payloads


class ExecutionState(MutableMapping[str, Any]):
    """A mapping whose changes are noted, encoded, for the journal.

    Args:
        payloads: the codec.
    """

    def __init__(self, payloads: Payloads) -> None:
        self._payloads = payloads
        self._values: dict[str, Any] = {}
        #: What changed since :meth:`take`; None for what was deleted.
        self._changes: dict[str, bytes | None] = {}

    def take(self) -> dict[str, bytes | None]:
        """What changed since the last call."""
        changes, self._changes = self._changes, {}
        return changes

    def load(self, encoded: Mapping[str, bytes]) -> None:
        """Set values that are recorded elsewhere."""
        self._values.update((key, self._payloads.decode(value)) for key, value in encoded.items())

    def encoded(self) -> dict[str, bytes]:
        """All of it, for another run to load."""
        return {key: self._payloads.encode(value) for key, value in self._values.items()}

    def __getitem__(self, key: str) -> Any:
        return self._values[key]

    def __setitem__(self, key: str, value: Any) -> None:
        self._changes[key] = self._payloads.encode(value)
        self._values[key] = value

    def __delitem__(self, key: str) -> None:
        del self._values[key]
        self._changes[key] = None

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)
