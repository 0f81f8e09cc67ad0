"""Payload codec: arguments, results, signals and published state as bytes.

Format 1: the byte 1, then msgpack with the extension types of ``value_types``. Plain data (None, bool, int, float, str,
bytes, lists and dictionaries) goes straight through msgpack and costs one or two microseconds; all other values go
through one hook. Type and value of all of them round-trip exactly, also NaN, -0.0, 1 next to True, nested tuples and
any dictionary key. Two things do not: two references to one list become two lists (except in a value that contains
itself, which is pickled whole), and a ``bytearray`` comes back as ``bytes``.
"""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
import pickle
import sys
from collections.abc import Callable, Iterable
from typing import Any, NoReturn, Protocol

import cloudpickle
import msgpack

from rayflow.core.interpreter.source_lines import origin_of
from rayflow.definition.agent import AgentResult
from rayflow.errors import CodecError, RayflowError, class_name
from rayflow.storage.codec.annotations import children, fits, names_classes, path_to, rebuild, unpicklable
from rayflow.storage.codec.large_values import (
    MARK,
    THRESHOLD,
    LazyValue,
    Reference,
    annotate,
    is_large,
    materialize,
    read_reference,
    refer,
    unchanged,
)
from rayflow.storage.codec.value_types import (
    BIGINT,
    FROZENSET,
    LARGE,
    PICKLE,
    PLAIN,
    SET,
    UNICODE_ERRORS,
    UUID,
    Packers,
    UnresolvableError,
    plain,
    reduce,
    restore,
)

FORMAT = 1
_PREFIX = bytes([FORMAT])
_RAW = frozenset({BIGINT, UUID, PICKLE})  # extensions whose payload is bytes, not msgpack

#: What msgpack packs without asking, and may be large.
_PACKED = (str, bytes, list, dict)

#: Function that returns the payload of a large value. Raises CorruptRecord or StorageUnavailable.
Fetch = Callable[[Reference], bytes]


class Codec(Protocol):
    """Conversion of values to bytes and back. Wrap one to redact or encrypt payloads."""

    def encode(self, value: Any) -> bytes:
        """Return the value as bytes. Raises CodecError with the part of the value that cannot be written."""

    def decode(self, data: bytes, annotation: Any = None, *, strict: bool = False) -> Any:
        """Return the value of encoded bytes.

        Args:
            data: bytes of :meth:`encode`.
            annotation: the intended type; plain data is rebuilt as that type if possible.
            strict: refuse a value that does not fit the annotation and cannot be rebuilt.

        Raises:
            CodecError: the bytes cannot be read, a class of the value cannot be found, or the value does not fit.
        """

    def describe(self, data: bytes) -> Any:
        """Return the value as plain data for display; no user code is imported or run."""


#: What cloudpickle makes functions from, and methods of classes that cannot be imported: bytecode is read by the Python
#: that wrote it alone.
_CODE = b"CodeType"


