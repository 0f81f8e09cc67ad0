"""Large values in one process: read from shared memory or the store, and stored before they are reported.

A step's large result is in the store before its coordinator receives it. The coordinator receives the digest together
with a reference to the bytes in this process's shared memory. That reference is a hint: if the bytes are lost, the
reader takes them from the store.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, TypeVar

from rayflow.core.events import Continued, Ended, Entry, StageNote
from rayflow.core.interpreter.sandbox import outside
from rayflow.errors import ClusterError, CorruptRecord, RayflowError, StorageUnavailable
from rayflow.runtime.actors import actor_names
from rayflow.runtime.actors.base import Actor, ActorSystem, ObjectRef
from rayflow.runtime.logs import ThrottledWarning
from rayflow.storage.codec.large_values import Reference
from rayflow.storage.codec.payloads import LargeValueEncoder, MsgpackCodec

T = TypeVar("T")
log = logging.getLogger(__name__)

#: Seconds that shared memory, and the store, may take to return a value.
_MEMORY_TIMEOUT, _STORE_TIMEOUT = 10.0, 60.0
#: Seconds between two attempts to reach a store that does not answer.
_RETRY_DELAY = 0.2


def retry_until(
    what: str, get: Callable[[], T], wait: Callable[[float], bool], within: Callable[[], bool] = lambda: True
) -> T:
    """Return what ``get`` returns, repeated while the store cannot be reached: it restarts within seconds.

    Args:
        what: what fails during this time, for the log.
        get: calls the store.
        wait: blocks for a number of seconds, and returns True if the caller should stop waiting.
        within: returns whether there is time for another attempt.

    Raises:
        ClusterError, StorageUnavailable: if the store cannot be reached within the time limit.
    """
    outage = ThrottledWarning(log, what)
    while True:
        try:
            found = get()
        except (ClusterError, StorageUnavailable) as error:
            if not within() or wait(_RETRY_DELAY):
                raise
            outage.failed(error)
        else:
            outage.recovered()
            return found


def read_value(store: Actor, reference: Reference, execution_id: str) -> bytes:
    """Return the payload of a large value from the store actor.

    Raises:
        CorruptRecord: if it is missing or damaged; the error names ``execution_id``.
        ClusterError, StorageUnavailable: if the store cannot be reached now.
    """
    data: bytes | None = store.call("value", reference.digest, timeout=_STORE_TIMEOUT, group="loads")
    if data is None:
        raise CorruptRecord(
            execution_id, f"the large value {reference} is missing in the store, under digest {reference.digest}"
        )
    seen = hashlib.sha256(data).hexdigest()
    if seen != reference.digest:
        raise CorruptRecord(
            execution_id,
            f"the large value {reference} is damaged: the store has {len(data)} bytes with sha256 {seen} under digest "
            f"{reference.digest}",
        )
    return data


def put_value(store: Actor, reference: Reference, data: Any) -> None:
    """Save the payload of a large value: its bytes or their shared-memory handle.

    Raises:
        ClusterError, StorageUnavailable: if it cannot be saved now.
    """
    store.call("put_value", reference.digest, data, timeout=_STORE_TIMEOUT, group="values")


class Values:
    """The large values of one attempt.

    Args:
        threshold: payload size in bytes beyond which a value is stored by reference.
        execution_id: the execution of the attempt.
        refs: the references that came with the task, by digest.
        new_refs: receives the references for the reply.
        wait: as for :func:`retry_until`.
        storing: called before a result is stored: the step's own code has finished.
    """

    def __init__(
        self,
        system: ActorSystem,
        codec: MsgpackCodec,
        threshold: int,
        *,
        execution_id: str,
        refs: Mapping[str, ObjectRef],
        new_refs: dict[str, ObjectRef],
        wait: Callable[[float], bool],
        storing: Callable[[], None],
    ) -> None:
        self.codec = codec.reading(self._fetch)
        self._encoder = LargeValueEncoder(self.codec, self._keep, threshold)
        self._system = system
        self._execution_id = execution_id
        self._refs = refs
        self._new_refs = new_refs
        self._wait = wait
        self._storing = storing

    def encode(self, value: Any) -> bytes:
        """Encode a step's result; its large values are in the store afterwards."""
        return self._encoder.encode(value)

    def _fetch(self, reference: Reference) -> bytes:
        ref = self._refs.get(reference.digest)
        data = None if ref is None else self._system.get_object(ref.handle, _MEMORY_TIMEOUT)
        if data is None:
            what = f"a large argument of a step of execution {self._execution_id} cannot be read"
            data = retry_until(what, lambda: read_value(self._store(), reference, self._execution_id), self._wait)
            self._share(reference, data)  # for the next reader
        return data

    def _keep(self, reference: Reference, data: bytes) -> None:
        self._storing()
        handle = self._share(reference, data)
        given = data if handle is None else handle
        what = f"the large result of a step of execution {self._execution_id} cannot be stored"
        retry_until(what, lambda: put_value(self._store(), reference, given), self._wait)

    def _store(self) -> Actor:
        return self._system.find(actor_names.STORE)

    def _share(self, reference: Reference, data: bytes) -> Any:
        handle = self._system.put_object(data)
        if handle is not None:
            self._new_refs[reference.digest] = ObjectRef(handle, reference.size)
        return handle


