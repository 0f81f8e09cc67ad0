"""A coordinator's lines to the workers of one pool, and what goes over them beside bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from rayflow.runtime import naming
from rayflow.runtime.held import HeldValues
from rayflow.runtime.messages import BatchReply, TaskMessage, unpack
from rayflow.runtime.system import ActorLine, ActorLost, ActorSystem, Line, Parcel, Reply, opened
from rayflow.storage.codec import references

#: Lines that are kept at hand.
_LINES = 256


class Lines:
    """See the module's docstring. Used on the coordinator's thread only.

    Args:
        system: where workers are found.
        pool: the pool's name.
        values: the coordinator's handles on large values.
    """

    def __init__(self, system: ActorSystem, pool: str, values: HeldValues) -> None:
        self._system = system
        self._pool = pool
        self._values = values
        self._lines: dict[str, Line] = {}

    def parcel(self, data: bytes, tasks: Sequence[TaskMessage]) -> bytes | Parcel:
        """A request, with handles on the large values in its tasks' arguments, as far as there are any."""
        digests = {digest for task in tasks for digest in references(task.payload)}
        held = self._values.of(digests) if digests else {}
        return Parcel(data, held) if held else data

    def read(self, answer: Any, executions: Iterable[str]) -> BatchReply:
        """What a worker has answered; the handles that came with it are kept for these executions."""
        data, held = opened(answer)
        if held:
            self._values.add(executions, held)
        reply: BatchReply = unpack(data)
        return reply

    def call(
        self, worker: str, method: str, request: bytes | Parcel, then: Callable[[Reply], None], label: str
    ) -> None:
        """Send a request to a worker; that there is none is told to ``then``, like any other error."""
        try:
            line = self._line(worker, method)
        except ActorLost as error:
            then(Reply(error=error))
        else:
            line.send(request, then, label)

    def forget(self, worker: str) -> None:
        """The worker is gone."""
        for method in ("run", "collect"):
            self._lines.pop(f"{worker}/{method}", None)

    def _line(self, worker: str, method: str) -> Line:
        key = f"{worker}/{method}"
        if key not in self._lines:
            if len(self._lines) >= _LINES:
                self._lines.clear()
            self._lines[key] = ActorLine(self._system.find(naming.worker(self._pool, worker)), method)
        return self._lines[key]
