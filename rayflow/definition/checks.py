"""Shared checks of definitions. Each error names the place, the mistake and the correct form."""

from __future__ import annotations

import contextlib
import functools
import inspect
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pydantic import ConfigDict, PydanticUserError, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from rayflow.errors import DefinitionError, InvalidInput
from rayflow.ids import argument_error

#: The longest name: it becomes a label of metrics and a column on a screen.
LONGEST_NAME = 200


def check_name(kind: str, value: object, *, forbidden: str = "") -> str:
    """Return ``value`` if it can be a name. Names are for people; ids are stricter (``rayflow.ids.check_id``).

    Args:
        kind: what it names, for the message: "step name", "agent id".
        value: the name.
        forbidden: characters that it must not have.

    Raises:
        InvalidArgument: it is not a string, empty, too long, unprintable, or has a forbidden character.
            DefinitionError for the name of a workflow, step or agent.
    """
    if not isinstance(value, str):
        raise argument_error(kind)(f"{kind} must be a string, not {type(value).__name__}")
    if not value.strip():
        raise argument_error(kind)(f"{kind} must not be empty")
    if len(value) > LONGEST_NAME or not value.isprintable():
        raise argument_error(kind)(f"{kind} {value!r} does not fit: 1 to {LONGEST_NAME} printable characters")
    for character in forbidden:
        if character in value:
            raise argument_error(kind)(f"{kind} {value!r} must not contain {character!r}")
    return value


def check_function(kind: str, fn: object) -> Callable[..., Any]:
    """Return ``fn`` if it is a function that can be called alone and returns once.

    Args:
        kind: kind of the definition, for the message: "step", "workflow", "agent".
        fn: what the decorator was put on.

    Raises:
        DefinitionError: it is a class, a method, a generator, or cannot be called.
    """
    name = getattr(fn, "__qualname__", None) or repr(fn)
    if isinstance(fn, staticmethod | classmethod):
        raise DefinitionError(f"{kind} {name}: put @rf.{kind} below @{type(fn).__name__}, next to the function")
    if isinstance(fn, type) or not callable(fn):
        what = "a class" if isinstance(fn, type) else f"{type(fn).__name__} {fn!r}"
        raise DefinitionError(f"@rf.{kind} needs a function, not {what}")
    if inspect.isgeneratorfunction(fn) or inspect.isasyncgenfunction(fn):
        raise DefinitionError(f"{kind} {name} is a generator; a {kind} returns once: return a list instead of yielding")
    first = next(iter(signature_of(kind, fn).parameters.values()), None)
    if inspect.isfunction(fn) and first is not None and first.name in {"self", "cls"}:
        raise DefinitionError(
            f"{kind} {name} is a method (its first parameter is {first.name!r}); another process has no such object: "
            "make it a function and pass what it needs as arguments"
        )
    return fn


def default_name(kind: str, fn: Callable[..., Any], option: str) -> str:
    """Return the function's own name, for a definition without a given name.

    Raises:
        DefinitionError: it is a lambda, or an object without a name.
    """
    name: str | None = getattr(fn, "__name__", None)
    if name is None or name == "<lambda>":
        what = "a lambda" if name else type(fn).__name__
        raise DefinitionError(f"{what} has no name: say which with {option}=, as in rf.{kind}({option}='...')(...)")
    return name


def check_options(kind: str, given: typing.Iterable[str], known: typing.Iterable[str]) -> None:
    """Raise DefinitionError if an option is not one of the known ones."""
    known = sorted(known)
    for option in given:
        if option not in known:
            raise DefinitionError(f"@rf.{kind} has no option {option!r}; it has: {', '.join(known)}")


def signature_of(kind: str, fn: Callable[..., Any]) -> inspect.Signature:
    """Return the function's signature.

    Raises:
        DefinitionError: Python knows none, as for some functions written in C.
    """
    try:
        return inspect.signature(fn)
    except ValueError:
        name = getattr(fn, "__qualname__", repr(fn))
        raise DefinitionError(f"{kind} {name} has no signature that Python can read: wrap it in a function") from None


def is_async(fn: Callable[..., Any]) -> bool:
    """Whether calling ``fn`` makes a coroutine, as far as that can be told without calling it."""
    while isinstance(fn, functools.partial):
        fn = fn.func
    return inspect.iscoroutinefunction(fn) or inspect.iscoroutinefunction(getattr(fn, "__call__", None))  # noqa: B004


