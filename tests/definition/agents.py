"""Agents and a workflow that the tests of this folder share."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import rayflow as rf
from rayflow.definition.context import StepCall


@rf.agent
async def extractor(text: str) -> list[str]:
    return text.split()


@rf.agent
def sentiment(words: list[str]) -> rf.AgentOutput:
    return rf.AgentOutput("good" if "well" in words else "bad", usage=rf.TokenUsage(len(words), 1))


@rf.agent
def entities(words: list[str]) -> list[str]:
    return [word for word in words if word.istitle()]


@rf.agent
async def broken(value: Any) -> Any:
    raise ValueError(f"cannot read {value!r}")


@rf.step(timeout=9, pool="gpu")
def length(words: list[str]) -> int:
    return len(words)


def extract(name: str = "extract") -> rf.SequentialStep:
    return rf.SequentialStep(name, agent=extractor, input=lambda s: s["text"], output_key="words")


def flaky(failures: int, *, retryable: bool = True) -> rf.Agent:
    """An agent that fails so many times first."""
    left = [failures]

    def run(value: Any) -> str:
        left[0] -= 1
        if left[0] >= 0:
            raise ConnectionError("no route") if retryable else rf.TerminalError("no such model")
        return f"{value} at last"

    return rf.Agent("flaky", run=run)


def attempts(by_agent: Mapping[str, Callable[[Any], Awaitable[Any]]]) -> Callable[[StepCall], Awaitable[Any]]:
    """What runs a call, chosen by the last part of its name; its answer becomes an AgentResult."""

    async def attempt(call: StepCall) -> rf.AgentResult:
        agent = call.name.rpartition("/")[2]
        return rf.AgentResult(agent, call.args[0], await by_agent[agent](call.args[0]))

    return attempt
