"""Segments and checkpoints as bytes.

A segment is one transaction: its writer and its changes; or a claim, which changes the writer alone. A checkpoint holds
all records after a segment, in parts of the same form. Both begin with ``rayflow``, a byte for the kind, a byte for the
format, and four bytes of CRC-32 over these two, the number and the rest; so an object that was cut off, altered, or is
in another's place is detected. The rest is msgpack: ``[epoch, nonce, heartbeat]`` of the writer, then maps from the
position of a field of :class:`~rayflow.storage.changes.Changes` to its values.

New fields of records and of changes are appended, with a default, and raise the format; the meaning of a field never
changes. So an object of any older format is read with the defaults of the fields that it lacks, and no object of a
store is ever rewritten because of its format. A newer format is refused. Only a claim always has format 1, since it
holds nothing but the writer: a program that does not know its successor's format still learns of the takeover.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from operator import attrgetter
from typing import Any

import msgpack

from rayflow.core.locks import machine
from rayflow.errors import CorruptRecord, StorageUnavailable
from rayflow.ids import ExecutionStatus
from rayflow.storage.changes import FIELDS, Changes, MemoryData
from rayflow.storage.codec.value_types import UNICODE_ERRORS, Packers
from rayflow.storage.model import (
    FIXED_FIELDS,
    START_FIELDS,
    DeadLetter,
    DefinitionRecord,
    ExecutionRecord,
    InboxRow,
    JournalRow,
    KeyedRecord,
    PoolRecord,
    ScheduleRecord,
    StepNote,
    ValueRecord,
    ValueReference,
)
from rayflow.storage.writer import Writer

FORMAT = 1
SEGMENT, CHECKPOINT = b"S", b"C"
_MAGIC = b"rayflow"
_HEADER = len(_MAGIC) + 6

_ROW_FIELDS = tuple(each.name for each in fields(ExecutionRecord))
#: Fields that are not repeated when an execution changes.
_NOT_REPEATED = tuple(name for name in _ROW_FIELDS if name in (*START_FIELDS, *FIXED_FIELDS) and name != "id")
_CHANGING_FIELDS = tuple(name for name in _ROW_FIELDS if name not in _NOT_REPEATED)
_CHANGING = attrgetter(*_CHANGING_FIELDS)
#: What stands for them until :func:`complete` fills them in.
_UNKNOWN = ExecutionRecord("", "", "", ExecutionStatus.PENDING, 0, 0.0, 0.0, b"", "", "", b"", b"", "")
_GETTERS: Mapping[type, Callable[[Any], Any]] = {
    cls: attrgetter(*(each.name for each in fields(cls)))
    for cls in (
        ExecutionRecord,
        JournalRow,
        InboxRow,
        DeadLetter,
        StepNote,
        DefinitionRecord,
        PoolRecord,
        KeyedRecord,
        ScheduleRecord,
        ValueReference,
        ValueRecord,
        machine.Lock,
        machine.Claim,
    )
}


class UnwritableError(Exception):
    """Error for a record that cannot be encoded."""


@dataclass(frozen=True, slots=True)
class Segment:
    """Transaction in the log.

    Args:
        writer: the writer; with a heartbeat if this is its claim.
        changes: its changes, without the fields that changed executions do not repeat: see :func:`complete`.
    """

    writer: Writer
    changes: Changes

    @property
    def is_claim(self) -> bool:
        """Return whether this is a claim of a writer."""
        return self.writer.heartbeat is not None


def _default(value: object) -> Any:
    getter = _GETTERS.get(type(value))
    if getter is None:
        raise TypeError(f"a {type(value).__name__} cannot be written")
    return getter(value)


_packers = Packers(_default, strict_types=False)


def encode_segment(number: int, writer: Writer, changes: Changes) -> bytes:
    """Return a transaction as bytes. Raises UnwritableError."""
    packed = pack((writer.epoch, writer.nonce, writer.heartbeat)) + _pack_changes(changes)
    return _seal(SEGMENT, number, packed, FORMAT if changes else 1)


def encode_checkpoint(number: int, writer: Writer, claims: Iterable[int], parts: Iterable[Changes]) -> bytes:
    """Return a checkpoint as bytes: the writer, the numbers of all claims, and the records."""
    body = [pack((writer.epoch, writer.nonce, writer.heartbeat)), pack(list(claims))]
    body += [_pack_changes(part) for part in parts]
    return _seal(CHECKPOINT, number, b"".join(body), FORMAT)


def pack(value: Any) -> bytes:
    """Return records, or structures of them, as msgpack. Raises UnwritableError."""
    try:
        return _packers.pack(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise UnwritableError(str(error)) from error


def size_of(operation: object) -> int:
    """Return the encoded size of an operation's content, in bytes. Raises UnwritableError."""
    try:
        return len(_any_packers.pack(operation))
    except (TypeError, ValueError, OverflowError) as error:
        raise UnwritableError(str(error)) from error


def _any(value: object) -> Any:
    if is_dataclass(value):
        return tuple(getattr(value, each.name) for each in fields(value))
    if isinstance(value, Mapping):
        return dict(value)
    return _default(value)


_any_packers = Packers(_any, strict_types=False)


def _pack_changes(changes: Changes) -> bytes:
    written = {index: given for index, name in enumerate(FIELDS) if (given := getattr(changes, name))}
    if changes.changed:
        written[FIELDS.index("changed")] = [_CHANGING(record) for record in changes.changed]
    return pack(written)


