"""Refusal of the client API in workflow code.

Workflow code runs on the thread of its coordinator. A client call there would wait for that very thread, and every
replay would repeat it. So each public method of an engine, a handle and their parts raises
:class:`~rayflow.errors.SideEffectError` there, before it does anything.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import FunctionType
from typing import Any, TypeVar

from rayflow.definition.context import refuse_in_workflow

C = TypeVar("C", bound=type)

_CHILD = "Await the workflow itself, or start it with `await rf.start_child(...)`"
_LOCK = "Use `async with rf.lock(...)` or `async with rf.semaphore(...)`"
_STEP = "Put the call into a step (`@rf.step`) and await that"

#: What to call instead, by the method's name.
_INSTEAD = {
    "execute": _CHILD,
    "start": _CHILD,
    "start_many": _CHILD,
    "result": _CHILD,
    "__await__": _CHILD,
    "signal": "Use `await rf.send_signal(...)`",
    "lock": _LOCK,
    "semaphore": _LOCK,
    "acquire": _LOCK,
}

_SPECIAL = frozenset({"__enter__", "__exit__", "__await__"})


def refused_in_workflows(label: str, *, constructor: bool = False) -> Callable[[C], C]:
    """Return a class decorator that refuses the class's own public methods in workflow code.

    Args:
        label: what messages call an instance, for example ``engine``.
        constructor: whether instances cannot be made there either.
    """

    def decorate(cls: C) -> C:
        for name, member in list(vars(cls).items()):
            if not isinstance(member, FunctionType):
                continue
            if name == "__init__" and constructor:
                setattr(cls, name, _refused(member, f"{cls.__name__}()", _STEP))
            elif name in _SPECIAL or not name.startswith("_"):
                call = f"await {label}" if name == "__await__" else f"{label}.{name}()"
                setattr(cls, name, _refused(member, call, _INSTEAD.get(name, _STEP)))
        return cls

    return decorate


def _refused(method: Callable[..., Any], call: str, instead: str) -> Callable[..., Any]:
    @functools.wraps(method)
    def refuse_or_call(*args: Any, **kwargs: Any) -> Any:
        refuse_in_workflow(call, instead)
        return method(*args, **kwargs)

    return refuse_or_call