class MsgpackCodec:
    """Codec of rayflow: msgpack, and cloudpickle for values that msgpack cannot express.

    Args:
        allow_pickle: whether values that only cloudpickle can write are written and read. False refuses both with a
            CodecError that has their place in the value.
        fetch: returns the payloads of large values; None without a store to read them from.
        lazy: decoded values hold stand-ins for large values, which are encoded as their references again. Without it
            large values are read at once, and stand-ins of others are encoded whole.

    Example:
        >>> codec = MsgpackCodec()
        >>> codec.decode(codec.encode({"seen": {1, 2}, 3: (4, 5)}))
        {'seen': {1, 2}, 3: (4, 5)}
    """

    def __init__(self, *, allow_pickle: bool = True, fetch: Fetch | None = None, lazy: bool = False) -> None:
        self.allow_pickle = allow_pickle
        self._fetch = fetch
        self._lazy = lazy
        self._packers = Packers(self._default, strict_types=True)

    def reading(self, fetch: Fetch, *, lazy: bool = False) -> MsgpackCodec:
        """Return the same codec with another source of large values."""
        return MsgpackCodec(allow_pickle=self.allow_pickle, fetch=fetch, lazy=lazy)

    def __getstate__(self) -> dict[str, Any]:
        return {"allow_pickle": self.allow_pickle}

    def __setstate__(self, state: dict[str, Any]) -> None:
        MsgpackCodec.__init__(self, **state)

    def encode(self, value: Any) -> bytes:
        """See :meth:`Codec.encode`."""
        try:
            return _PREFIX + self._packers.pack(value)
        except _RefusedError as refused:
            raise CodecError(refused.explain(value)) from refused.__cause__
        except (ValueError, RecursionError):  # deeper than msgpack goes, larger than 4 GiB, or it contains itself
            return _PREFIX + self._packers.pack(self._whole(value))

    def decode(self, data: bytes, annotation: Any = None, *, strict: bool = False) -> Any:
        """See :meth:`Codec.decode`."""
        try:
            value = _unpack(data, self._restore)
        except UnresolvableError as gone:
            return self._decode_through(data, annotation, gone)
        if is_large(value) and not strict:
            annotate(value, annotation)
            return value
        if annotation is None or not (strict or names_classes(annotation)) or fits(value, annotation):
            return value
        try:
            return rebuild(value, annotation)
        except Exception as error:  # pydantic raises many kinds, for the value and for the annotation
            if strict:
                raise CodecError(f"the value does not fit {_shown(annotation)}: {error}") from error
            return value

    def describe(self, data: bytes) -> Any:
        """See :meth:`Codec.describe`.

        Objects become dictionaries with their class under ``"__type__"``, enum members their values, sets lists,
        pickles the string ``"<pickled N bytes>"``, and large values a text with their size.

        Raises:
            CodecError: the bytes cannot be read.
        """
        return _unpack(data, _describe)

    def _default(self, value: Any) -> Any:
        if is_large(value):
            reference = unchanged(value, self.encode) if self._lazy else None
            value = materialize(value) if reference is None else reference
            if type(value) in _PACKED:
                return value
        reduced = reduce(value)
        if reduced is None:
            return self._pickle(value)
        code, payload = reduced
        return msgpack.ExtType(code, payload if code in _RAW else self._packers.pack(payload))

    def _pickle(self, value: Any) -> msgpack.ExtType:
        if not self.allow_pickle:
            raise _RefusedError(value, None)
        try:
            pickled = cloudpickle.dumps(value)
        except Exception as error:  # __reduce__ of a class of the user may raise anything
            raise _RefusedError(value, error) from error
        return msgpack.ExtType(PICKLE, bytes(sys.version_info[:2]) + pickled)

    def _whole(self, value: Any) -> msgpack.ExtType:
        if not self.allow_pickle:
            raise CodecError(
                "cannot write the value: it contains itself, is nested too deep or is larger than 4 GiB, so that "
                "only cloudpickle can write it, and allow_pickle is off"
            )
        try:
            return self._pickle(value)
        except _RefusedError as refused:
            raise CodecError(refused.explain(value)) from refused.__cause__

    def _restore(self, code: int, payload: Any) -> Any:
        if code == LARGE:
            return self._large(read_reference(payload))
        return self._unpickle(payload) if code == PICKLE else restore(code, payload)

    def _large(self, reference: Reference) -> Any:
        def load(annotation: Any) -> Any:
            if self._fetch is None:
                raise CodecError(f"cannot read {reference}: large values are in a store, and this codec has none")
            return self.decode(self._fetch(reference), annotation)

        return LazyValue(reference, load) if self._lazy else load(None)

    def _unpickle(self, payload: bytes) -> Any:
        if not self.allow_pickle:
            raise _PickleFoundError
        written, here = f"{payload[0]}.{payload[1]}", f"{sys.version_info[0]}.{sys.version_info[1]}"
        if written != here and _CODE in payload:
            raise CodecError(
                f"cannot read a pickled part of the value: it holds code of Python {written}, and this is Python "
                f"{here}. Read it with Python {written}"
            )
        try:
            return pickle.loads(payload[2:])  # noqa: S301 - allow_pickle is what decides on this
        except Exception as error:  # unpickling runs code of the user
            versions = f"written by Python {written}, read by {here}; " if written != here else ""
            raise CodecError(
                f"cannot read a pickled part of the value ({versions}{type(error).__name__}: {error}). "
                "Its module must be importable here, as it was where it was written"
            ) from error

    def _decode_through(self, data: bytes, annotation: Any, gone: UnresolvableError) -> Any:
        """Return the value by its annotation alone, since a class in it cannot be imported."""
        if annotation is None or annotation is Any:
            raise CodecError(f"cannot read the value: {gone}") from gone
        try:
            return rebuild(_unpack(data, self._restore_or_plain), annotation)
        except CodecError:
            raise
        except Exception as error:  # as in decode
            raise CodecError(f"cannot read the value: {gone}; nor does it fit {_shown(annotation)}: {error}") from error

    def _restore_or_plain(self, code: int, payload: Any) -> Any:
        try:
            return self._restore(code, payload)
        except UnresolvableError:
            return plain(code, payload, types=False)


