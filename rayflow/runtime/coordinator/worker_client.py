"""A coordinator's lines to the workers of one pool, and what goes over them beside bytes."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from rayflow.runtime.actors import actor_names
from rayflow.runtime.actors.base import (
    ActorChannel,
    ActorLost,
    ActorSystem,
    Channel,
    Envelope,
    ObjectRef,
    Reply,
    opened,
)
from rayflow.runtime.messages import BatchReply, TaskMessage, unpack
from rayflow.storage.codec.payloads import references

#: Lines that are kept at hand.
_LINES = 256


class WorkerChannels:
    """See the module's docstring. Used on the coordinator's thread only.

    Args:
        system: where workers are found.
        pool: the pool's name.
        values: the coordinator's handles on large values.
    """

    def __init__(self, system: ActorSystem, pool: str, values: ObjectRefCache) -> None:
        self._system = system
        self._pool = pool
        self._values = values
        self._lines: dict[str, Channel] = {}

    def parcel(self, data: bytes, tasks: Sequence[TaskMessage]) -> bytes | Envelope:
        """A request, with handles on the large values in its tasks' arguments, as far as there are any."""
        digests = {digest for task in tasks for digest in references(task.payload)}
        held = self._values.of(digests) if digests else {}
        return Envelope(data, held) if held else data

    def read(self, answer: Any, executions: Iterable[str]) -> BatchReply:
        """What a worker has answered; the handles that came with it are kept for these executions."""
        data, held = opened(answer)
        if held:
            self._values.add(executions, held)
        reply: BatchReply = unpack(data)
        return reply

    def call(
        self, worker: str, method: str, request: bytes | Envelope, then: Callable[[Reply], None], label: str
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

    def _line(self, worker: str, method: str) -> Channel:
        key = f"{worker}/{method}"
        if key not in self._lines:
            if len(self._lines) >= _LINES:
                self._lines.clear()
            self._lines[key] = ActorChannel(self._system.find(actor_names.worker(self._pool, worker)), method)
        return self._lines[key]


#: Bytes and handles that a coordinator holds at most.
MOST_BYTES, MOST = 1 << 30, 1_000


class ObjectRefCache:
    """Who was used longest ago goes first. See the module's docstring.

    It owns handles, never the bytes behind them: those are wherever they were made. A handle that is dropped, or whose
    bytes are lost, only costs its user a read from the store.

    Args:
        most_bytes: how many bytes are held at most.
        most: how many handles.
    """

    def __init__(self, most_bytes: int = MOST_BYTES, most: int = MOST) -> None:
        self._most_bytes, self._most = most_bytes, most
        self._held: OrderedDict[str, ObjectRef] = OrderedDict()
        self._of: dict[str, set[str]] = {}
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._held)

    def add(self, executions: Iterable[str], held: Mapping[str, ObjectRef]) -> None:
        """Handles have come with what steps of these executions answered; of no execution, nobody will ask for them."""
        names = list(executions)
        if not names:
            return
        for digest, each in held.items():
            self._drop(digest)
            self._held[digest] = each
            self.bytes += each.size
        for name in names:
            self._of.setdefault(name, set()).update(held)
        while self._held and (self.bytes > self._most_bytes or len(self._held) > self._most):
            self._drop(next(iter(self._held)))

    def of(self, digests: Iterable[str]) -> dict[str, ObjectRef]:
        """The handles on these, as far as there are any."""
        found = {digest: self._held[digest] for digest in digests if digest in self._held}
        for digest in found:
            self._held.move_to_end(digest)
        return found

    def forget(self, execution_id: str) -> None:
        """The execution is not driven here any more: what no other one has used goes."""
        used = self._of.pop(execution_id, set())
        for digest in used.difference(*self._of.values()):
            self._drop(digest)

    def _drop(self, digest: str) -> None:
        gone = self._held.pop(digest, None)
        if gone is not None:
            self.bytes -= gone.size
