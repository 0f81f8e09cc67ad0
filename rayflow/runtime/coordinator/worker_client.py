"""Worker client of a coordinator: channels to workers, and the references to large values that travel with tasks."""

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
    as_envelope,
)
from rayflow.runtime.messages import BatchReply, TaskMessage, unpack
from rayflow.storage.codec.payloads import references

#: Channels that are kept open.
_MAX_CHANNELS = 256

#: Bytes and references that one coordinator keeps.
MAX_BYTES, MAX_REFS = 1 << 30, 1_000


class WorkerChannels:
    """Channels to the workers of one pool. All methods run on the coordinator's thread."""

    def __init__(self, system: ActorSystem, pool: str, values: ObjectRefCache) -> None:
        self._system = system
        self._pool = pool
        self._values = values
        self._channels: dict[str, Channel] = {}

    def envelope(self, data: bytes, tasks: Sequence[TaskMessage]) -> bytes | Envelope:
        """Return a request together with references to the large values in its tasks' arguments, if there are any."""
        digests = {digest for task in tasks for digest in references(task.payload)}
        refs = self._values.of(digests) if digests else {}
        return Envelope(data, refs) if refs else data

    def read(self, answer: Any, executions: Iterable[str]) -> BatchReply:
        """Unpack a worker's reply, and keep its references for these executions."""
        data, refs = as_envelope(answer)
        if refs:
            self._values.add(executions, refs)
        reply: BatchReply = unpack(data)
        return reply

    def call(
        self, worker: str, method: str, request: bytes | Envelope, then: Callable[[Reply], None], label: str
    ) -> None:
        """Send a request to a worker; ``then`` also receives the error of a missing worker."""
        try:
            channel = self._channel(worker, method)
        except ActorLost as error:
            then(Reply(error=error))
        else:
            channel.send(request, then, label)

    def forget(self, worker: str) -> None:
        """Close the channels to a worker that has died."""
        for method in ("run", "collect"):
            self._channels.pop(f"{worker}/{method}", None)

    def _channel(self, worker: str, method: str) -> Channel:
        key = f"{worker}/{method}"
        if key not in self._channels:
            if len(self._channels) >= _MAX_CHANNELS:
                self._channels.clear()
            self._channels[key] = ActorChannel(self._system.find(actor_names.worker(self._pool, worker)), method)
        return self._channels[key]


class ObjectRefCache:
    """References to large values in shared memory. The least recently used are dropped first.

    The cache owns references, never the bytes behind them: those stay in the process that made them. A reference that
    is dropped, or whose bytes are lost, only costs its user a read from the store.

    Args:
        max_bytes: bytes behind all references.
        max_refs: number of references.
    """

    def __init__(self, max_bytes: int = MAX_BYTES, max_refs: int = MAX_REFS) -> None:
        self._max_bytes, self._max_refs = max_bytes, max_refs
        self._refs: OrderedDict[str, ObjectRef] = OrderedDict()
        self._of: dict[str, set[str]] = {}
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._refs)

    def add(self, executions: Iterable[str], refs: Mapping[str, ObjectRef]) -> None:
        """Add references that steps of these executions returned. Without an execution they would never be used."""
        names = list(executions)
        if not names:
            return
        for digest, ref in refs.items():
            self._drop(digest)
            self._refs[digest] = ref
            self.bytes += ref.size
        for name in names:
            self._of.setdefault(name, set()).update(refs)
        while self._refs and (self.bytes > self._max_bytes or len(self._refs) > self._max_refs):
            self._drop(next(iter(self._refs)))

    def of(self, digests: Iterable[str]) -> dict[str, ObjectRef]:
        """Return the references to these values that are here."""
        found = {digest: self._refs[digest] for digest in digests if digest in self._refs}
        for digest in found:
            self._refs.move_to_end(digest)
        return found

    def forget(self, execution_id: str) -> None:
        """Drop the references that only this execution has used, because it is no longer driven here."""
        used = self._of.pop(execution_id, set())
        for digest in used.difference(*self._of.values()):
            self._drop(digest)

    def _drop(self, digest: str) -> None:
        dropped = self._refs.pop(digest, None)
        if dropped is not None:
            self.bytes -= dropped.size