class CodeValues:
    """The large values of one execution's workflow code, read only when they are used.

    Large values that the code makes are recorded by reference, too. :meth:`take` returns them to the coordinator, which
    puts them into the store before it writes anything that refers to them.

    Args:
        read: returns the payload of a large value of an execution, as :func:`read_value` does.
        threshold: as for :class:`Values`.

    Attributes:
        codec: the codec for the code's payloads.
        failed: why a value could not be read. What the code has done since must not be recorded.
    """

    def __init__(
        self, codec: MsgpackCodec, read: Callable[[Reference, str], bytes], execution_id: str, threshold: int
    ) -> None:
        self.codec = codec.reading(self._fetch, lazy=True)
        self.failed: RayflowError | None = None
        self._encoder = LargeValueEncoder(self.codec, self._keep, threshold)
        self._read = read
        self._execution_id = execution_id
        self._made: dict[str, tuple[Reference, bytes]] = {}

    def encode(self, value: Any) -> bytes:
        """Encode a value for the journal."""
        return self._encoder.encode(value)

    def refer(self, data: bytes) -> bytes:
        """Return a payload for the journal, with its large values by reference."""
        return self._encoder.refer(data)

    def recorded(self, entry: Entry) -> Entry:
        """Return a journal entry with its large values by reference."""
        event = entry.event
        if isinstance(event, Ended) and event.result is not None:
            entry = replace(entry, event=replace(event, result=self.refer(event.result)))
        elif isinstance(event, Continued) and event.state:
            state = {key: self.refer(value) for key, value in event.state.items()}
            entry = replace(entry, event=replace(event, state=state))
        if entry.state:
            entry = replace(entry, state={k: None if v is None else self.refer(v) for k, v in entry.state.items()})
        if entry.stages:
            entry = replace(entry, stages=tuple(self._stage(note) for note in entry.stages))
        return entry

    def check(self) -> None:
        """Raise the error of a value that could not be read."""
        if self.failed is not None:
            raise self.failed

    def take(self) -> dict[str, tuple[Reference, bytes]]:
        """Return the values to put into the store since the last call, by digest."""
        made, self._made = self._made, {}
        return made

    def _stage(self, note: StageNote) -> StageNote:
        return note if note.result is None else replace(note, result=self.refer(note.result))

    def _keep(self, reference: Reference, data: bytes) -> None:
        self._made[reference.digest] = (reference, data)

    def _fetch(self, reference: Reference) -> bytes:
        try:
            with outside():
                return self._read(reference, self._execution_id)
        except RayflowError as error:
            self.failed = self.failed or error
            raise
