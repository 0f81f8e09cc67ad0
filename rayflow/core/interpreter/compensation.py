"""Compensations: steps that are run, the last one first, if the workflow does not complete."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Generator
from typing import Any

from rayflow.definition.context import StepCall
from rayflow.errors import StepFailed

Run = Callable[[StepCall, bytes], Awaitable[Any]]


class Compensations:
    """The compensations of one run of a workflow."""

    def __init__(self) -> None:
        self._calls: list[tuple[StepCall, bytes]] = []
        self.begun = False

    def __len__(self) -> int:
        return len(self._calls)

    def add(self, call: StepCall, payload: bytes) -> None:
        """Have that step run before those that were added so far."""
        self._calls.append((call, payload))

    async def run(self, run: Run) -> None:
        """Run all compensations. One that fails permanently is a dead letter, and the others still run."""
        self.begun = True
        while self._calls:
            try:
                await run(*self._calls.pop())
            except StepFailed:
                continue


Tell = Callable[[str, BaseException | None], None]

#: How often a coroutine that swallows its end is ended again before it is left alone.
CLOSINGS = 100

#: Generators that are held at least before the finished ones are swept out.
_SWEEP = 64

_unending: list[object] = []


class Evicted(BaseException):
    """Ends code that is dropped. GeneratorExit, as by close(), would not reach into async generators up to 3.12."""


def end_coroutine(coroutine: Coroutine[Any, Any, Any] | Generator[Any, Any, Any], tell: Tell) -> None:
    """End a coroutine, even one that resists; call ``tell`` if it does not end."""
    for _ in range(CLOSINGS):
        # Exceptions of clean-up code here follow from the eviction and are not an outcome: the journal decides
        # what happens to the execution, and nothing was issued (commands raise on a dead loop).
        with contextlib.suppress(BaseException):
            coroutine.throw(Evicted)
        if getattr(coroutine, "cr_frame", getattr(coroutine, "gi_frame", None)) is None:
            return
    _unending.append(coroutine)
    tell(f"{_name_of(coroutine)} swallows every attempt to end it, and stays in memory", None)


class Generators:
    """The async generators of one loop, held so that the garbage collector never decides when they are closed."""

    def __init__(self) -> None:
        self._held: list[AsyncGenerator[Any, Any]] = []
        self._sweep_at = _SWEEP

    def __len__(self) -> int:
        return len(self._held)

    def hold(self, generator: AsyncGenerator[Any, Any]) -> None:
        """Keep a generator that begins."""
        if len(self._held) >= self._sweep_at:
            self._held = [held for held in self._held if _unfinished(held)]
            self._sweep_at = 2 * len(self._held) + _SWEEP
        self._held.append(generator)

    def close_all(self, tell: Tell) -> None:
        """Close those that are unfinished, oldest first, and those that their clean-up begins."""
        while self._held:
            generators, self._held = self._held, []
            for generator in generators:
                if _unfinished(generator):
                    _close(generator, tell)


def _close(generator: AsyncGenerator[Any, Any], tell: Tell) -> None:
    closing = generator.aclose()
    try:
        closing.send(None)
    except StopIteration:
        return
    except BaseException as error:  # noqa: BLE001 - told, and the other generators still have to be closed
        tell(f"an async generator ({_name_of(generator)}) failed while it was closed", error)
    else:
        tell(
            f"the async generator {_name_of(generator)} waits for something in its clean-up after the workflow "
            "left it; use `async with contextlib.aclosing(...)` so that it is closed while the workflow runs",
            None,
        )
        with contextlib.suppress(BaseException):  # the echo of ending it in the midst of its clean-up
            closing.throw(Evicted)
    if _unfinished(generator):
        _unending.append(generator)


def _unfinished(generator: object) -> bool:
    return getattr(generator, "ag_frame", None) is not None


def _name_of(code: object) -> str:
    return getattr(code, "__qualname__", type(code).__qualname__)
