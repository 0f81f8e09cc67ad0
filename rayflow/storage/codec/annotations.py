"""Annotations of decoded values: whether a value fits one, and how it is rebuilt if it does not.

Data from outside (a signal sent as JSON) and objects whose class no longer exists arrive as plain dictionaries and
lists. Where an annotation names the intended type, pydantic builds it from them.
"""

from __future__ import annotations

import collections.abc
import dataclasses
import functools
import json
import types
import typing
from collections.abc import Iterator
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import cloudpickle
from pydantic import BaseModel, ConfigDict, TypeAdapter
from pydantic.errors import PydanticUserError

from rayflow.storage.codec.value_types import PLAIN

_BUILTINS = (type(None), bool, int, float, str, bytes, list, dict, tuple, set, frozenset, object)


def fits(value: Any, annotation: Any) -> bool:
    """Return whether a value fits an annotation; True if that cannot be determined."""
    if annotation is None:
        return value is None
    if isinstance(annotation, type) and not isinstance(annotation, types.GenericAlias):
        return _fits_class(value, annotation)
    origin, args = get_origin(annotation), get_args(annotation)
    if origin in (Union, types.UnionType):
        return any(fits(value, arg) for arg in args)
    if origin is Annotated:
        return fits(value, args[0])
    if origin is Literal:
        return any(value == arg and type(value) is type(arg) for arg in args)
    if isinstance(origin, type):
        return _fits_class(value, origin) and _members_fit(value, origin, args)
    if isinstance(annotation, typing.NewType):
        return fits(value, annotation.__supertype__)
    return True


def _fits_class(value: Any, cls: type) -> bool:
    if cls is float:
        return isinstance(value, (int, float))
    if typing.is_typeddict(cls):
        return isinstance(value, dict)
    try:
        return isinstance(value, cls)
    except TypeError:  # a Protocol that is not runtime_checkable
        return True


def _members_fit(value: Any, origin: type, args: tuple[Any, ...]) -> bool:
    if issubclass(origin, tuple):
        if len(args) == 2 and args[1] is Ellipsis:
            return all(fits(member, args[0]) for member in value)
        return len(value) == len(args) and all(map(fits, value, args))
    if issubclass(origin, collections.abc.Mapping) and len(args) == 2:
        return all(fits(key, args[0]) and fits(member, args[1]) for key, member in value.items())
    if issubclass(origin, (list, set, frozenset, collections.abc.Sequence, collections.abc.Set)) and len(args) == 1:
        return all(fits(member, args[0]) for member in value)
    return True


def names_classes(annotation: Any) -> bool:
    """Return whether an annotation names a class other than Python's plain ones, so that there is one to rebuild."""
    args = get_args(annotation)
    if get_origin(annotation) is Literal:
        return False
    if args:
        return any(names_classes(arg) for arg in args)
    return isinstance(annotation, type) and annotation not in _BUILTINS


def rebuild(value: Any, annotation: Any) -> Any:
    """Return the value of an annotation, built from plain data. Raises pydantic's error if that fails."""
    try:
        adapter = _adapter(annotation)
    except TypeError:  # an annotation that cannot be hashed
        adapter = _make_adapter(annotation)
    return adapter.validate_python(value)


def _make_adapter(annotation: Any) -> TypeAdapter[Any]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return TypeAdapter(annotation)
    try:
        return TypeAdapter(annotation, config=ConfigDict(arbitrary_types_allowed=True))
    except PydanticUserError:  # the type has its own configuration
        return TypeAdapter(annotation)


_adapter = functools.lru_cache(maxsize=512)(_make_adapter)


def children(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield the parts of a value, each with the path to it."""
    if isinstance(value, dict):
        described = "__type__" in value
        for key, member in value.items():
            shown = json.dumps(key, ensure_ascii=False) if isinstance(key, str) else repr(key)
            yield (f".{key}" if described else f"[{shown}]"), member
            yield f"[{shown}] (the key)", key
    elif isinstance(value, (list, tuple)):
        yield from ((f"[{index}]", member) for index, member in enumerate(value))
    elif isinstance(value, (set, frozenset)):
        yield from ((f"{{{member!r}}}", member) for member in value)
    elif isinstance(value, BaseModel):
        parts = {**value.__dict__, **(value.__pydantic_extra__ or {}), **(value.__pydantic_private__ or {})}
        yield from ((f".{name}", member) for name, member in parts.items())
    elif not isinstance(value, type):
        names = [f.name for f in dataclasses.fields(value)] if dataclasses.is_dataclass(value) else []
        names += [name for name in getattr(value, "__dict__", ()) if name not in names]
        yield from ((f".{name}", getattr(value, name, None)) for name in names)


def path_to(root: Any, part: Any, path: str = "", seen: set[int] | None = None) -> str | None:
    """Return the path from ``root`` to the object ``part``; None if it is not found."""
    if root is part:
        return path
    seen = set() if seen is None else seen
    if id(root) in seen or isinstance(root, PLAIN):
        return None
    seen.add(id(root))
    for step, child in children(root):
        found = path_to(child, part, path + step, seen)
        if found is not None:
            return found
    return None


def unpicklable(value: Any) -> tuple[str, Any]:
    """Return the innermost part that cannot be pickled, and the path to it."""
    path, seen = "", {id(value)}
    while True:
        for step, child in children(value):
            if id(child) not in seen and not _picklable(child):
                seen.add(id(child))
                path, value = path + step, child
                break
        else:
            return path, value


def _picklable(value: Any) -> bool:
    try:
        cloudpickle.dumps(value)
    except Exception:  # noqa: BLE001 - user classes may raise any exception; only whether they raise matters here
        return False
    return True
