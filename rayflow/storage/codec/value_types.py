"""Types that msgpack does not know: how their values become plain data and are rebuilt from it.

Each type has a code (a msgpack extension type) and a *payload*: a plain structure that may hold further such values.
:func:`reduce` makes it from a value, :func:`restore` makes the value again. Codes are part of the format: their meaning
never changes.

User classes (dataclasses, enums, pydantic models, named tuples, subclasses of ``str``, ``int``, ``float`` and
``bytes``) are written as ``module:qualname`` and their state, never as code. For a class that no other process can
import (defined in ``__main__`` or inside a function), or that defines its own pickling, :func:`reduce` returns None and
the codec pickles the value.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import decimal
import enum
import importlib
import pathlib
import sys
import uuid
import weakref
import zoneinfo
from collections.abc import Callable, Mapping
from typing import Any

import msgpack
from pydantic import BaseModel

from rayflow.storage.codec.large_values import Reference, read_reference

TUPLE, SET, FROZENSET, DATETIME, DATE, TIME, TIMEDELTA, UUID, DECIMAL, BIGINT, PATH = range(1, 12)
ENUM, DATACLASS, MODEL, SCALAR, NAMEDTUPLE, PICKLE, LARGE = range(12, 19)

Reduced = tuple[int, Any]
Reducer = Callable[[Any], Reduced | None]

#: Values that msgpack writes as they are.
PLAIN = (type(None), bool, int, float, str, bytes)
_BASES = (str, int, float, bytes)
_CONTAINERS = (dict, list, tuple, set, frozenset, BaseException, *_BASES)


class UnresolvableError(Exception):
    """Internal error for a class of a payload that cannot be found here; the codec makes the message."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"{path.replace(':', '.')} cannot be imported: {reason}")


def class_path(cls: type) -> str:
    """Return the name under which a class is written: ``module:qualname``."""
    return f"{cls.__module__}:{cls.__qualname__}"


def load_class(path: str) -> type:
    """Return the class of a name; import its module if needed. Raises UnresolvableError."""
    module_name, _, qualname = path.partition(":")
    try:
        found: Any = sys.modules.get(module_name) or importlib.import_module(module_name)
        for part in qualname.split("."):
            found = getattr(found, part)
    except Exception as error:  # a module of the user may raise anything while it is imported
        raise UnresolvableError(path, f"{type(error).__name__}: {error}") from error
    if not isinstance(found, type):
        raise UnresolvableError(path, f"it is a {type(found).__name__} now, not a class")
    return found


def _importable(cls: type) -> bool:
    if cls.__module__ in ("__main__", "__mp_main__") or "<" in cls.__qualname__:
        return False
    try:
        found = load_class(class_path(cls))
    except UnresolvableError:
        return False
    # Not "is": a module that was loaded again holds a newer class of the same name, which is as good.
    return found.__qualname__ == cls.__qualname__ and found.__module__ == cls.__module__


def _is_dataclass(cls: type) -> bool:
    return dataclasses.is_dataclass(cls)  # apart, since its type guard would hide the class from the type checker


def _pickles_itself(cls: type) -> bool:
    return any(getattr(cls, name) is not getattr(object, name) for name in ("__reduce__", "__reduce_ex__"))


def reduce(value: Any) -> Reduced | None:
    """Return code and payload of a value, or None if only pickle can write it."""
    cls = type(value)
    reducer = _BUILTIN.get(cls) or _known.get(cls)
    if reducer is None:
        reducer = _class_reducer(cls)
        if reducer is None:
            return None
        _known[cls] = reducer
    return reducer(value)


#: Reducers found for classes of the user; weak, so that a class can go with its module.
_known: weakref.WeakKeyDictionary[type, Reducer] = weakref.WeakKeyDictionary()


def _class_reducer(cls: type) -> Reducer | None:
    if not _importable(cls):
        return None
    if issubclass(cls, enum.Enum):
        return _reduce_enum
    if issubclass(cls, BaseModel):
        return _reduce_model
    if issubclass(cls, tuple) and hasattr(cls, "_fields") and hasattr(cls, "_make"):
        return lambda value: (NAMEDTUPLE, [class_path(cls), list(value)])
    if _pickles_itself(cls):
        return None
    if dataclasses.is_dataclass(cls) and not issubclass(cls, _CONTAINERS):
        return _dataclass_reducer(cls)
    if any(issubclass(cls, base) and cls.__new__ is base.__new__ for base in _BASES):
        return lambda value: None if getattr(value, "__dict__", None) else (SCALAR, [class_path(cls), _plain(value)])
    return None


def _plain(value: Any) -> Any:
    # Not str(value) and the like, which the subclass may have overridden.
    if isinstance(value, str):
        return str.__getitem__(value, slice(None))
    if isinstance(value, bytes):
        return bytes.__getitem__(value, slice(None))
    return int.__add__(value, 0) if isinstance(value, int) else float.__pos__(value)


