"""Signals that an execution has accepted, and the state that its code publishes.

The code receives signals of one name in the order in which they were accepted, each once; tasks that wait for one name
receive them first come, first served. Changes of the state are kept, encoded, for the entry of the event.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any

from rayflow.core.events import SignalReceived
from rayflow.core.failures import failure_of
from rayflow.core.interpreter.effects import Payloads, RejectedSignal
from rayflow.definition.checks import fitted


@dataclass(frozen=True, slots=True, eq=False)
class Awaited:
    """Signal that the code waits for.

    Args:
        name: name of the signal.
        annotation: type of the payload; None for any.
    """

    name: str
    annotation: Any


class Signals:
    """Queues of signals by name; ``reject`` receives signals whose payload does not fit."""

    def __init__(self, payloads: Payloads, reject: Callable[[RejectedSignal], None]) -> None:
        self._payloads = payloads
        self._reject = reject
        #: Each signal with its position in the order of acceptance. Numbers of inbox rows do not give that order: those
        #: of a fork start again, while the fork has taken over signals of its source.
        self._queues: dict[str, asyncio.Queue[tuple[int, SignalReceived]]] = {}
        self._accepted = 0
        #: In the order in which the tasks began to wait.
        self._awaited: dict[int, Awaited] = {}

    def deliver(self, signals: Iterable[SignalReceived]) -> None:
        """Put accepted signals into their queues."""
        for signal in signals:
            self._accepted += 1
            self._queue(signal.name).put_nowait((self._accepted, signal))

    async def receive(self, name: str, annotation: Any) -> Any:
        """Return the payload of the next signal of a name. Signals that do not fit the annotation are rejected."""
        awaited = Awaited(name, annotation)
        self._awaited[id(awaited)] = awaited
        try:
            while True:
                _, signal = await self._queue(name).get()
                try:
                    return fitted(self._payloads.decode(signal.payload, annotation), annotation)
                except Exception as error:  # noqa: BLE001 - whatever a codec or a model raises means that it does not fit
                    self._reject(RejectedSignal(signal, failure_of(error)))
        finally:
            del self._awaited[id(awaited)]

    def awaited(self) -> list[Awaited]:
        """Return the signals that the code waits for."""
        return list(self._awaited.values())

    def unconsumed(self) -> tuple[SignalReceived, ...]:
        """Return the signals that the code has not received, in the order in which they were accepted."""
        left = dict(item for queue in self._queues.values() for item in _items(queue))
        return tuple(left[place] for place in sorted(left))

    def _queue(self, name: str) -> asyncio.Queue[tuple[int, SignalReceived]]:
        queue = self._queues.get(name)
        if queue is None:
            queue = self._queues[name] = asyncio.Queue()
        return queue


def _items(queue: asyncio.Queue[tuple[int, SignalReceived]]) -> list[tuple[int, SignalReceived]]:
    items: list[tuple[int, SignalReceived]] = []
    while not queue.empty():
        items.append(queue.get_nowait())
    return items


class ExecutionState(MutableMapping[str, Any]):
    """Mapping that keeps its changes, encoded, for the journal."""

    def __init__(self, payloads: Payloads) -> None:
        self._payloads = payloads
        self._values: dict[str, Any] = {}
        #: Changes since :meth:`take`, by key; None for a deleted key.
        self._changes: dict[str, bytes | None] = {}

    def take(self) -> dict[str, bytes | None]:
        """Return the changes since the last call."""
        changes, self._changes = self._changes, {}
        return changes

    def load(self, encoded: Mapping[str, bytes]) -> None:
        """Set values that the journal has already."""
        self._values.update((key, self._payloads.decode(value)) for key, value in encoded.items())

    def encoded(self) -> dict[str, bytes]:
        """Return all values, encoded, for the next run."""
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
