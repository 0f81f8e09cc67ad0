"""asyncio's own parts, with numbers: everything that could be put into a set hashes by one.

Objects hash by their address otherwise, and so a set of them would iterate differently in every process.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable, Coroutine
from typing import Any


class DurableFuture(asyncio.Future[Any]):
    """A future that hashes by its number, which its loop sets as soon as it is made."""

    number: int

    def __hash__(self) -> int:
        return self.number


class DurableTask(asyncio.Task[Any]):
    """A task that hashes by its number. The number is set first: Task.__init__ already hashes it."""

    def __init__(self, number: int, coro: Coroutine[Any, Any, Any], **kwargs: Any) -> None:
        self.number = number
        super().__init__(coro, **kwargs)

    def __hash__(self) -> int:
        return self.number


class DurableHandle(asyncio.Handle):
    """A callback that is ready. The same as its base without a question about debug mode, asked 40,000 times."""

    __slots__ = ()

    def __init__(
        self,
        callback: Callable[..., object],
        args: tuple[Any, ...],
        loop: asyncio.AbstractEventLoop,
        context: contextvars.Context | None,
    ) -> None:
        self._context = contextvars.copy_context() if context is None else context
        self._loop = loop
        self._callback = callback
        self._args = args
        self._cancelled = False
        self._repr = None
        self._source_traceback = None


class DurableTimer(asyncio.TimerHandle):
    """A timer with a number, under which its loop finds it again."""

    __slots__ = ("number",)
    number: int


def number_gatherings() -> None:
    """Let the futures that ``asyncio.gather`` answers hash by number too, on loops that number.

    gather makes them itself, without asking the loop; so their class is taught to ask when it is first hashed.
    On any other loop they hash as ever.
    """
    gathering = getattr(asyncio.tasks, "_GatheringFuture", None)
    if gathering is not None and "__hash__" not in vars(gathering):
        gathering.__hash__ = _hash_gathering


def _hash_gathering(future: Any) -> int:
    known: int | None = getattr(future, "rayflow_number", None)
    if known is None:
        numbers = getattr(future.get_loop(), "next_number", None)
        future.rayflow_number = known = object.__hash__(future) if numbers is None else numbers()
    return known
