"""Testing workflows: steps answer what a test says, so that no model is called."""

from __future__ import annotations

import asyncio
import math
import pickle

import pytest

import rayflow as rf
from rayflow.testing import BEGINNING, TestEngine, UnscriptedStep
from tests.fundamentals.virtual import ONCE, ask, asking, double, month


def test_a_script_says_what_a_step_answers(env: TestEngine) -> None:
    script = env.script(ask, returns="42")
    assert env.execute(asking, "why")[0] == "42"
    assert [(call.step, call.args, call.kwargs) for call in script.calls] == [("ask", ("why",), {})]


def test_a_script_may_be_a_function_and_may_be_changed(env: TestEngine) -> None:
    env.script(ask, side_effect=str.upper)
    assert env.execute(asking, "why")[0] == "WHY"

    async def answer(question: str) -> str:
        await asyncio.sleep(0)
        return f"{question} indeed, in attempt {rf.step_context().attempt}"

    env.script(ask, side_effect=answer)
    assert env.execute(asking, "why")[0] == "why indeed, in attempt 1"


def test_a_script_that_raises_uses_up_the_attempts_of_its_step(env: TestEngine) -> None:
    script = env.script("ask", raises=TimeoutError("busy"))
    handle = env.start(asking.options(id="one"), "why")
    with pytest.raises(rf.ExecutionFailed, match="busy") as failed:
        handle.result()
    assert failed.value.failure.matches(rf.StepFailed)
    assert len(script.calls) == 4
    env.script("ask", returns="at last")
    env.dead_letters.requeue("one", 1)
    assert handle.result()[0] == "at last"


def test_a_script_may_take_its_time(env: TestEngine) -> None:
    @rf.workflow
    async def hasty() -> str:
        try:
            async with asyncio.timeout(60):
                return await ask.options(retry=ONCE)("why")
        except TimeoutError as error:
            return f"{type(error).__name__} after {rf.now() - BEGINNING:g} s"

    env.script(ask, returns="42", takes=61)
    assert env.execute(hasty) == "TimeoutError after 60 s"
    env.script(ask, returns="42", takes=59)
    assert env.execute(hasty) == "42"
    assert env.now() == BEGINNING + 60 + 59


def test_a_step_that_takes_too_long_times_out(env: TestEngine) -> None:
    script = env.script(double, takes=math.inf)  # itself, but it never ends

    @rf.workflow
    async def doubled() -> int:
        return await double.options(timeout=300, retry=ONCE)(1)

    with pytest.raises(rf.ExecutionFailed, match="took longer than its timeout of 300 s"):
        env.execute(doubled)
    assert len(script.calls) == 1
    assert env.now() == BEGINNING + 300


def test_agents_of_declared_workflows_are_scripted_by_themselves_or_by_name(env: TestEngine) -> None:
    shout = rf.Agent("shout", run=str.upper)
    count = rf.Agent("count", run=len)
    flow = (
        rf.Workflow("declared")
        .add_step(rf.SequentialStep("loud", agent=shout, input=lambda s: s["text"], output_key="loud"))
        .add_step(rf.SequentialStep("long", agent=count, input=lambda s: s["loud"], output_key="long"))
    )
    env.script(shout, returns=rf.AgentOutput("LOUD", usage=rf.TokenUsage(10, 20)))
    assert env.execute(flow.options(id="one"), {"text": "quiet"})["long"] == 4
    assert env.status("one").results[0].results[0].usage.total_tokens == 30
    env.script("count", returns=99)
    assert env.execute(flow, {"text": "quiet"})["long"] == 99
    assert [call.target for call in env.calls(count)] == ["count", "count"]


def test_steps_without_a_script_can_be_refused() -> None:
    with TestEngine(strict=True) as env:
        env.script(ask, returns="42")
        assert env.execute(asking, "why")[0] == "42"
        with pytest.raises(UnscriptedStep, match=r"'double' of execution 'm'.*\(1\).*scripted: 'ask'.*env\.script"):
            env.execute(month.options(id="m"), 1)
        assert env.calls(double) == []
        with pytest.raises(UnscriptedStep) as refused:
            env.execute(month.options(id="m2"), 1)
        sent = pickle.loads(pickle.dumps(refused.value))
        assert (str(sent), sent.step, sent.execution_id) == (str(refused.value), "double", "m2")


def test_a_script_that_is_used_up_says_so_even_if_the_workflow_catches_it(env: TestEngine) -> None:
    @rf.workflow
    async def careful() -> str:
        try:
            return await ask("one") + await ask("two")
        except rf.StepFailed:
            return "caught"

    env.script(ask, side_effect=["1"])
    with pytest.raises(UnscriptedStep, match="has no results left after 1 attempts"):
        env.execute(careful.options(id="careful"))
    assert env.execute(careful.options(id="careful")) == "caught"


def test_a_script_that_makes_no_sense_is_refused(env: TestEngine) -> None:
    for wrong in (
        {},
        {"returns": 1, "raises": OSError},
        {"raises": "no"},
        {"side_effect": 1},
        {"returns": 1, "takes": -1},
    ):
        with pytest.raises(rf.InvalidArgument, match="script of step 'ask'"):
            env.script(ask, **wrong)
    with pytest.raises(rf.InvalidArgument, match="cannot be scripted"):
        env.script(month, returns=1)
