"""The signals of one execution: those that wait for the code, and the code that waits for them.

It owns the order: signals of one name are received in the order in which they were accepted, each once, and waiting
code gets them first come, first served. It knows nothing of inboxes; its machine feeds it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from rayflow.core.effects import Payloads, Rejected
from rayflow.core.events import SignalReceived
from rayflow.core.failures import failure_of
from rayflow.definition.fitting import fitted


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

    def __init__(self, payloads: Payloads, reject: Callable[[Rejected], None]) -> None:
        self._payloads = payloads
        self._reject = reject
        self._queues: dict[str, asyncio.Queue[SignalReceived]] = {}
        #: In the order in which the waits began.
        self._awaited: dict[int, Awaited] = {}

    def deliver(self, signals: Iterable[SignalReceived]) -> None:
        """Signals were accepted."""
        for signal in signals:
            self._queue(signal.name).put_nowait(signal)

    async def receive(self, name: str, annotation: Any) -> Any:
        """Take the next signal of a name; one that does not fit the annotation is rejected, and the next is taken."""
        awaited = Awaited(name, annotation)
        self._awaited[id(awaited)] = awaited
        try:
            while True:
                signal = await self._queue(name).get()
                try:
                    return fitted(self._payloads.decode(signal.payload, annotation), annotation)
                except Exception as error:  # noqa: BLE001 - whatever a codec or a model raises: it does not fit
                    self._reject(Rejected(signal, failure_of(error)))
        finally:
            del self._awaited[id(awaited)]

    def awaited(self) -> list[Awaited]:
        """What the code waits for."""
        return list(self._awaited.values())

    def unconsumed(self) -> tuple[SignalReceived, ...]:
        """The signals that nobody has received, in the order in which they were accepted."""
        left = [signal for queue in self._queues.values() for signal in _items(queue)]
        return tuple(sorted(left, key=lambda signal: signal.number))

    def _queue(self, name: str) -> asyncio.Queue[SignalReceived]:
        queue = self._queues.get(name)
        if queue is None:
            queue = self._queues[name] = asyncio.Queue()
        return queue


def _items(queue: asyncio.Queue[SignalReceived]) -> list[SignalReceived]:
    items: list[SignalReceived] = []
    while not queue.empty():
        items.append(queue.get_nowait())
    return items
