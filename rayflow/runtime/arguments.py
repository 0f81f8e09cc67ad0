"""A step's arguments, read from their payload and rebuilt as its function declares them.

Values know their own classes as far as the codec could write them. The annotations help where that is not so:
plain data from outside (a signal, JSON) where a model is declared, or an object whose class was moved since.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any

from rayflow.errors import CodecError
from rayflow.storage._annotations import fits, names_classes
from rayflow.storage.codec import Codec

Arguments = tuple[tuple[Any, ...], dict[str, Any]]


def read_arguments(codec: Codec, payload: bytes, fn: Callable[..., Any]) -> Arguments:
    """The positional and keyword arguments for ``fn``.

    Args:
        codec: wrote the payload.
        payload: an encoded (args, kwargs).
        fn: the function that they are for.

    Raises:
        CodecError: the payload cannot be read, not even through the annotations.
    """
    hints = _cached_hints(fn)
    try:
        args, kwargs = codec.decode(payload)
    except CodecError:
        if not hints:
            raise
        # Objects whose class is gone become plain data, which the annotations then make into what is declared.
        args, kwargs = codec.decode(payload, tuple[tuple[Any, ...], dict[str, Any]])
    if not hints:
        return tuple(args), dict(kwargs)
    return _each(fn, args, kwargs, lambda name, value: _rebuilt(codec, value, hints.get(name)))


def _rebuilt(codec: Codec, value: Any, hint: Any) -> Any:
    if hint is None or fits(value, hint):
        return value
    return codec.decode(codec.encode(value), hint)


def _each(
    fn: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any], change: Callable[[str, Any], Any]
) -> Arguments:
    """The arguments with each one changed, given the name of its parameter."""
    try:
        bound = inspect.signature(fn).bind(*args, **kwargs)
    except TypeError:
        return tuple(args), dict(kwargs)  # they do not fit: calling the function says so best
    for name, parameter in bound.signature.parameters.items():
        if name not in bound.arguments:
            continue
        value = bound.arguments[name]
        if parameter.kind is inspect.Parameter.VAR_POSITIONAL:
            bound.arguments[name] = tuple(change(name, member) for member in value)
        elif parameter.kind is inspect.Parameter.VAR_KEYWORD:
            bound.arguments[name] = {key: change(name, member) for key, member in value.items()}
        else:
            bound.arguments[name] = change(name, value)
    return bound.args, bound.kwargs


def _cached_hints(fn: Callable[..., Any]) -> Mapping[str, Any]:
    try:
        return _hints(fn)
    except TypeError:  # a callable object that cannot be hashed
        return _find_hints(fn)


def _find_hints(fn: Callable[..., Any]) -> Mapping[str, Any]:
    """The annotations that could rebuild an argument, by parameter; those that cannot be resolved are left out."""
    try:
        parameters = inspect.signature(fn).parameters.values()
    except (TypeError, ValueError):
        return {}
    plain: Any = fn
    while isinstance(plain, functools.partial):
        plain = plain.func
    plain = inspect.unwrap(getattr(plain, "__func__", plain))
    if not hasattr(plain, "__globals__"):  # a callable object: its class knows the names
        plain = type(plain).__call__
    found = {}
    for parameter in parameters:
        if parameter.annotation is not parameter.empty:
            hint = resolved(parameter.annotation, plain)
            if hint is not None and hint is not Any and names_classes(hint):
                found[parameter.name] = hint
    return types.MappingProxyType(found)


_hints = functools.lru_cache(maxsize=1024)(_find_hints)


def resolved(annotation: Any, fn: Any) -> Any:
    """An annotation of a function with its names looked up; None if they cannot be."""
    carrier = types.SimpleNamespace(__annotations__={"it": annotation})
    nearby: dict[str, Any] = {}
    with contextlib.suppress(TypeError, ValueError):  # no plain function, or an empty cell: fewer names are known
        nearby = dict(inspect.getclosurevars(fn).nonlocals)
    try:
        return typing.get_type_hints(carrier, getattr(fn, "__globals__", {}), nearby, include_extras=True)["it"]
    except Exception:  # noqa: BLE001 - a string annotation is any expression, and may raise anything
        return None
