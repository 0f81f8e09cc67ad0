"""JSON on the command line, and the arguments of a workflow that it stands for."""

from __future__ import annotations

import inspect
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from rayflow.cli.exit_codes import UsageError
from rayflow.definition.checks import misfits
from rayflow.definition.function import WorkflowFunction
from rayflow.definition.workflow import Workflow
from rayflow.runtime.worker.attempt import resolved
from rayflow.storage.codec.annotations import rebuild

Arguments = tuple[tuple[Any, ...], dict[str, Any]]

#: No input was given; JSON's null is one.
MISSING: Any = object()

_ALONE = (
    inspect.Parameter.POSITIONAL_ONLY,
    inspect.Parameter.POSITIONAL_OR_KEYWORD,
    inspect.Parameter.KEYWORD_ONLY,
)


def read_input(text: str | None, option: str = "--input") -> Any:
    """The JSON value that was given: as it is, in a file (``@file``) or on stdin (``@-``).

    Args:
        text: as given on the command line; None for MISSING.
        option: by which option, for the message.

    Raises:
        UsageError: it is not JSON, or the file cannot be read.
    """
    if text is None:
        return MISSING
    source, content = (option, text) if not text.startswith("@") else _from_file(option, text[1:])
    try:
        return json.loads(content)
    except json.JSONDecodeError as error:
        near = content[error.pos : error.pos + 20]
        found = f"before {near!r}" if near else "at its end"
        hint = "; a string needs its quotes: '\"…\"'" if "{" not in content and "[" not in content else ""
        raise UsageError(
            f"{source} is not JSON: {error.msg} in line {error.lineno}, column {error.colno}, {found}{hint}"
        ) from error
    except RecursionError as error:
        raise UsageError(f"{source} is nested too deep") from error


def read_pairs(texts: Sequence[str], option: str) -> dict[str, Any]:
    """Names with JSON values, each given as ``KEY=JSON``, ``KEY=@file`` or ``KEY=@-``.

    Args:
        texts: as given on the command line.
        option: by which option, for the message.

    Raises:
        UsageError: one of them is not that, or a key is given twice.
    """
    found: dict[str, Any] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not key or not equals:
            raise UsageError(
                f"{option} needs a key and its value as JSON, such as {option} reviewer='\"ada\"', not {text!r}"
            )
        if key in found:
            raise UsageError(f"{option} gives {key!r} twice")
        found[key] = read_input(value, f"{option} {key}")
    return found


def _from_file(option: str, name: str) -> tuple[str, str]:
    if name == "-":
        return "stdin", sys.stdin.read()
    try:
        return name, Path(name).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{option} @{name}: {error}") from error


def arguments(definition: WorkflowFunction[..., Any] | Workflow | None, value: Any) -> Arguments:
    """The arguments that a JSON value stands for.

    No value: none. A declared workflow's state is the value. The only parameter of a function is the value; for
    several, an object holds them by name and an array in their order. What their annotations say is made of them.

    Args:
        definition: the workflow; None where its code is not at hand: then an array holds the arguments, and
            anything else is the only one.
        value: the JSON value, or MISSING.

    Raises:
        UsageError: the value does not fit; it names the parameter.
    """
    if definition is None:
        if value is MISSING:
            return (), {}
        return (tuple(value) if isinstance(value, list) else (value,)), {}
    args, kwargs = _placed(definition, value)
    try:
        bound = definition.bind(*args, **kwargs)
    except TypeError as error:
        raise UsageError(_explain(error, value)) from error
    if isinstance(definition, Workflow):
        return args, kwargs
    return _rebuilt(definition, bound)


def _explain(error: TypeError, value: Any) -> str:
    return f"{error}; give it by --input" if value is MISSING else f"--input: {error}"


def _placed(definition: WorkflowFunction[..., Any] | Workflow, value: Any) -> Arguments:
    if value is MISSING:
        return (), {}
    if isinstance(definition, Workflow):
        return (value,), {}
    parameters = list(definition.signature.parameters.values())
    if not parameters:
        raise UsageError(f"workflow {definition.id!r} takes no input")
    if len(parameters) == 1 and parameters[0].kind in _ALONE:
        [only] = parameters
        return ((), {only.name: value}) if only.kind is inspect.Parameter.KEYWORD_ONLY else ((value,), {})
    if isinstance(value, list):
        return tuple(value), {}
    if isinstance(value, dict):
        return (), value
    raise UsageError(
        f"--input: workflow {definition.id!r} takes {definition.signature}: give an object with these names, or an "
        f"array in this order, not {json.dumps(value)}"
    )


def _rebuilt(definition: WorkflowFunction[..., Any], bound: inspect.BoundArguments) -> Arguments:
    for name, parameter in definition.signature.parameters.items():
        if name not in bound.arguments or parameter.annotation is parameter.empty:
            continue
        value, annotation = bound.arguments[name], resolved(parameter.annotation, definition.fn)
        if parameter.kind is inspect.Parameter.VAR_POSITIONAL:
            made: Any = tuple(_made(name, member, annotation) for member in value)
        elif parameter.kind is inspect.Parameter.VAR_KEYWORD:
            made = {key: _made(key, member, annotation) for key, member in value.items()}
        else:
            made = _made(name, value, annotation, alone=len(definition.signature.parameters) == 1)
        bound.arguments[name] = made
    return bound.args, bound.kwargs


def _made(name: str, value: Any, annotation: Any, *, alone: bool = False) -> Any:
    if annotation is None:  # it cannot be resolved: the workflow gets the value as it is
        return value
    try:
        return rebuild(value, annotation)
    except ValidationError as error:
        hint = ""
        if alone and isinstance(value, Mapping) and list(value) == [name]:
            hint = f"; {name!r} is the only parameter, so the input is its value itself"
        raise UsageError(f"--input: parameter {name!r} does not fit: {misfits(error.errors())}{hint}") from error
    except Exception as error:  # pydantic cannot make what the annotation says from anything
        raise UsageError(f"--input: parameter {name!r} cannot be made from JSON: {error}") from error