def _reduce_enum(value: enum.Enum) -> Reduced:
    plain = _plain(value.value) if isinstance(value.value, _BASES) else None
    name = None if isinstance(value, enum.Flag) else value.name  # the name of a combined flag is not a member's
    return ENUM, [class_path(type(value)), name, plain]


def _dataclass_reducer(cls: Any) -> Reducer:
    path, names = class_path(cls), [f.name for f in dataclasses.fields(cls)]

    def reduce_dataclass(value: Any) -> Reduced:
        state = {name: getattr(value, name) for name in names if hasattr(value, name)}
        # Attributes that __post_init__ set besides the fields belong to the object too: it does not run again.
        state.update(getattr(value, "__dict__", {}))
        return DATACLASS, [path, state]

    return reduce_dataclass


def _reduce_model(value: BaseModel) -> Reduced:
    state = value.__getstate__()
    private = state["__pydantic_private__"]
    return MODEL, [
        class_path(type(value)),
        dict(state["__dict__"]),
        state["__pydantic_extra__"],
        sorted(state["__pydantic_fields_set__"]),
        None if private is None else dict(private),
    ]


def _reduce_datetime(value: dt.datetime) -> Reduced | None:
    zone = _reduce_zone(value.tzinfo)
    if zone is False:
        return None
    return DATETIME, [value.replace(tzinfo=None).isoformat(), value.fold, zone]


def _reduce_time(value: dt.time) -> Reduced | None:
    zone = _reduce_zone(value.tzinfo)
    if zone is False:
        return None
    return TIME, [value.replace(tzinfo=None).isoformat(), value.fold, zone]


def _reduce_zone(zone: dt.tzinfo | None) -> Any:
    """Return None, a zone's key, or offset (days, seconds, microseconds) and name; False for another library's zone."""
    if zone is None:
        return None
    if type(zone) is dt.timezone:
        offset = zone.utcoffset(None)
        name = zone.tzname(None)
        unnamed = dt.timezone(offset).tzname(None) == name
        return [offset.days, offset.seconds, offset.microseconds, None if unnamed else name]
    if type(zone) is zoneinfo.ZoneInfo and zone.key is not None:
        return zone.key
    return False


