"""JSON input on the command line, and its conversion to the arguments of a workflow."""

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
from rayflow.errors import InvalidInput
from rayflow.runtime.worker.attempt import resolved
from rayflow.storage.codec.annotations import rebuild

Arguments = tuple[tuple[Any, ...], dict[str, Any]]

#: Stands for an input that was not given; JSON's null is an input.
MISSING: Any = object()

_ALONE = (
    inspect.Parameter.POSITIONAL_ONLY,
    inspect.Parameter.POSITIONAL_OR_KEYWORD,
    inspect.Parameter.KEYWORD_ONLY,
)


def read_input(text: str | None, option: str = "--input") -> Any:
    """Return the JSON value of an option: the text itself, of a file (``@file``) or of stdin (``@-``).

    Args:
        text: the option's value; None for MISSING.
        option: the option, for the message.

    Raises:
        UsageError: if it is not JSON, or if the file cannot be read.
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
        raise UsageError(f"{source} is nested too deeply") from error


def read_pairs(texts: Sequence[str], option: str) -> dict[str, Any]:
    """Return names with JSON values, each given as ``KEY=JSON``, ``KEY=@file`` or ``KEY=@-``.

    Args:
        texts: the option's values.
        option: the option, for the message.

    Raises:
        UsageError: if a value has another form, or if a key is given twice.
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
    """Return the arguments of a workflow for a JSON value, converted to the types of its annotations.

    For a declared workflow, the value is the initial state. For a function with one parameter, the value is the
    argument; for several parameters, an object holds them by name and an array in their order.

    Args:
        definition: the workflow; None if its code cannot be loaded here. Then an array holds the arguments, and any
            other value is the only argument.
        value: the JSON value, or MISSING for no arguments.

    Raises:
        UsageError: if the value does not fit; the message names the parameter.
    """
    if definition is None:
        if value is MISSING:
            return (), {}
        return (tuple(value) if isinstance(value, list) else (value,)), {}
    args, kwargs = _positioned(definition, value)
    if isinstance(definition, Workflow):
        try:
            definition.bind(*args, **kwargs)
        except InvalidInput as error:
            raise UsageError(f"--input: {error}") from error
        return args, kwargs
    try:
        bound = definition.signature.bind(*args, **kwargs)
    except TypeError as error:
        problem = f"workflow {definition.id!r}: {error}; it takes {definition.signature}"
        raise UsageError(f"{problem}; set it with --input" if value is MISSING else f"--input: {problem}") from error
    return _converted(definition, bound)


def _positioned(definition: WorkflowFunction[..., Any] | Workflow, value: Any) -> Arguments:
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
        f"--input: workflow {definition.id!r} takes {definition.signature}: pass an object with these names, or an "
        f"array in this order, not {json.dumps(value)}"
    )


def _converted(definition: WorkflowFunction[..., Any], bound: inspect.BoundArguments) -> Arguments:
    for name, parameter in definition.signature.parameters.items():
        if name not in bound.arguments or parameter.annotation is parameter.empty:
            continue
        value, annotation = bound.arguments[name], resolved(parameter.annotation, definition.fn)
        if parameter.kind is inspect.Parameter.VAR_POSITIONAL:
            converted: Any = tuple(_convert(name, member, annotation) for member in value)
        elif parameter.kind is inspect.Parameter.VAR_KEYWORD:
            converted = {key: _convert(key, member, annotation) for key, member in value.items()}
        else:
            converted = _convert(name, value, annotation, alone=len(definition.signature.parameters) == 1)
        bound.arguments[name] = converted
    return bound.args, bound.kwargs


def _convert(name: str, value: Any, annotation: Any, *, alone: bool = False) -> Any:
    if annotation is None:  # an unresolvable annotation: the workflow receives the value itself
        return value
    try:
        return rebuild(value, annotation)
    except ValidationError as error:
        hint = ""
        if alone and isinstance(value, Mapping) and list(value) == [name]:
            hint = f"; {name!r} is the only parameter, so the input must be its value alone"
        raise UsageError(f"--input: parameter {name!r} does not fit: {misfits(error.errors())}{hint}") from error
    except Exception as error:  # pydantic supports no such annotation
        raise UsageError(f"--input: parameter {name!r} cannot be converted from JSON: {error}") from error
