"""Patches of asyncio and anyio under which sets of tasks, futures and scopes iterate alike in every process.

A set iterates by hash, and by default an object hashes by its address. Tasks and futures of a durable loop hash by
their number. The patches cover objects that are made without asking the loop: ``asyncio.Future()``,
``asyncio.Task()``, the futures of ``asyncio.gather``, the set of ``asyncio.all_tasks()``, and anyio's cancel scopes.
Other loops are not affected.
"""

from __future__ import annotations

import asyncio
import functools
import importlib
import sys
import warnings
from abc import ABCMeta
from collections.abc import Callable, Iterable, Iterator, MutableSet
from contextlib import suppress
from types import ModuleType
from typing import Any, TypeVar

T = TypeVar("T")

_ANYIO = "anyio._backends._asyncio"


def install() -> None:
    """Patch asyncio, and anyio if it is imported."""
    replace_everywhere(asyncio.Future, _numbered(asyncio.Future, lambda loop, args, kwargs: loop.create_future()))
    replace_everywhere(asyncio.Task, _numbered(asyncio.Task, _create_task))
    replace_everywhere(asyncio.all_tasks, _all_tasks(asyncio.all_tasks))
    warn: Any = warnings._warn_unawaited_coroutine  # type: ignore[attr-defined]
    replace_everywhere(warn, _warn_unawaited(warn))
    gathering = getattr(asyncio.tasks, "_GatheringFuture", None)
    if gathering is not None:
        gathering.__hash__ = _hash_by_number
    if "anyio" in sys.modules:
        patch_anyio()


def replace_everywhere(original: object, replacement: object) -> None:
    """Put a replacement into each module that has the original, so that ``from … import`` before it is covered."""
    for module in list(sys.modules.values()):
        if isinstance(module, ModuleType):
            names = [name for name, value in list(vars(module).items()) if value is original]
            for name in names:
                setattr(module, name, replacement)


def patch_anyio() -> None:
    """Let the cancel scopes of anyio keep their children in the order in which they were entered."""
    with suppress(ImportError):  # it is not installed, or has another form
        scope = importlib.import_module(_ANYIO).CancelScope
        if not hasattr(scope.__init__, "__wrapped__"):
            scope.__init__ = _with_ordered_children(scope.__init__)


def _durable_loop() -> Any:
    loop = asyncio._get_running_loop()
    return loop if hasattr(loop, "next_number") else None


# --- futures and tasks --------------------------------------------------------------------------------------
def _numbered(original: Any, create: Callable[[Any, tuple[Any, ...], dict[str, Any]], Any]) -> Any:
    """Return a class that stands for the original, and has the durable loop make its instances."""

    class Numbered(ABCMeta):  # not type: classes with abstract bases may derive from it
        def __call__(cls, *args: Any, **kwargs: Any) -> Any:
            if cls is not stand_in:
                return super().__call__(*args, **kwargs)
            loop = _durable_loop()
            if loop is None or kwargs.get("loop") not in {None, loop}:
                return original(*args, **kwargs)
            return create(loop, args, {name: value for name, value in kwargs.items() if name != "loop"})

        def __instancecheck__(cls, instance: Any) -> bool:
            return isinstance(instance, original) if cls is stand_in else super().__instancecheck__(instance)

        def __subclasscheck__(cls, subclass: type) -> bool:
            return issubclass(subclass, original) if cls is stand_in else super().__subclasscheck__(subclass)

    names = {"__hash__": _hash_by_number, "__module__": "asyncio", "__doc__": original.__doc__}
    stand_in = Numbered(original.__name__, (original,), names)
    return stand_in


def _create_task(loop: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return loop.create_task(*args, **kwargs)


def _hash_by_number(future: Any) -> int:
    known: int | None = getattr(future, "rayflow_number", None)
    if known is None:
        numbers = getattr(future.get_loop(), "next_number", None)
        future.rayflow_number = known = object.__hash__(future) if numbers is None else numbers()
    return known


def _all_tasks(original: Callable[..., set[Any]]) -> Callable[..., set[Any]]:
    @functools.wraps(original)
    def all_tasks(loop: Any = None) -> set[Any]:
        durable = _durable_loop()
        if durable is None or loop not in {None, durable}:
            return original(loop)
        return set(durable.pending_tasks())  # of numbers, in the order in which they were made

    return all_tasks


# --- coroutines that are not awaited ----------------------------------------------------------------------
def _warn_unawaited(original: Callable[[Any], None]) -> Callable[[Any], None]:
    @functools.wraps(original)
    def warn(coro: Any) -> None:  # called by the interpreter for a coroutine that is freed before it has begun
        loop = _durable_loop()
        if loop is None:
            original(coro)
        else:
            loop.report_unawaited(coro)

    return warn


# --- anyio ---------------------------------------------------------------------------------------------------
class _OrderedSet(MutableSet[T]):
    """A set that iterates in the order of insertion."""

    def __init__(self, items: Iterable[T] = ()) -> None:
        self._items = dict.fromkeys(items)

    def __contains__(self, item: object) -> bool:
        return item in self._items

    def __iter__(self) -> Iterator[T]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def add(self, value: T) -> None:
        self._items[value] = None

    def discard(self, value: T) -> None:
        self._items.pop(value, None)


def _with_ordered_children(init: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(init)
    def init_ordered(self: Any, *args: Any, **kwargs: Any) -> None:
        init(self, *args, **kwargs)
        if _durable_loop() is not None:
            self._child_scopes = _OrderedSet()

    return init_ordered
