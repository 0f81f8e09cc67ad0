"""Journal entries and failures as bytes.

Format 1 of a record: the byte 1, four bytes of CRC-32, then msgpack. A journal row's checksum is seeded with its
position, so that a row in the wrong place is found as well as a damaged one. An entry is
``[kind, fields of the event]``, followed by what the code did (``issued, dropped, state, stages, patches,
compensations``) if it did anything. Kinds (:data:`~rayflow.core.events.EVENT_TRAITS`) and the order of fields are part
of the format: new fields are appended, with a default, and a kind is never given another meaning.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields
from operator import attrgetter
from typing import Any

import msgpack

from rayflow.core.events import EVENT_TRAITS, Entry, Event, SignalReceived, StageNote
from rayflow.errors import CorruptRecord, Failure
from rayflow.ids import ExecutionStatus
from rayflow.storage.codec.value_types import UNICODE_ERRORS, Packers
from rayflow.storage.model import JournalRow

FORMAT = 1
_HEADER = 5


def _getter(cls: Any) -> Callable[[Any], tuple[Any, ...]]:
    names = [f.name for f in fields(cls)]
    if len(names) > 1:
        return attrgetter(*names)
    return lambda value: (getattr(value, names[0]),)  # attrgetter of one name returns the bare value


_WRITERS = {cls: (traits.kind, _getter(cls)) for cls, traits in EVENT_TRAITS.items()}
_failure_fields = _getter(Failure)
_stage_fields = _getter(StageNote)
_effect_fields = attrgetter("issued", "dropped", "state", "stages", "patches", "compensations")
_signal_fields = _getter(SignalReceived)


def _default(value: object) -> tuple[Any, ...]:
    if type(value) is Failure:
        return _failure_fields(value)
    if type(value) is StageNote:
        return _stage_fields(value)
    if type(value) is SignalReceived:
        return _signal_fields(value)
    raise TypeError(f"a journal entry cannot hold a {type(value).__name__}")


_packers = Packers(_default, strict_types=False)


def encode_entry(entry: Entry) -> bytes:
    """Return the entry as bytes; its position is kept by the row and checked when it is read."""
    kind, getter = _WRITERS[type(entry.event)]
    if entry.issued or entry.dropped or entry.state or entry.stages or entry.patches or entry.compensations:
        body = (kind, getter(entry.event), *_effect_fields(entry))
        return _seal(_packers.pack(body), entry.seq)
    return _seal(_packers.pack((kind, getter(entry.event))), entry.seq)


def decode_entry(execution_id: str, seq: int, body: bytes, *, where: str = "") -> Entry:
    """Return the entry of encoded bytes.

    Args:
        execution_id: whose journal, for the error.
        seq: the row's position.
        body: what :func:`encode_entry` wrote.
        where: what it is called in errors; "" for the journal's entry of that position.

    Raises:
        CorruptRecord: the bytes are damaged, belong to another position, or are of a newer format.
    """
    where = where or f"journal entry {seq}"
    record = _open(body, seq, execution_id, where)
    try:
        kind, values, *effects = record
        event = _READERS[kind](values)
        if not effects:
            return Entry(seq, event)
        issued, dropped, state, stages, patches, compensations = effects
        notes = tuple(StageNote(*stage) for stage in stages)
        return Entry(seq, event, issued, dropped, state, notes, patches, compensations)
    except (TypeError, ValueError, KeyError) as error:
        raise CorruptRecord(execution_id, f"{where} has a form that this rayflow does not know: {error!r}") from error


def contents(body: bytes) -> Any:
    """Return the content of an entry as plain data, without checks, for searches in it."""
    return msgpack.unpackb(
        memoryview(body)[_HEADER:], use_list=False, strict_map_key=False, unicode_errors=UNICODE_ERRORS
    )


def encode_failure(failure: Failure) -> bytes:
    """Return the failure as bytes."""
    return _seal(_packers.pack(failure), 0)


def decode_failure(data: bytes, *, execution_id: str = "") -> Failure:
    """Return the failure of encoded bytes.

    Args:
        data: what :func:`encode_failure` wrote.
        execution_id: whose failure, for the error.

    Raises:
        CorruptRecord: the bytes are damaged or of a newer format.
    """
    record = _open(data, 0, execution_id, "failure")
    try:
        return Failure(*record)
    except TypeError as error:
        raise CorruptRecord(execution_id, f"failure has a form that this rayflow does not know: {error!r}") from error


def append_digest(rows: Iterable[JournalRow]) -> str:
    """Digest over the rows of one append (BLAKE2b, 16 bytes, in hex): their positions, lengths and bytes."""
    total = hashlib.blake2b(digest_size=16)
    for row in rows:
        total.update(b"%d:%d:" % (row.seq, len(row.body)))
        total.update(row.body)
    return total.hexdigest()


def _seal(packed: bytes, seed: int) -> bytes:
    return b"\x01" + zlib.crc32(packed, seed & 0xFFFFFFFF).to_bytes(4, "big") + packed


def _open(data: bytes, seed: int, execution_id: str, where: str) -> Any:
    if not isinstance(data, bytes):
        raise CorruptRecord(execution_id, f"{where} is a {type(data).__name__}, where bytes were written")
    if len(data) <= _HEADER:
        raise CorruptRecord(execution_id, f"{where} is cut off: {len(data)} bytes are left")
    if data[0] != FORMAT:
        raise CorruptRecord(
            execution_id,
            f"{where} has format {data[0]}, this rayflow reads format {FORMAT}: damaged, or from a newer one",
        )
    packed = memoryview(data)[_HEADER:]
    if zlib.crc32(packed, seed & 0xFFFFFFFF) != int.from_bytes(data[1:_HEADER], "big"):
        raise CorruptRecord(execution_id, f"{where} does not match its checksum: damaged, or from another position")
    try:
        return msgpack.unpackb(packed, use_list=False, strict_map_key=False, unicode_errors=UNICODE_ERRORS)
    except ValueError as error:  # right checksum, wrong content: it was never one of our records
        raise CorruptRecord(execution_id, f"{where} is not msgpack: {error}") from error


def _reader(cls: Any) -> Callable[[tuple[Any, ...]], Event]:
    converters = [(index, _CONVERTERS[f.name]) for index, f in enumerate(fields(cls)) if f.name in _CONVERTERS]
    if not converters:
        return lambda values: cls(*values)

    def read(values: tuple[Any, ...]) -> Event:
        changed = list(values)
        for index, convert in converters:
            if index < len(changed) and changed[index] is not None:
                changed[index] = convert(changed[index])
        made: Event = cls(*changed)
        return made

    return read


_CONVERTERS: Mapping[str, Callable[[Any], Any]] = {
    "failure": lambda values: Failure(*values),
    "status": ExecutionStatus,
    "signals": lambda values: tuple(SignalReceived(*signal) for signal in values),
}
_READERS = {traits.kind: _reader(cls) for cls, traits in EVENT_TRAITS.items()}
