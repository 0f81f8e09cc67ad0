"""Large values as one process reads and keeps them: from the system's own memory, and from the store.

What a step answers goes to the store before anybody is told of it; what is told is the reference, with a handle on the
bytes that this process holds. The handle is a hint: whoever finds that it is lost reads from the store.
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

#: Seconds that the owner of a held object, and the store, may take to answer.
_HELD, _STORE = 10.0, 60.0
#: Seconds between two attempts to reach a store that does not answer.
_AGAIN = 0.2


def retry_until(
    what: str, get: Callable[[], T], wait: Callable[[float], bool], within: Callable[[], bool] = lambda: True
) -> T:
    """What ``get`` answers, once the store can be reached: a persistence actor that died is back within seconds.

    Args:
        what: what cannot be done meanwhile, for the log.
        get: asks the store.
        wait: waits so many seconds; answers True if nobody is to wait any longer.
        within: whether there is time for another attempt.

    Raises:
        ClusterError, StorageUnavailable: the store cannot be reached, and there is no time left.
    """
    outage = ThrottledWarning(log, what)
    while True:
        try:
            found = get()
        except (ClusterError, StorageUnavailable) as error:
            if not within() or wait(_AGAIN):
                raise
            outage.failed(error)
        else:
            outage.recovered()
            return found


def read_value(store: Actor, reference: Reference, execution_id: str) -> bytes:
    """The payload of a large value, from the store.

    Args:
        store: the store's actor.
        reference: which one.
        execution_id: whose it is, for the error.

    Raises:
        CorruptRecord: it is not there, or is not what was put.
        ClusterError, StorageUnavailable: the store cannot be reached now.
    """
    data: bytes | None = store.call("value", reference.digest, timeout=_STORE, group="loads")
    if data is None:
        raise CorruptRecord(
            execution_id, f"the large value {reference} is not in the store: there is nothing of {reference.digest}"
        )
    seen = hashlib.sha256(data).hexdigest()
    if seen != reference.digest:
        raise CorruptRecord(
            execution_id,
            f"the large value {reference} is damaged: {len(data)} bytes of sha256 {seen} are there, where "
            f"{reference.digest} was put",
        )
    return data


def put_value(store: Actor, reference: Reference, data: Any) -> None:
    """Have the store keep the payload of a large value.

    Args:
        store: the store's actor.
        reference: what it is.
        data: the bytes, or a handle on them.

    Raises:
        ClusterError, StorageUnavailable: it cannot be kept now.
    """
    store.call("put_value", reference.digest, data, timeout=_STORE, group="values")


class Values:
    """The large values of one attempt. See the module's docstring.

    Args:
        system: where the store is found.
        codec: reads and writes payloads.
        threshold: bytes of a payload beyond which a value is kept by reference.
        execution_id: whose attempt it is.
        held: handles that came with it, by digest.
        made: where handles go that are to be told.
        wait: see :func:`retry_until`.
        keeping: told before something that the attempt answered is kept: its own code is done.
    """

    def __init__(
        self,
        system: ActorSystem,
        codec: MsgpackCodec,
        threshold: int,
        *,
        execution_id: str,
        held: Mapping[str, ObjectRef],
        made: dict[str, ObjectRef],
        wait: Callable[[float], bool],
        keeping: Callable[[], None],
    ) -> None:
        self.codec = codec.reading(self._fetch)
        self._keeping = LargeValueEncoder(self.codec, self._keep, threshold)
        self._system = system
        self._execution_id = execution_id
        self._held = held
        self._made = made
        self._wait = wait
        self._told = keeping

    def encode(self, value: Any) -> bytes:
        """The payload of what a step answered; what is large in it is in the store by then."""
        return self._keeping.encode(value)

    def _fetch(self, reference: Reference) -> bytes:
        held = self._held.get(reference.digest)
        data = None if held is None else self._system.get_object(held.handle, _HELD)
        if data is None:
            what = f"a large value that a step of execution {self._execution_id} was given cannot be read"
            data = retry_until(what, lambda: read_value(self._store(), reference, self._execution_id), self._wait)
            self._hold(reference, data)  # for the next one
        return data

    def _keep(self, reference: Reference, data: bytes) -> None:
        self._told()
        handle = self._hold(reference, data)
        given = data if handle is None else handle
        what = f"the large result of a step of execution {self._execution_id} cannot be kept"
        retry_until(what, lambda: put_value(self._store(), reference, given), self._wait)

    def _store(self) -> Actor:
        return self._system.find(actor_names.STORE)

    def _hold(self, reference: Reference, data: bytes) -> Any:
        handle = self._system.put_object(data)
        if handle is not None:
            self._made[reference.digest] = ObjectRef(handle, reference.size)
        return handle


class CodeValues:
    """The large values of one execution, as its workflow's code has them: read when they are used, and not before.

    What the code makes that is recorded and large is kept by reference, too. It is handed out to be put into the store,
    which has to be done before anything is written that refers to it.

    Args:
        codec: reads and writes payloads.
        read: answers the payload of a large value of an execution; see :func:`read_value`.
        execution_id: the execution.
        threshold: as for :class:`Values`.

    Attributes:
        codec: the codec that the code's payloads go through.
        failed: why a value could not be read. Whatever the code has made of that must not count.
    """

    def __init__(
        self, codec: MsgpackCodec, read: Callable[[Reference, str], bytes], execution_id: str, threshold: int
    ) -> None:
        self.codec = codec.reading(self._fetch, lazy=True)
        self.failed: RayflowError | None = None
        self._keeping = LargeValueEncoder(self.codec, self._keep, threshold)
        self._read = read
        self._execution_id = execution_id
        self._made: dict[str, tuple[Reference, bytes]] = {}

    def encode(self, value: Any) -> bytes:
        """A value as it is recorded."""
        return self._keeping.encode(value)

    def refer(self, data: bytes) -> bytes:
        """A payload as it is recorded."""
        return self._keeping.refer(data)

    def recorded(self, entry: Entry) -> Entry:
        """A journal entry as it is recorded: what the code has made, by reference where it is large."""
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
        """Raise what kept a value from being read."""
        if self.failed is not None:
            raise self.failed

    def take(self) -> dict[str, tuple[Reference, bytes]]:
        """What is to be put into the store, by digest, since the last call."""
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
