from __future__ import annotations

import itertools
from typing import Any

import pytest

import rayflow as rf
from rayflow.definition.agent import agent_id, check_agent, run_agent
from tests.definition.fake import plainly


@rf.agent
def shout(text: str) -> str:
    """Says it louder."""
    return text.upper()


@rf.agent(id="summary:v2", name="Summary")
async def summarise(text: str) -> rf.AgentOutput:
    return rf.AgentOutput(text[:3], usage=rf.TokenUsage(input_tokens=12, output_tokens=3))


class Clock:
    """A clock that a second passes on at each look."""

    def __init__(self, start: float = 100.0) -> None:
        self._ticks = itertools.count(start)

    def __call__(self) -> float:
        return next(self._ticks)


def test_a_plain_and_an_async_function_are_agents() -> None:
    assert (shout.id, shout.name, shout.description) == ("shout", "shout", "Says it louder.")
    assert (summarise.id, summarise.name, summarise.description) == ("summary:v2", "Summary", "")
    assert (shout.run("a"), shout("a")) == ("A", "A")
    assert repr(shout).startswith("<agent 'shout' of <function shout at")


def test_agent_result_fields() -> None:
    """Case 9, AgentResult_Fields: agent id, input, output, duration > 0, total tokens."""
    result = plainly(run_agent(summarise, "abcdef", Clock()))
    assert result == rf.AgentResult(
        "summary:v2", "abcdef", "abc", start_time=100.0, end_time=101.0, usage=rf.TokenUsage(12, 3)
    )
    assert result.duration == 1.0
    assert result.usage.total_tokens == 15
    assert result.error is None


def test_plain_output_has_no_usage() -> None:
    result = plainly(run_agent(shout, "a", Clock()))
    assert (result.output, result.usage, result.usage.total_tokens) == ("A", rf.TokenUsage(), 0)


def test_usages_add_up() -> None:
    assert rf.TokenUsage(1, 2) + rf.TokenUsage(10, 20) == rf.TokenUsage(11, 22)


def test_an_agent_may_answer_a_whole_result() -> None:
    whole = rf.AgentResult("inner", "asked", "answered", start_time=1.0, end_time=3.5)
    assert plainly(run_agent(rf.Agent("outer", run=lambda _: whole), "x", Clock())) is whole


@pytest.mark.parametrize(("retryable", "raised"), [(True, RuntimeError), (False, rf.TerminalError)])
def test_a_result_with_an_error_is_a_failed_attempt(*, retryable: bool, raised: type[Exception]) -> None:
    failed = rf.AgentResult("inner", error=rf.Failure("ModelError", "refused", retryable=retryable))
    with pytest.raises(raised, match="ModelError: refused"):
        plainly(run_agent(rf.Agent("outer", run=lambda _: failed), "x", Clock()))


def test_what_an_agent_raises_passes_through() -> None:
    def fail(_: str) -> str:
        raise KeyError("model")

    with pytest.raises(KeyError, match="model"):
        plainly(run_agent(rf.Agent("fail", run=fail), "x", Clock()))


def test_anything_with_run_is_an_agent() -> None:
    class Echo:
        async def run(self, value: str) -> str:
            return value

    class Named(Echo):
        name = "named"

    class Identified(Named):
        id = "identified"

    found = [(agent_id(a), plainly(run_agent(a, "x", Clock())).output) for a in (Echo(), Named(), Identified())]
    assert found == [("Echo", "x"), ("named", "x"), ("identified", "x")]
    check_agent("step 'a'", Echo())


def test_a_step_is_an_agent() -> None:
    @rf.step
    async def double(n: int) -> int:
        return n * 2

    check_agent("step 'a'", double)
    result = plainly(run_agent(double, 4, Clock()))
    assert (result.agent_id, result.output) == ("double", 8)


# --- what is refused ----------------------------------------------------------------------------------------
def two(a: int, b: int) -> int:
    return a + b


async def durable(text: str) -> str:
    return text


class Empty:
    id = ""

    def run(self, value: str) -> str:
        return value


NOT_AGENTS: list[tuple[Any, str]] = [
    (
        len,
        r"step 'a': <built-in function len> is not an agent: it has no run\(input\); put @rf.agent on it, or @rf.step",
    ),
    (3, r"step 'a': 3 is not an agent: it has no run\(input\)$"),
    (Empty, "step 'a': Empty is a class; pass an instance of it"),
    (rf.Workflow("w"), "step 'a': a Workflow cannot be an agent; pass an agent or a step"),
    (rf.workflow(durable), "step 'a': a WorkflowFunction cannot be an agent"),
    (rf.step(two), r"step 'two' is called with one argument, its input, but takes \(a: 'int', b: 'int'\)"),
]


@pytest.mark.parametrize(("agent", "message"), NOT_AGENTS, ids=[message[:40] for _, message in NOT_AGENTS])
def test_what_is_no_agent_is_refused(agent: Any, message: str) -> None:
    with pytest.raises(rf.DefinitionError, match=message):
        check_agent("step 'a'", agent)


def test_wrong_definitions_are_refused() -> None:
    with pytest.raises(rf.DefinitionError, match="agent id must not be empty"):
        rf.Agent("", run=len)
    with pytest.raises(rf.DefinitionError, match=r"@rf.agent needs a function, not int 3"):
        rf.Agent("a", run=3)  # type: ignore[arg-type]
    with pytest.raises(rf.DefinitionError, match=r"agent 'a' is called with one argument, its input, but takes \(a"):
        rf.Agent("a", run=two)  # type: ignore[arg-type]
    with pytest.raises(rf.DefinitionError, match="a lambda has no name: say which with id="):
        rf.agent(lambda text: text)
    with pytest.raises(rf.DefinitionError, match=r"@rf.agent has no option 'model'; it has: description, id, name"):
        rf.agent(model="large")  # type: ignore[call-overload]
