"""Ownership of asyncio's locks, events and queues that live longer than one execution's code.

An object at module level keeps its state when an execution is parked and replayed, and other executions of the same
process find it. Here such an object belongs to one execution at a time: a replay finds it as it was before the
execution's first use, and use by a second execution is refused. On other loops everything stays as it was.
"""

from __future__ import annotations

import asyncio
import functools
import sys
import weakref
from asyncio import locks, mixins
from collections import deque
from collections.abc import Callable, Iterator
from types import FrameType, FunctionType
from typing import Any

from rayflow.core.interpreter.source_lines import line_of
from rayflow.errors import SideEffectError

_OWNER, _FIRST_STATE = "_rayflow_owner", "_rayflow_first_state"

_NOT_USER_CODE = ("asyncio.", __name__)


def install() -> None:
    """Patch the classes of asyncio whose objects are bound to a loop."""
    for cls in _subclasses(mixins._LoopBoundMixin):
        for name, method in list(vars(cls).items()):
            if isinstance(method, FunctionType) and not name.startswith("_"):
                setattr(cls, name, _owned(method))
    manager: Any = locks._ContextManagerMixin
    manager.__aenter__ = _owned(manager.__aenter__)


def _subclasses(cls: type) -> Iterator[type]:
    each: type
    for each in cls.__subclasses__():
        if each.__module__.startswith("asyncio."):
            yield each
            yield from _subclasses(each)


def _owned(method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        loop = asyncio._get_running_loop()
        if loop is not None:
            owner = self.__dict__.get(_OWNER)
            if owner is not None or hasattr(loop, "next_number"):
                _check_owner(self, None if owner is None else owner(), loop)
        return method(self, *args, **kwargs)

    # As functools.wraps does not: asyncio.iscoroutinefunction() stays true.
    if asyncio.iscoroutinefunction(method):
        call._is_coroutine = asyncio.coroutines._is_coroutine  # type: ignore[attr-defined]
    return call


def _check_owner(shared: Any, owner: Any, loop: Any) -> None:
    """Make the running loop the object's owner. Raises if another one, which is alive, is."""
    if owner is loop:
        return
    durable = hasattr(loop, "next_number")
    if _OWNER not in shared.__dict__:
        bound = shared._loop
        if bound is not None and not bound.is_closed():
            _refuse(shared, "code outside of workflows", loop, durable=True)
        shared.__dict__[_FIRST_STATE] = _copy(shared.__dict__)
    else:
        if owner is not None and not owner.dead and not (durable and owner.name == loop.name):
            _refuse(shared, f"execution {owner.name!r}", loop, durable=durable)
        first = shared.__dict__[_FIRST_STATE]
        shared.__dict__.clear()
        shared.__dict__.update(_copy(first), **{_FIRST_STATE: first})
    if durable:
        shared.__dict__[_OWNER] = weakref.ref(loop)
    if isinstance(shared, asyncio.Condition):  # it keeps the methods of its lock, as they were when it was made
        lock: Any = shared._lock  # type: ignore[attr-defined]
        vars(shared).update(locked=lock.locked, acquire=lock.acquire, release=lock.release)


def _copy(state: dict[str, Any]) -> dict[str, Any]:
    return {
        name: value.copy() if isinstance(value, deque | list) else value
        for name, value in state.items()
        if name not in {"_loop", _OWNER, _FIRST_STATE}
    }


def _refuse(shared: Any, other: str, loop: Any, *, durable: bool) -> None:
    what = f"asyncio.{type(shared).__name__} {_place(shared)}, which {other} uses as well,"
    if not durable:
        raise RuntimeError(f"{what} belongs to that execution; make one for each execution, inside its workflow")
    error = SideEffectError(
        what,
        instead="Make the object inside the workflow, or use `rf.lock()` or `rf.semaphore()` to coordinate executions",
    )
    loop.conflict = error
    raise error


def _place(shared: Any) -> str:
    """Return the object's global name, if it has one, and the line that uses the object."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_globals.get("__name__", "").startswith(_NOT_USER_CODE):
        frame = frame.f_back
    if frame is None:
        return ""
    names = [name for name, value in frame.f_globals.items() if value is shared]
    line = f"at {line_of(frame)}"
    return f"{names[0]!r} {line}" if names else line
