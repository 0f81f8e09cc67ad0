"""Compensations: steps that are run, the last one first, if the workflow does not complete."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from rayflow.definition.context import StepCall
from rayflow.errors import StepFailed

Run = Callable[[StepCall, bytes], Awaitable[Any]]


class Undoing:
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
        """Run them all. One that fails for good is a dead letter by then, and does not hold up the others."""
        self.begun = True
        while self._calls:
            try:
                await run(*self._calls.pop())
            except StepFailed:
                continue