def _seal(kind: bytes, number: int, packed: bytes, form: int) -> bytes:
    start = kind + bytes([form])
    return _MAGIC + start + _checksum(start, number, packed) + packed


def _checksum(start: bytes, number: int, packed: bytes | memoryview) -> bytes:
    return zlib.crc32(packed, zlib.crc32(start + number.to_bytes(8, "big"))).to_bytes(4, "big")


def decode_segment(where: str, number: int, data: bytes) -> Segment:
    """Return the transaction of encoded bytes.

    Args:
        where: the object's name, for errors.
        number: the number in the object's name.
        data: bytes of :func:`encode_segment`.

    Raises:
        CorruptRecord: the bytes are damaged or belong to another number.
        StorageUnavailable: the bytes have a newer format.
    """
    writer, changes = _unpack(where, SEGMENT, number, data)
    try:
        return Segment(Writer(*writer), _changes(changes))
    except (TypeError, ValueError, IndexError, KeyError) as error:
        raise CorruptRecord("", f"{where} has a form that this rayflow does not know: {error!r}") from error


def decode_checkpoint(where: str, number: int, data: bytes) -> tuple[Writer, list[int], list[Changes]]:
    """Return the writer, the numbers of all claims, and the records of a checkpoint. Raises as decode_segment."""
    writer, claims, *parts = _unpack(where, CHECKPOINT, number, data)
    try:
        return Writer(*writer), list(claims), [_changes(part) for part in parts]
    except (TypeError, ValueError, IndexError, KeyError) as error:
        raise CorruptRecord("", f"{where} has a form that this rayflow does not know: {error!r}") from error


def _unpack(where: str, kind: bytes, number: int, data: bytes) -> list[Any]:
    if len(data) <= _HEADER or data[: len(_MAGIC)] != _MAGIC:
        raise CorruptRecord("", f"{where} is not what rayflow wrote: {len(data)} bytes, which begin with {data[:8]!r}")
    start, packed = data[len(_MAGIC) : len(_MAGIC) + 2], memoryview(data)[_HEADER:]
    if data[len(_MAGIC) + 2 : _HEADER] != _checksum(start, number, packed) or start[:1] != kind:
        raise CorruptRecord(
            "", f"{where} does not match its checksum: it was cut off, altered, or put in another's place"
        )
    if start[1] > FORMAT:
        raise StorageUnavailable(
            f"{where} has format {start[1]}, and this rayflow reads formats up to {FORMAT}: a newer rayflow wrote the "
            "store. Use that one, or a newer one"
        )
    unpacker = msgpack.Unpacker(max_buffer_size=0, use_list=False, strict_map_key=False, unicode_errors=UNICODE_ERRORS)
    unpacker.feed(packed)
    try:
        return list(unpacker)
    except ValueError as error:  # right checksum, wrong content: it was never one of ours
        raise CorruptRecord("", f"{where} is not msgpack: {error}") from error


def complete(changes: Changes, data: MemoryData) -> Changes:
    """Add the fields that changed executions do not repeat. Raises KeyError if an execution does not exist."""
    known = data.executions
    changes.changed = [
        replace(record, **{name: getattr(known[record.id], name) for name in _NOT_REPEATED})
        for record in changes.changed
    ]
    return changes


def _changes(packed: Mapping[int, Iterable[Any]]) -> Changes:
    return Changes(
        **{FIELDS[index]: [_READERS[FIELDS[index]](each) for each in values] for index, values in packed.items()}
    )


def _execution(values: Sequence[Any]) -> ExecutionRecord:
    return ExecutionRecord(**_named(_ROW_FIELDS, values))


def _changed(values: Sequence[Any]) -> ExecutionRecord:
    return replace(_UNKNOWN, **_named(_CHANGING_FIELDS, values))


def _named(names: Sequence[str], values: Sequence[Any]) -> dict[str, Any]:
    if len(values) > len(names):
        raise ValueError(f"an execution with {len(values)} fields, where {len(names)} are known")
    made = dict(zip(names, values, strict=False))  # older rows have fewer, and the rest has defaults
    made["status"] = ExecutionStatus(made["status"])
    return made


def _lock(values: Any) -> machine.Lock:
    name, limit, last_order, last_token, claims, *_ = values
    return machine.Lock(name, limit, last_order, last_token, tuple(machine.Claim(*claim) for claim in claims))


_READERS: Mapping[str, Callable[[Any], Any]] = {
    "started": _execution,
    "changed": _changed,
    "inputs": tuple,
    "journal": lambda values: (values[0], JournalRow(*values[1])),
    "journal_from": tuple,
    "locks": _lock,
    "schedules": lambda values: ScheduleRecord(*values),
    "inbox": lambda values: (values[0], InboxRow(*values[1])),
    "letters_after": tuple,
    "letters": lambda values: DeadLetter(*values),
    "notes": lambda values: (values[0], StepNote(*values[1])),
    "counts": tuple,
    "definitions": lambda values: DefinitionRecord(*values),
    "pools": lambda values: PoolRecord(*values),
    "no_executions": str,
    "no_letters": tuple,
    "no_schedules": str,
    "no_definitions": str,
    "no_pools": str,
    "references": lambda values: ValueReference(*values),
    "values": lambda values: ValueRecord(*values),
    "no_values": str,
    "records": lambda values: KeyedRecord(*values),
    "no_records": tuple,
}