def canonical(value: Any) -> bytes | None:
    """Return the encoding that is the same for equal values, whatever the order of their maps and sets.

    Args:
        value: a value to compare, such as the arguments of a start.

    Returns:
        The bytes, or None if the value contains a part that only cloudpickle can write: pickles of equal values differ
        from process to process.
    """
    try:
        return _PREFIX + _canonical(value)
    except (_RefusedError, RecursionError):
        return None


def references(data: bytes) -> frozenset[str]:
    """Return the digests of the large values to which a payload refers, without those inside of large values."""
    if MARK not in data:
        return frozenset()
    found: set[str] = set()

    def note(code: int, payload: Any) -> None:
        if code == LARGE:
            found.add(read_reference(payload).digest)

    _unpack(data, note)
    return frozenset(found)


def digest(data: bytes) -> str:
    """Return the SHA-256 of ``data`` in hex."""
    return hashlib.sha256(data).hexdigest()


def _unpack(data: bytes, restorer: Callable[[int, Any], Any]) -> Any:
    if data[:1] != _PREFIX:
        _refuse_format(data)

    def hook(code: int, packed: bytes) -> Any:
        return restorer(code, packed if code in _RAW else load(packed))

    def load(packed: bytes | memoryview) -> Any:
        return msgpack.unpackb(
            packed,
            ext_hook=hook,
            strict_map_key=False,
            unicode_errors=UNICODE_ERRORS,
            object_pairs_hook=_pairs if restorer is _describe else None,
        )

    try:
        return load(memoryview(data)[1:])
    except (RayflowError, UnresolvableError):
        raise
    except _PickleFoundError:
        raise CodecError(
            f"cannot read {_where(_pickled_at(_unpack(data, _describe)))}: it was written by cloudpickle, and "
            "allow_pickle is off"
        ) from None
    except Exception as error:  # damaged bytes may fail in msgpack and in any restorer
        raise CodecError(f"the payload of {len(data)} bytes is damaged: {type(error).__name__}: {error}") from error


def _refuse_format(data: bytes) -> NoReturn:
    if not data:
        raise CodecError("the payload is empty, not even a format byte is there")
    raise CodecError(
        f"the payload has format {data[0]}, this rayflow reads format {FORMAT}: it is damaged, was not written by "
        "rayflow, or by a newer one"
    )


class _Pickled(str):
    """Description of a pickle; a separate class, to distinguish it from a user's string."""

    __slots__ = ()


def _describe(code: int, payload: Any) -> Any:
    if code == PICKLE:
        return _Pickled(f"<pickled {len(payload) - 2} bytes>")
    return plain(code, payload, types=True)


def _pairs(pairs: list[tuple[Any, Any]]) -> dict[Any, Any]:
    return {_key(key): value for key, value in pairs}


def _key(key: Any) -> Any:
    try:
        hash(key)
    except TypeError:  # a dataclass as key is a dictionary when described
        return str(key)
    return key


def _pickled_at(described: Any, path: str = "") -> str | None:
    if isinstance(described, _Pickled):
        return path
    for step, child in children(described):
        found = _pickled_at(child, path + step)
        if found is not None:
            return found
    return None


def _refuse(value: Any) -> NoReturn:
    raise _RefusedError(value, None)


_plain_packers = Packers(_refuse, strict_types=True)


def _canonical(value: Any) -> bytes:
    cls = type(value)
    if cls is list:
        return _joined(msgpack.Packer().pack_array_header(len(value)), [_canonical(member) for member in value])
    if cls is dict:
        pairs = sorted((_canonical(key), _canonical(member)) for key, member in value.items())
        return _joined(msgpack.Packer().pack_map_header(len(pairs)), [part for pair in pairs for part in pair])
    if cls in PLAIN and not (cls is int and not -(1 << 63) <= value < 1 << 64):
        return _plain_packers.pack(value)
    reduced = reduce(value)
    if reduced is None:
        raise _RefusedError(value, None)
    code, payload = reduced
    if code in (SET, FROZENSET):
        members = sorted(_canonical(member) for member in payload)
        body = _joined(msgpack.Packer().pack_array_header(len(members)), members)
    else:
        body = payload if code in _RAW else _canonical(payload)
    return _plain_packers.pack(msgpack.ExtType(code, body))


