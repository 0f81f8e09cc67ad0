"""Compensations of one run: steps that undo others, run in reverse order if the workflow does not complete."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from rayflow.definition.context import StepCall
from rayflow.errors import StepFailed

Run = Callable[[StepCall, bytes], Awaitable[Any]]


class Compensations:
    """Registered compensations, each with its encoded arguments."""

    def __init__(self) -> None:
        self._calls: list[tuple[StepCall, bytes]] = []
        self.begun = False

    def __len__(self) -> int:
        return len(self._calls)

    def add(self, call: StepCall, payload: bytes) -> None:
        """Register a step, to run before those that are registered so far."""
        self._calls.append((call, payload))

    async def run(self, run: Run) -> None:
        """Run all of them. One that fails permanently is a dead letter, and does not stop the others."""
        self.begun = True
        while self._calls:
            try:
                await run(*self._calls.pop())
            except StepFailed:
                continue