def _reduce_bigint(value: int) -> Reduced:
    return BIGINT, value.to_bytes(value.bit_length() // 8 + 1, "big", signed=True)


_BUILTIN: Mapping[type, Reducer] = {
    tuple: lambda value: (TUPLE, list(value)),
    set: lambda value: (SET, list(value)),
    frozenset: lambda value: (FROZENSET, list(value)),
    dt.datetime: _reduce_datetime,
    dt.date: lambda value: (DATE, value.isoformat()),
    dt.time: _reduce_time,
    dt.timedelta: lambda value: (TIMEDELTA, [value.days, value.seconds, value.microseconds]),
    uuid.UUID: lambda value: (UUID, value.bytes),
    decimal.Decimal: lambda value: (DECIMAL, str(value)),
    int: _reduce_bigint,
    Reference: lambda value: (LARGE, value.written()),
    **{
        cls: lambda value: (PATH, [type(value).__name__, str(value)])
        for cls in (pathlib.PosixPath, pathlib.WindowsPath, pathlib.PurePosixPath, pathlib.PureWindowsPath)
    },
}


def restore(code: int, payload: Any) -> Any:
    """Return the value of a code and its payload.

    Raises:
        UnresolvableError: the value's class cannot be imported, or has changed its kind.
        KeyError: the code is unknown.
    """
    return _RESTORERS[code](payload)


def plain(code: int, payload: Any, *, types: bool) -> Any:
    """Return the value of a code as plain data, without an import of user code.

    Args:
        code: the extension code.
        payload: the payload.
        types: whether dictionaries made of objects have their class under ``"__type__"``, and sets become lists (their
            members may not be hashable as plain data).
    """
    if code in (DATACLASS, MODEL):
        state = dict(payload[1])
        if code == MODEL and payload[2]:
            state.update(payload[2])
        return {"__type__": payload[0], **state} if types else state
    if code == ENUM:
        return payload[1] if payload[2] is None else payload[2]
    if code == SCALAR:
        return payload[1]
    if code == NAMEDTUPLE:
        return tuple(payload[1])
    if types and code in (SET, FROZENSET):
        return payload
    if code == LARGE:
        return str(read_reference(payload))
    return restore(code, payload)


def _restore_enum(payload: Any) -> Any:
    path, name, value = payload
    cls: Any = load_class(path)
    if not issubclass(cls, enum.Enum):
        raise UnresolvableError(path, "it is no longer an enum")
    if name in cls.__members__:
        return cls[name]
    try:
        return cls(value)
    except ValueError:
        members = ", ".join(cls.__members__)
        raise UnresolvableError(path, f"it has no member {name or value!r}; it has: {members}") from None


def _restore_dataclass(payload: Any) -> Any:
    path, state = payload
    cls: Any = load_class(path)
    if not _is_dataclass(cls):
        raise UnresolvableError(path, "it is no longer a dataclass")
    made: Any = object.__new__(cls)
    fields = {f.name: f for f in dataclasses.fields(cls)}
    for name, f in fields.items():
        if name in state:
            object.__setattr__(made, name, state[name])
        elif f.default is not dataclasses.MISSING:
            object.__setattr__(made, name, f.default)
        elif f.default_factory is not dataclasses.MISSING:
            object.__setattr__(made, name, f.default_factory())
        elif f.init:
            raise UnresolvableError(path, f"it has a new field {name!r} without a default")
    if hasattr(made, "__dict__"):
        made.__dict__.update({name: value for name, value in state.items() if name not in fields})
    return made


def _restore_model(payload: Any) -> Any:
    path, values, extra, fields_set, private = payload
    cls: Any = load_class(path)
    if not issubclass(cls, BaseModel):
        raise UnresolvableError(path, "it is no longer a pydantic model")
    for name, info in cls.model_fields.items():
        if name not in values:
            if info.is_required():
                raise UnresolvableError(path, f"it has a new field {name!r} without a default")
            values[name] = info.get_default(call_default_factory=True, validated_data=values)
    made = cls.__new__(cls)
    made.__setstate__(
        {
            "__dict__": values,
            "__pydantic_extra__": extra,
            "__pydantic_fields_set__": set(fields_set),
            "__pydantic_private__": private,
        }
    )
    return made


def _restore_scalar(payload: Any) -> Any:
    path, value = payload
    cls = load_class(path)
    base = type(value)
    if not issubclass(cls, base):
        raise UnresolvableError(path, f"it is no longer a {base.__name__}")
    return base.__new__(cls, value)


def _restore_namedtuple(payload: Any) -> Any:
    path, values = payload
    cls: Any = load_class(path)
    try:
        return cls._make(values)
    except (AttributeError, TypeError) as error:
        raise UnresolvableError(path, f"it no longer takes these {len(values)} values ({error})") from None


def _restore_zone(zone: Any) -> dt.tzinfo | None:
    if zone is None:
        return None
    if isinstance(zone, str):
        return zoneinfo.ZoneInfo(zone)
    days, seconds, microseconds, name = zone
    offset = dt.timedelta(days, seconds, microseconds)
    return dt.timezone(offset) if name is None else dt.timezone(offset, name)


def _restore_datetime(payload: Any) -> dt.datetime:
    text, fold, zone = payload
    return dt.datetime.fromisoformat(text).replace(fold=fold, tzinfo=_restore_zone(zone))


def _restore_time(payload: Any) -> dt.time:
    text, fold, zone = payload
    return dt.time.fromisoformat(text).replace(fold=fold, tzinfo=_restore_zone(zone))


def _restore_path(payload: Any) -> pathlib.PurePath:
    name, text = payload
    if name.startswith("Pure"):
        cls: type[pathlib.PurePath] = getattr(pathlib, name)
        return cls(text)
    return pathlib.Path(text)


_RESTORERS: Mapping[int, Callable[[Any], Any]] = {
    TUPLE: tuple,
    SET: set,
    FROZENSET: frozenset,
    DATETIME: _restore_datetime,
    DATE: dt.date.fromisoformat,
    TIME: _restore_time,
    TIMEDELTA: lambda payload: dt.timedelta(*payload),
    UUID: lambda payload: uuid.UUID(bytes=payload),
    DECIMAL: decimal.Decimal,
    BIGINT: lambda payload: int.from_bytes(payload, "big", signed=True),
    PATH: _restore_path,
    ENUM: _restore_enum,
    DATACLASS: _restore_dataclass,
    MODEL: _restore_model,
    SCALAR: _restore_scalar,
    NAMEDTUPLE: _restore_namedtuple,
}


#: Lone surrogates are legal in Python's strings (file names, model output cut in half), so they are kept.
UNICODE_ERRORS = "surrogatepass"


class Packers:
    """Pool of msgpack packers, safe between threads and within its own hook.

    Args:
        default: called with a value that msgpack does not know; returns one that it knows.
        strict_types: whether ``default`` also gets subclasses of built-in types, and tuples.
    """

    __slots__ = ("_default", "_idle", "_strict")

    def __init__(self, default: Callable[[Any], Any], *, strict_types: bool) -> None:
        self._default = default
        self._strict = strict_types
        self._idle: list[msgpack.Packer] = []

    def pack(self, value: Any) -> bytes:
        """Return ``value`` as msgpack. Raises what msgpack and ``default`` raise."""
        try:
            packer = self._idle.pop()
        except IndexError:
            packer = msgpack.Packer(
                default=self._default,
                strict_types=self._strict,
                unicode_errors=UNICODE_ERRORS,
                buf_size=4096,
            )
        packed: bytes = packer.pack(value)
        self._idle.append(packer)
        return packed