def annotations_of(fn: Callable[..., Any]) -> Mapping[str, Any]:
    """Return the resolved annotations of the function's parameters and of its result ("return"), by name.

    Names are looked up in the function's module and in what it closes over, so that a class made next to a nested
    function is found. An annotation that cannot be resolved is left out, and the others are not affected.
    """
    while isinstance(fn, functools.partial):
        fn = fn.func
    try:
        annotations = inspect.get_annotations(fn)
    except (NameError, ValueError):  # evaluated only now (3.14), or no dict at all
        return {}
    found = {}
    for name, annotation in annotations.items():
        carrier = types.SimpleNamespace(__annotations__={name: annotation})
        with contextlib.suppress(Exception):  # a string annotation is any expression, and may raise anything
            hints = typing.get_type_hints(carrier, getattr(fn, "__globals__", {}), _closure(fn), include_extras=True)
            found[name] = hints[name]
    return found


def return_annotation(fn: Callable[..., Any]) -> Any:
    """Return the annotation of the function's result, resolved; None if it is missing or cannot be resolved."""
    return annotations_of(fn).get("return")


def check_input(what: str, bound: inspect.BoundArguments, annotations: Mapping[str, Any]) -> None:
    """Check bound arguments against annotations, strictly: no value is converted to fit.

    Args:
        what: whose arguments these are, for the message: "workflow 'research'".
        bound: the arguments.
        annotations: resolved annotations, by parameter. A parameter without one takes anything.

    Raises:
        InvalidInput: a value does not fit; the message names the parameter, its type and the given value.
    """
    for name, value in bound.arguments.items():
        annotation = annotations.get(name)
        if annotation is None:
            continue
        match bound.signature.parameters[name].kind:
            case inspect.Parameter.VAR_POSITIONAL:
                values = {f"{name}[{index}]": item for index, item in enumerate(value)}
            case inspect.Parameter.VAR_KEYWORD:
                values = dict(value)
            case _:
                values = {name: value}
        for where, given in values.items():
            problem = _strict_problem(given, annotation)
            if problem:
                takes = inspect.formatannotation(annotation)
                raise InvalidInput(f"{what}: argument {where} takes {takes}: {problem}")


def _strict_problem(value: Any, annotation: Any) -> str:
    try:
        _adapter(annotation).validate_python(value, strict=True)
    except ValidationError as error:
        # A stand-in for a large value claims another class than its own; it is checked where it is read.
        real = [one for one in error.errors() if type(one["input"]) is one["input"].__class__]
        return misfits(real) if real else ""
    except (PydanticUserError, TypeError, NameError):  # an annotation that pydantic cannot check takes anything
        return ""
    return ""


def _closure(fn: Callable[..., Any]) -> dict[str, Any]:
    code = getattr(fn, "__code__", None)
    found = {}
    for name, cell in zip(code.co_freevars if code else (), getattr(fn, "__closure__", None) or (), strict=True):
        try:
            found[name] = cell.cell_contents
        except ValueError:  # an empty cell: the name is assigned later
            continue
    return found


def fitted(value: Any, annotation: Any) -> Any:
    """Return the value converted to the annotation: a dict becomes a model, a string of digits stays one.

    Args:
        value: anything.
        annotation: a class, a pydantic model, a dataclass, any annotation; None for anything.

    Raises:
        ValueError: it does not fit; the message says where.

    Example:
        >>> fitted([1, 2], list[int])
        [1, 2]
    """
    return value if annotation is None else _adapter(annotation).validate_python(value)


@functools.lru_cache(maxsize=256)
def _adapter(annotation: Any) -> TypeAdapter[Any]:
    try:
        return TypeAdapter(annotation, config=ConfigDict(arbitrary_types_allowed=True))
    except PydanticUserError:  # a model has its own configuration
        return TypeAdapter(annotation)


def misfits(errors: Sequence[ErrorDetails]) -> str:
    """Return where and why a value does not fit, in one line."""
    parts = []
    for detail in errors:
        where = ".".join(str(part) for part in detail["loc"])
        shown = repr(detail["input"])
        given = "" if detail["type"] == "missing" else f" (given: {shown if len(shown) < 80 else shown[:79] + '…'})"
        parts.append(f"{where + ': ' if where else ''}{detail['msg']}{given}")
    return "; ".join(parts)
