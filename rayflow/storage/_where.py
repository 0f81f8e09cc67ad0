"""Where in a value something is: paths such as ``["report"].client`` for error messages."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from typing import Any

import cloudpickle
from pydantic import BaseModel

from rayflow.storage._types import PLAIN


def children(value: Any) -> Iterator[tuple[str, Any]]:
    """The parts of a value, each with how it is reached."""
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
    """How ``part``, the very object, is reached from ``root``; None if it is not found."""
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
    """The innermost part that cannot be pickled, and how it is reached."""
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
    except Exception:  # noqa: BLE001 - a class of the user may raise anything; the question is whether, the answer to why is known already
        return False
    return True
