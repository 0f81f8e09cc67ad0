"""Whether a value is what an annotation says, and what it is then."""

from __future__ import annotations

import functools
from typing import Any

from pydantic import ConfigDict, PydanticUserError, TypeAdapter, ValidationError


def fitted(value: Any, annotation: Any) -> Any:
    """The value as the annotation has it: a dict becomes a model, a string of digits stays one.

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
    except PydanticUserError:  # a model has a configuration of its own
        return TypeAdapter(annotation)


def misfits(error: ValidationError) -> str:
    """Where and why a value does not fit, in one line."""
    parts = []
    for detail in error.errors(include_url=False, include_context=False):
        where = ".".join(str(part) for part in detail["loc"])
        shown = repr(detail["input"])
        given = "" if detail["type"] == "missing" else f" (given: {shown if len(shown) < 80 else shown[:79] + '…'})"
        parts.append(f"{where + ': ' if where else ''}{detail['msg']}{given}")
    return "; ".join(parts)
