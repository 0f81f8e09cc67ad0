"""What a type checker knows at the call sites. Checked by test_typing.py; never run."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, ParamSpec, TypeVar, assert_type

import rayflow as rf
from rayflow.definition.base import WorkflowDefinition

P = ParamSpec("P")
R = TypeVar("R")


@rf.step
async def asynchronous(n: int, *, extra: str = "") -> str:
    return f"{n}{extra}"


@rf.step
def plain(n: int) -> str:
    return str(n)


@rf.step(name="tuned", retry=rf.RetryPolicy(max_retries=1), timeout=3)
async def tuned(n: int) -> list[int]:
    return [n]


@rf.step(local=True)
def tuned_plain(n: int) -> bytes:
    return bytes(n)


@rf.workflow
async def flow(document: str, *, limit: int = 3) -> dict[str, int]:
    assert_type(await asynchronous(1, extra="x"), str)
    assert_type(await plain(1), str)
    assert_type(await tuned(n=1), list[int])
    assert_type(await tuned_plain(1), bytes)
    assert_type(await plain.options(timeout=3)(1), str)
    return {document: limit}


@rf.workflow(version="2")
async def versioned() -> float:
    return 1.0


@rf.agent
def agent(text: str) -> str:
    return text


@rf.agent(id="other")
async def other(text: str) -> rf.AgentOutput:
    return rf.AgentOutput(text)


# Assigned, not asserted: mypy's own type also keeps the parameters' names.
sync_step: rf.Step[[int], str] = plain
async_step: rf.Step[[int], list[int]] = tuned
tuned_sync_step: rf.Step[[int], bytes] = tuned_plain
assert_type(versioned, rf.WorkflowFunction[[], float])
assert_type(agent, rf.Agent)
assert_type(other, rf.Agent)
made = assert_type(plain(1), Coroutine[Any, Any, str])
begun = assert_type(flow("a", limit=2), Coroutine[Any, Any, dict[str, int]])


def execute(workflow: rf.WorkflowFunction[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """As an engine's execute: the workflow's parameters and result reach the caller."""
    raise NotImplementedError


assert_type(execute(flow, "a", limit=2), dict[str, int])
assert_type(execute(versioned), float)

declared = rf.Workflow("declared").add_step(
    rf.SequentialStep("one", agent=plain, input=lambda s: s["n"], output_key="text")
)
assert_type(declared, rf.Workflow)
definitions: list[WorkflowDefinition] = [declared, flow, versioned]
