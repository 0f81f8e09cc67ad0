"""Whether a decoded value fits an annotation, and how it is rebuilt where it does not.

Data from outside (a signal sent as JSON), and objects whose class has gone, arrive as plain dictionaries and
lists. Where the annotation says what they are meant to be, pydantic makes it from them.
"""

from __future__ import annotations

import collections.abc
import functools
import types
import typing
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, TypeAdapter
from pydantic.errors import PydanticUserError

_BUILTINS = (type(None), bool, int, float, str, bytes, list, dict, tuple, set, frozenset, object)


def fits(value: Any, annotation: Any) -> bool:
    """Whether a value is what the annotation says, as far as that can be told; what cannot, fits."""
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
    """Whether an annotation mentions a class other than Python's plain ones, so that there is one to rebuild."""
    args = get_args(annotation)
    if get_origin(annotation) is Literal:
        return False
    if args:
        return any(names_classes(arg) for arg in args)
    return isinstance(annotation, type) and annotation not in _BUILTINS


def rebuild(value: Any, annotation: Any) -> Any:
    """What the annotation says, made from plain data. Raises whatever pydantic raises, and says why."""
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
    except PydanticUserError:  # the type brings a configuration of its own
        return TypeAdapter(annotation)


_adapter = functools.lru_cache(maxsize=512)(_make_adapter)
