"""The signals of one execution: those that wait for the code, and the code that waits for them.

It owns the order: signals of one name are received in the order in which they were accepted, each once, and waiting
code gets them first come, first served. It knows nothing of inboxes; its machine feeds it.
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
    """The code waits for a signal.

    Args:
        name: of that name.
        annotation: what its payload has to be; None for anything.
    """

    name: str
    annotation: Any


class Signals:
    """See the module's docstring.

    Args:
        payloads: the codec.
        reject: told of signals that do not fit.
    """

    def __init__(self, payloads: Payloads, reject: Callable[[RejectedSignal], None]) -> None:
        self._payloads = payloads
        self._reject = reject
        #: Each signal with its place in the order of acceptance. The numbers of inbox rows do not tell it: those of a
        #: fork begin again, although the fork has signals of its source.
        self._queues: dict[str, asyncio.Queue[tuple[int, SignalReceived]]] = {}
        self._accepted = 0
        #: In the order in which the waits began.
        self._awaited: dict[int, Awaited] = {}

    def deliver(self, signals: Iterable[SignalReceived]) -> None:
        """Signals were accepted."""
        for signal in signals:
            self._accepted += 1
            self._queue(signal.name).put_nowait((self._accepted, signal))

    async def receive(self, name: str, annotation: Any) -> Any:
        """Take the next signal of a name; one that does not fit the annotation is rejected, and the next is taken."""
        awaited = Awaited(name, annotation)
        self._awaited[id(awaited)] = awaited
        try:
            while True:
                _, signal = await self._queue(name).get()
                try:
                    return fitted(self._payloads.decode(signal.payload, annotation), annotation)
                except Exception as error:  # noqa: BLE001 - whatever a codec or a model raises: it does not fit
                    self._reject(RejectedSignal(signal, failure_of(error)))
        finally:
            del self._awaited[id(awaited)]

    def awaited(self) -> list[Awaited]:
        """Return the open waits of the code."""
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
    """A mapping whose changes are noted, encoded, for the journal.

    Args:
        payloads: the codec.
    """

    def __init__(self, payloads: Payloads) -> None:
        self._payloads = payloads
        self._values: dict[str, Any] = {}
        #: Changes since :meth:`take`; None for a deleted key.
        self._changes: dict[str, bytes | None] = {}

    def take(self) -> dict[str, bytes | None]:
        """Return the changes since the last call."""
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
