"""Declared steps that call agents: in turn, at once, or once for each item of a list."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from rayflow.definition.agent import agent_id, check_agent
from rayflow.definition.declared import AnyAgent, DeclaredStep, State
from rayflow.definition.walk import Answer, Outcome, Walk
from rayflow.errors import StepFailed

Call = Callable[[], Awaitable[Answer]]


@dataclass(frozen=True, eq=False)
class SequentialStep(DeclaredStep):
    """One agent, called once.

    Args:
        agent: an agent, a Step of one argument, or anything with ``run(input)``.
        input: function of the state; its answer is the agent's input.
        output_key: where the output goes in the state.

    Example:
        >>> from rayflow.definition.agent import Agent
        >>> shout = Agent("shout", run=str.upper)
        >>> SequentialStep("shout", agent=shout, input=lambda s: s["text"], output_key="loud").name
        'shout'
    """

    agent: AnyAgent = field(kw_only=True)
    input: Callable[[State], Any] = field(kw_only=True)
    output_key: str = field(kw_only=True)

    def check(self) -> None:
        """See the base."""
        check_agent(f"step {self.name!r}", self.agent)
        self._check_callable("input", self.input)
        self._check_key("output_key", self.output_key)

    def parts(self) -> Iterator[tuple[str, AnyAgent]]:
        """See the base."""
        yield "agent", self.agent

    async def perform(self, walk: Walk, path: str) -> Outcome:
        """See the base."""
        value = self._ask("input", self.input, walk)
        answer = await walk.call(
            self.agent, value, step=self.name, name=self.name, part=f"{path}/agent", own=self.options
        )
        if answer.error is None:
            walk.put({self.output_key: answer.result.output})
        return Outcome((answer.result,), answer.error)


@dataclass(frozen=True, eq=False)
class ParallelStep(DeclaredStep):
    """Several agents at once. It waits for all; if any failed, it fails with the first by index and stores nothing.

    Args:
        agents: at least one; the same one may appear several times.
        input: function of the state; answers a list with one input for each agent.
        output_keys: where the outputs go in the state, one key for each agent.
    """

    agents: Sequence[AnyAgent] = field(kw_only=True)
    input: Callable[[State], Sequence[Any]] = field(kw_only=True)
    output_keys: Sequence[str] = field(kw_only=True)

    def check(self) -> None:
        """See the base."""
        for option in ("agents", "output_keys"):
            given = getattr(self, option)
            if isinstance(given, str) or not isinstance(given, Sequence) or not given:
                raise self._wrong(f"{option} needs a non-empty list, not {given!r}")
            object.__setattr__(self, option, tuple(given))
        if len(self.output_keys) != len(self.agents):
            raise self._wrong(
                f"output key count ({len(self.output_keys)}) does not match agent count ({len(self.agents)})"
            )
        for index, key in enumerate(self.output_keys):
            check_agent(f"step {self.name!r}: agents[{index}]", self.agents[index])
            self._check_key(f"output_keys[{index}]", key)
            if key in self.output_keys[:index]:
                raise self._wrong(f"output key {key!r} appears twice; one output would overwrite the other")
        self._check_callable("input", self.input)

    def parts(self) -> Iterator[tuple[str, AnyAgent]]:
        """See the base."""
        for index, agent in enumerate(self.agents):
            yield f"agents/{index}", agent

    async def perform(self, walk: Walk, path: str) -> Outcome:
        """See the base."""
        inputs = self._ask_list("input", self.input, walk)
        if len(inputs) != len(self.agents):
            raise self._wrong(f"input count ({len(inputs)}) does not match agent count ({len(self.agents)})")
        answers, error = await self._all([self._call(walk, path, i, value) for i, value in enumerate(inputs)])
        if error is None:
            outputs = (answer.result.output for answer in answers)
            walk.put(dict(zip(self.output_keys, outputs, strict=True)))
        return Outcome(tuple(answer.result for answer in answers), error)

    def _call(self, walk: Walk, path: str, index: int, value: Any) -> Call:
        agent = self.agents[index]
        name, part = f"{self.name}/{agent_id(agent)}", f"{path}/agents/{index}"
        return lambda: walk.call(agent, value, step=self.name, name=name, part=part, own=self.options)

    async def _all(self, calls: Sequence[Call]) -> tuple[list[Answer], StepFailed | None]:
        answers = await asyncio.gather(*(call() for call in calls))
        return answers, next((answer.error for answer in answers if answer.error is not None), None)


@dataclass(frozen=True, eq=False)
class DistributedParallelStep(ParallelStep):
    """Several agents, some at a time. The first failure cancels the others and fails the step; nothing is stored.

    Args:
        max_workers: calls that are out at once; None for all.
    """

    max_workers: int | None = field(default=None, kw_only=True)

    def check(self) -> None:
        """See the base."""
        super().check()
        self._check_workers(self.max_workers)

    async def _all(self, calls: Sequence[Call]) -> tuple[list[Answer], StepFailed | None]:
        return await _bounded(calls, self.max_workers)


@dataclass(frozen=True, eq=False)
class MapStep(DeclaredStep):
    """One agent, called for each item of a list. The first failure cancels the others; nothing is stored then.

    Args:
        agent: as for a SequentialStep.
        over: function of the state; answers the list of the agent's inputs.
        output_key: where the list of outputs goes, in the order of the inputs.
        max_workers: calls that are out at once; None for all.
    """

    agent: AnyAgent = field(kw_only=True)
    over: Callable[[State], Sequence[Any]] = field(kw_only=True)
    output_key: str = field(kw_only=True)
    max_workers: int | None = field(default=None, kw_only=True)

    def check(self) -> None:
        """See the base."""
        check_agent(f"step {self.name!r}", self.agent)
        self._check_callable("over", self.over)
        self._check_key("output_key", self.output_key)
        self._check_workers(self.max_workers)

    def parts(self) -> Iterator[tuple[str, AnyAgent]]:
        """See the base."""
        yield "agent", self.agent

    async def perform(self, walk: Walk, path: str) -> Outcome:
        """See the base."""
        items = self._ask_list("over", self.over, walk)
        calls = [self._call(walk, path, index, item) for index, item in enumerate(items)]
        answers, error = await _bounded(calls, self.max_workers)
        if error is None:
            walk.put({self.output_key: [answer.result.output for answer in answers]})
        return Outcome(tuple(answer.result for answer in answers), error)

    def _call(self, walk: Walk, path: str, index: int, item: Any) -> Call:
        return lambda: walk.call(
            self.agent,
            item,
            step=self.name,
            name=self.name,
            part=f"{path}/agent",
            own=self.options,
            item=f" for item {index}",
        )


class _FirstFailure(Exception):
    """Leaves the task group, so that it cancels the other calls."""


async def _bounded(calls: Sequence[Call], limit: int | None) -> tuple[list[Answer], StepFailed | None]:
    """Run at most ``limit`` calls at once, until all are answered or one has failed.

    Answers what was answered, in the order of the calls, and the first failure by time.
    """
    answers: dict[int, Answer] = {}
    errors: list[StepFailed] = []
    todo = iter(range(len(calls)))

    async def work() -> None:
        for index in todo:  # shared by all workers: each takes the next call when it is free
            answer = answers[index] = await calls[index]()
            if answer.error is not None:
                errors.append(answer.error)
                raise _FirstFailure

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(min(limit or len(calls), len(calls))):
                group.create_task(work())
    except* _FirstFailure:
        pass  # it only ends the others; what failed is in errors
    return [answers[index] for index in sorted(answers)], errors[0] if errors else None