def _joined(header: bytes, parts: list[bytes]) -> bytes:
    return header + b"".join(parts)


class _PickleFoundError(Exception):
    """Error for a pickle where none is allowed."""


class _RefusedError(Exception):
    """Internal error for a part of a value that cannot be written; :meth:`explain` makes the message."""

    def __init__(self, part: Any, reason: Exception | None) -> None:
        super().__init__()
        self.part = part
        self.reason = reason

    def explain(self, root: Any) -> str:
        path = path_to(root, self.part) or ""
        if self.reason is None:
            return (
                f"cannot write {_where(path)}: only cloudpickle can write a {class_name(type(self.part))}, and "
                "allow_pickle is off. Make it a dataclass or pydantic model of an importable module, or plain data"
            )
        step, culprit = unpicklable(self.part)
        if inspect.isawaitable(culprit):
            what = getattr(culprit, "__qualname__", class_name(type(culprit)))
            if inspect.iscoroutine(culprit):
                culprit.close()  # Python need not warn of it as well
            return (
                f"cannot write {_where(path + step)}: {what!r} was called{origin_of(culprit)} without `await`, so "
                f"this is a {class_name(type(culprit))} and not its result. Write `await` in front of the call"
            )
        return (
            f"cannot write {_where(path + step)}: a {class_name(type(culprit))} cannot be serialised "
            f"({self.reason}). Pass what it is made from (an address, a path, a key) and make it inside the step"
        )


def _where(path: str | None) -> str:
    return path or "the value"


def _shown(annotation: Any) -> str:
    return class_name(annotation) if isinstance(annotation, type) else str(annotation)


#: A list or dictionary with at most this many members is split into them; a longer one is stored whole.
_MEMBERS = 100


class LargeValueEncoder:
    """Encoder that stores large values apart and refers to them.

    A value whose payload is above the threshold is stored whole, unless it is a list, tuple or dictionary of a few
    members, or the result of an agent. Of these the large members are stored, so that code can read the other members
    without loading them.

    Args:
        codec: encodes values.
        keep: called with each large value and its payload, possibly twice with the same one.
        threshold: bytes of a payload above which it is stored apart.
    """

    def __init__(
        self, codec: MsgpackCodec, keep: Callable[[Reference, bytes], None], threshold: int = THRESHOLD
    ) -> None:
        self._codec = codec
        self._keep = keep
        self._threshold = threshold

    def encode(self, value: Any) -> bytes:
        """Return the value as a payload. Raises CodecError."""
        data = self._codec.encode(value)
        if len(data) <= self._threshold:
            return data
        return self._codec.encode(self._split(materialize(value), data))

    def refer(self, data: bytes) -> bytes:
        """Return a payload as it is recorded: unchanged, or as a reference.

        A payload that contains references is recorded unchanged, since stored values are not searched for references.
        """
        return data if len(data) <= self._threshold or references(data) else self._codec.encode(self._kept(data))

    def _split(self, value: Any, data: bytes) -> Any:
        """Return the replacement of a value whose payload is too large."""
        cls = type(value)
        if cls is AgentResult:
            apart = dataclasses.replace(value, input=self._part(value.input), output=self._part(value.output))
        elif cls is dict and len(value) <= _MEMBERS:
            apart = dict(zip(value, self._parts(value.values()), strict=True))
        elif cls in {list, tuple} and len(value) <= _MEMBERS:
            apart = cls(self._parts(value))
        else:
            return value if references(data) else self._kept(data, cls)
        if len(self._codec.encode(apart)) <= self._threshold:
            return apart
        return apart if references(data) else self._kept(data, cls)

    def _parts(self, values: Iterable[Any]) -> list[Any]:
        return [self._part(value) for value in values]

    def _part(self, value: Any) -> Any:
        data = self._codec.encode(value)
        return value if len(data) <= self._threshold else self._split(materialize(value), data)

    def _kept(self, data: bytes, cls: type | None = None) -> Reference:
        reference = refer(data, "" if cls is None else cls.__name__)
        self._keep(reference, data)
        return reference
