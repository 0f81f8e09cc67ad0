"""Clean-up of coroutines and async generators whose execution is dropped or has ended."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from typing import Any

Report = Callable[[str, BaseException | None], None]

#: Attempts to end a coroutine that swallows them, before it stays in memory.
CLOSINGS = 100

#: Minimum number of generators before finished ones are removed.
_SWEEP = 64

_unending: list[object] = []


class Evicted(BaseException):
    """End of code that is dropped. GeneratorExit, as by close(), does not reach into async generators up to 3.12."""


def end_coroutine(coroutine: Coroutine[Any, Any, Any] | Generator[Any, Any, Any], report: Report) -> None:
    """End a coroutine, and report one that cannot be ended."""
    for _ in range(CLOSINGS):
        # What clean-up code raises here has no meaning: the journal decides what becomes of the execution, and calls
        # are refused on a dead loop.
        with contextlib.suppress(BaseException):
            coroutine.throw(Evicted)
        if getattr(coroutine, "cr_frame", getattr(coroutine, "gi_frame", None)) is None:
            return
    _unending.append(coroutine)
    report(
        f"{_name_of(coroutine)} swallows every attempt to end it, and stays in memory",
        None,
    )


class Generators:
    """Async generators of one loop, held so that the garbage collector does not decide when they are closed."""

    def __init__(self) -> None:
        self._held: list[AsyncGenerator[Any, Any]] = []
        self._sweep_at = _SWEEP

    def __len__(self) -> int:
        return len(self._held)

    def hold(self, generator: AsyncGenerator[Any, Any]) -> None:
        """Hold a generator that begins."""
        if len(self._held) >= self._sweep_at:
            self._held = [held for held in self._held if _unfinished(held)]
            self._sweep_at = 2 * len(self._held) + _SWEEP
        self._held.append(generator)

    def close_all(self, report: Report) -> None:
        """Close unfinished generators, oldest first, and those that their clean-up begins."""
        while self._held:
            generators, self._held = self._held, []
            for generator in generators:
                if _unfinished(generator):
                    _close(generator, report)


def _close(generator: AsyncGenerator[Any, Any], report: Report) -> None:
    closing = generator.aclose()
    try:
        closing.send(None)
    except StopIteration:
        return
    except BaseException as error:  # noqa: BLE001 - reported; the other generators must be closed as well
        report(f"an async generator ({_name_of(generator)}) failed while it was closed", error)
    else:
        report(
            f"the async generator {_name_of(generator)} waits in its clean-up, after the workflow "
            "left it; use `async with contextlib.aclosing(...)` so that it is closed while the workflow runs",
            None,
        )
        with contextlib.suppress(BaseException):  # it is ended in the middle of its clean-up
            closing.throw(Evicted)
    if _unfinished(generator):
        _unending.append(generator)


def _unfinished(generator: object) -> bool:
    return getattr(generator, "ag_frame", None) is not None


def _name_of(code: object) -> str:
    return getattr(code, "__qualname__", type(code).__qualname__)
