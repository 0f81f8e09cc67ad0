"""Declared steps around other declared steps: a branch, a retry, a placement."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from rayflow.definition.declared import AnyAgent, DeclaredStep, State
from rayflow.definition.options import RetryPolicy, StepOptions
from rayflow.definition.results import retries_exhausted
from rayflow.definition.walk import Outcome, Walk


@dataclass(frozen=True, eq=False)
class ConditionalStep(DeclaredStep):
    """One step or another, or none.

    Args:
        condition: function of the state; true takes ``then``.
        then: the step for true.
        otherwise: the step for false; without one, the step is skipped.
    """

    condition: Callable[[State], Any] = field(kw_only=True)
    then: DeclaredStep = field(kw_only=True)
    otherwise: DeclaredStep | None = field(default=None, kw_only=True)

    def check(self) -> None:
        """See the base."""
        self._check_callable("condition", self.condition)
        self._check_step("then=", self.then)
        if self.otherwise is not None:
            self._check_step("otherwise=", self.otherwise)

    def parts(self) -> Iterator[tuple[str, AnyAgent]]:
        """See the base."""
        yield from _parts_below("then", self.then)
        if self.otherwise is not None:
            yield from _parts_below("otherwise", self.otherwise)

    async def perform(self, walk: Walk, path: str) -> Outcome:
        """See the base."""
        inner = walk.under(defaults=self.options)
        if self._ask("condition", self.condition, walk):
            return await self.then.perform(inner, f"{path}/then")
        if self.otherwise is not None:
            return await self.otherwise.perform(inner, f"{path}/otherwise")
        return Outcome(skipped=True)


@dataclass(frozen=True, eq=False)
class RetryStep(DeclaredStep):
    """A step that is run again as a whole when it failed, after a fixed and durable delay.

    Calls inside it that have no retry policy of their own are not retried singly. A failure that says that
    it is not to be retried (TerminalError) ends it at once. Its name is that of the step in it.

    Args:
        step: the step; of a ParallelStep all agents run again.
        max_retries: runs after the first one.
        delay: seconds before each of them.
    """

    name: str = field(init=False)
    step: DeclaredStep
    max_retries: int = field(kw_only=True)
    delay: float = field(default=0.0, kw_only=True)

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", getattr(self.step, "name", "(retry)"))
        super().__post_init__()

    def check(self) -> None:
        """See the base."""
        self._check_step("RetryStep", self.step)
        if type(self.max_retries) is not int or self.max_retries < 0:
            raise self._wrong(f"max_retries must be a whole number from 0, not {self.max_retries!r}")
        if type(self.delay) not in {int, float} or not 0 <= self.delay < math.inf:
            raise self._wrong(f"delay must be seconds as a number, 0 or more, not {self.delay!r}")

    def parts(self) -> Iterator[tuple[str, AnyAgent]]:
        """See the base."""
        yield from _parts_below("step", self.step)

    async def perform(self, walk: Walk, path: str) -> Outcome:
        """See the base."""
        once = StepOptions(retry=RetryPolicy(max_retries=0)).replace(**self.options.model_dump(exclude_unset=True))
        inner = walk.under(defaults=once)
        retries = 0
        while True:
            outcome = await self.step.perform(inner, f"{path}/step")
            if outcome.error is None:
                return outcome
            if retries == self.max_retries or not outcome.error.failure.retryable:
                return Outcome(outcome.results, retries_exhausted(self.name, retries, outcome.error))
            retries += 1
            await asyncio.sleep(self.delay)


@dataclass(frozen=True, eq=False)
class RemoteStep(DeclaredStep):
    """A step whose agents always run on a worker, also in an execution that is not distributed.

    Its ``timeout`` and ``retry`` are insisted on: what the step in it says of them does not count. Its name is
    that of the step in it.

    Args:
        step: the step.
        timeout: seconds for one attempt at each call.
        retry: retry policy of each call.
    """

    name: str = field(init=False)
    step: DeclaredStep

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", getattr(self.step, "name", "(remote)"))
        super().__post_init__()

    def check(self) -> None:
        """See the base."""
        self._check_step("RemoteStep", self.step)

    def parts(self) -> Iterator[tuple[str, AnyAgent]]:
        """See the base."""
        yield from _parts_below("step", self.step)

    async def perform(self, walk: Walk, path: str) -> Outcome:
        """See the base."""
        inner = walk.under(overrides=self.options.replace(local=False))
        return await self.step.perform(inner, f"{path}/step")


def _parts_below(prefix: str, step: DeclaredStep) -> Iterator[tuple[str, AnyAgent]]:
    for path, agent in step.parts():
        yield f"{prefix}/{path}", agent
