from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Mapping
from typing import Any

import pytest

import rayflow as rf
from rayflow.definition.declared_steps import DeclaredStep
from tests.definition.agents import attempts, broken, entities, extract, extractor, flaky, length, sentiment
from tests.definition.fake import BEGINNING, FakeExecution, plainly


def run(step: DeclaredStep, state: dict[str, Any], execution: FakeExecution | None = None) -> dict[str, Any]:
    """Run a workflow of one step, in an execution if one is given."""
    workflow = rf.Workflow("w").add_step(step)
    return plainly(workflow.run(state)) if execution is None else execution.run(lambda: workflow.run(state))


def parallel(*agents: Any, keys: list[str] | None = None, **options: Any) -> rf.ParallelStep:
    keys = keys or [f"out{i}" for i in range(len(agents))]
    return rf.ParallelStep(
        "analysis", agents=agents, input=lambda s: [s["words"]] * len(agents), output_keys=keys, **options
    )


# --- sequential ---------------------------------------------------------------------------------------------
@pytest.mark.parametrize("execution", [None, FakeExecution()], ids=["plainly", "in an execution"])
def test_a_sequential_step_stores_its_output(execution: FakeExecution | None) -> None:
    """Case 1, SequentialStep_Execute: output returned and stored under OutputKey."""
    assert run(extract(), {"text": "all well"}, execution) == {"text": "all well", "words": ["all", "well"]}


def test_a_failed_sequential_step_leaves_the_state_and_names_its_agent() -> None:
    execution = FakeExecution()
    step = rf.SequentialStep("read", agent=broken, input=lambda s: s["text"], output_key="out")
    with pytest.raises(rf.StepFailed) as caught:
        run(step, {"text": "x"}, execution)
    assert str(caught.value) == "step 'read' failed after 1 attempt: ValueError: agent broken failed: cannot read 'x'"
    assert caught.value.seq == 1
    assert caught.value.failure.matches(ValueError)
    assert isinstance(caught.value.__cause__, rf.StepFailed)
    assert [entry for entry in execution.log if entry[0] == "state"] == [("state", "text", "x")]
    (result,) = execution.results
    assert (result.status, result.error) == ("failed", caught.value.failure)
    assert (result.results[0].input, result.results[0].error.message) == ("x", "cannot read 'x'")


def test_a_timeout_stays_a_timeout() -> None:
    async def late(call: Any) -> Any:
        raise rf.StepTimeout(call.name, rf.Failure("rayflow.errors.StepTimeout", "9 s"), attempts=4, seq=1)

    execution = FakeExecution()
    execution.call = late  # type: ignore[method-assign]
    with pytest.raises(rf.StepTimeout, match=r"failed after 4 attempts: .*: agent extractor failed: 9 s"):
        run(extract(), {"text": "x"}, execution)


def test_the_call_names_the_agent_by_its_path_and_carries_the_options() -> None:
    execution = FakeExecution()
    policy = rf.RetryPolicy(max_retries=7)
    step = rf.SequentialStep("count", agent=length, input=lambda s: s["words"], output_key="n", retry=policy)
    assert run(step, {"words": ["a", "b"]}, execution)["n"] == 2
    (call,) = execution.calls
    assert (call.name, call.target.part, call.args, call.returns) == (
        "count",
        "count/agent",
        (["a", "b"],),
        rf.AgentResult,
    )
    assert call.options == rf.StepOptions(retry=policy, timeout=9, pool="gpu")
    assert call.target.owner.part("count/agent") is length


# --- parallel -----------------------------------------------------------------------------------------------
def test_each_output_goes_under_its_own_key() -> None:
    """Case 2, ParallelStep_Execute: each output under its own key."""
    execution = FakeExecution()
    state = run(parallel(sentiment, entities, keys=["mood", "names"]), {"words": ["Ann", "well"]}, execution)
    assert (state["mood"], state["names"]) == ("good", ["Ann"])
    assert execution.names == ["analysis/sentiment", "analysis/entities"]
    assert [call.target.part for call in execution.calls] == ["analysis/agents/0", "analysis/agents/1"]
    assert [result.usage.total_tokens for result in execution.results[0].results] == [3, 0]


def test_input_mismatch() -> None:
    """Case 3, ParallelStep_InputMismatch."""
    step = rf.ParallelStep("p", agents=[sentiment] * 2, input=lambda _: [1, 2, 3], output_keys=["a", "b"])
    execution = FakeExecution()
    with pytest.raises(rf.DefinitionError, match=r"step 'p': input count \(3\) does not match agent count \(2\)"):
        run(step, {}, execution)
    assert execution.calls == []
    assert execution.stages == [(0, "p", "running"), (0, "p", "failed")]


def test_a_parallel_step_waits_for_all_and_reports_the_first_failure_by_index() -> None:
    async def late_failure(_: Any) -> Any:
        await asyncio.sleep(5)
        raise ValueError("late")

    async def early_failure(_: Any) -> Any:
        raise ValueError("early")

    async def last(_: Any) -> str:
        await asyncio.sleep(9)
        return "done"

    by_agent = {"extractor": late_failure, "sentiment": early_failure, "entities": last}
    execution = FakeExecution(attempt=attempts(by_agent))
    with pytest.raises(rf.StepFailed, match="agent extractor failed: late"):
        run(parallel(extractor, sentiment, entities), {"words": []}, execution)
    assert execution.log[-2] == ("done", "analysis/entities")
    (result,) = execution.results
    assert [(r.agent_id, r.output, r.error and r.error.message) for r in result.results] == [
        ("extractor", None, "late"),
        ("sentiment", None, "early"),
        ("entities", "done", None),
    ]
    assert [(r.start_time, r.end_time) for r in result.results[:2]] == [
        (BEGINNING, BEGINNING + 5),
        (BEGINNING, BEGINNING),
    ]
    assert [entry[1] for entry in execution.log if entry[0] == "state"] == ["words"]


# --- distributed parallel -----------------------------------------------------------------------------------
def test_a_distributed_parallel_step_bounds_its_calls() -> None:
    out, most = [0], [0]

    async def work(value: Any) -> Any:
        out[0] += 1
        most[0] = max(most[0], out[0])
        await asyncio.sleep(1)
        out[0] -= 1
        return value

    step = rf.DistributedParallelStep(
        "d", agents=[extractor] * 7, input=lambda _: list(range(7)), output_keys=list("abcdefg"), max_workers=3
    )
    execution = FakeExecution(attempt=attempts({"extractor": work}))
    assert list(run(step, {}, execution).values()) == list(range(7))
    assert most == [3]
    assert [call.args[0] for call in execution.calls] == list(range(7))
    assert execution.results[0].status == "completed"


def test_the_first_failure_cancels_the_others() -> None:
    async def slow(value: Any) -> Any:
        await asyncio.sleep(60)
        return value

    async def fail(_: Any) -> Any:
        await asyncio.sleep(1)
        raise ValueError("no")

    async def quick(value: Any) -> Any:
        return value

    agents = [rf.Agent(name, run=len) for name in ("slow", "fail", "quick", "never")]
    step = rf.DistributedParallelStep(
        "d", agents=agents, input=lambda _: [0, 1, 2, 3], output_keys=list("abcd"), max_workers=2
    )
    step_of = {"slow": slow, "fail": fail, "quick": quick, "never": quick}
    execution = FakeExecution(attempt=attempts(step_of))
    with pytest.raises(rf.StepFailed, match="agent fail failed: no"):
        run(step, {}, execution)
    assert execution.log[1:-1] == [("call", "d/slow"), ("call", "d/fail"), ("dropped", "d/slow")]
    assert [result.agent_id for result in execution.results[0].results] == ["fail"]


def test_a_distributed_parallel_step_simply_runs() -> None:
    step = rf.DistributedParallelStep(
        "d", agents=[sentiment, entities], input=lambda s: [s["words"]] * 2, output_keys=["mood", "names"]
    )
    assert run(step, {"words": ["Bo"]}) == {"words": ["Bo"], "mood": "bad", "names": ["Bo"]}


# --- map ----------------------------------------------------------------------------------------------------
def mapped(**options: Any) -> rf.MapStep:
    return rf.MapStep("map", agent=extractor, over=lambda s: s["texts"], output_key="all", **options)


def test_a_map_keeps_the_order_of_its_items() -> None:
    async def work(value: float) -> float:
        await asyncio.sleep(value)
        return value * 10

    async def by_name(call: Any) -> rf.AgentResult:
        return rf.AgentResult("extractor", call.args[0], await work(call.args[0]))

    execution = FakeExecution(attempt=by_name)
    assert run(mapped(max_workers=2), {"texts": (3, 1, 2)}, execution)["all"] == [30, 10, 20]
    assert execution.names == ["map"] * 3
    assert {call.target.part for call in execution.calls} == {"map/agent"}


def test_a_map_over_nothing_stores_an_empty_list() -> None:
    assert run(mapped(), {"texts": []}) == {"texts": [], "all": []}


def test_a_failed_map_names_the_item() -> None:
    step = rf.MapStep("map", agent=broken, over=lambda _: ["a", "b"], output_key="all")
    with pytest.raises(rf.StepFailed, match="agent broken for item 0 failed: cannot read 'a'"):
        run(step, {})


@pytest.mark.parametrize("texts", ["text", {"a": 1}, 3, None])
def test_what_is_no_list_cannot_be_mapped(texts: Any) -> None:
    message = f"step 'map': over= must answer a list, not {type(texts).__name__}"
    with pytest.raises(rf.DefinitionError, match=message):
        run(mapped(), {"texts": texts})


# --- callables ----------------------------------------------------------------------------------------------
def test_the_state_cannot_be_changed_behind_the_journals_back() -> None:
    def sneaky(state: Mapping[str, Any]) -> Any:
        state["other"] = 1  # type: ignore[index]

    step = rf.SequentialStep("s", agent=extractor, input=sneaky, output_key="out")
    with pytest.raises(rf.DefinitionError, match="step 's': input= raised TypeError: 'mappingproxy' object does not"):
        run(step, {})


def test_an_input_that_raises_says_what_the_state_has() -> None:
    message = "step 'extract': input= raised KeyError: 'text'; the state has 'other'"
    with pytest.raises(rf.DefinitionError, match=message) as caught:
        run(extract(), {"other": 1})
    assert isinstance(caught.value.__cause__, KeyError)
    with pytest.raises(rf.DefinitionError, match="the state has nothing"):
        run(extract(), {})


def test_an_error_of_ours_in_a_callable_passes_unchanged() -> None:
    def touch(_: Any) -> Any:
        raise rf.SideEffectError("opening a file")

    step = rf.SequentialStep("s", agent=extractor, input=touch, output_key="out")
    with pytest.raises(rf.SideEffectError, match="opening a file inside a workflow"):
        run(step, {})


# --- what is refused ----------------------------------------------------------------------------------------
async def waits(state: Any) -> Any:
    return state


def sequential(**changes: Any) -> Any:
    given: dict[str, Any] = {"agent": extractor, "input": len, "output_key": "out", **changes}
    return rf.SequentialStep(given.pop("name", "s"), **given)


def several(**changes: Any) -> Any:
    given: dict[str, Any] = {"agents": [sentiment, entities], "input": len, "output_keys": ["a", "b"], **changes}
    return rf.DistributedParallelStep("s", **given)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": ""}, "step name must not be empty"),
        ({"name": "a/b"}, "step name 'a/b' must not contain '/'"),
        ({"agent": len}, r"step 's': <built-in function len> is not an agent: .*; put @rf.agent on it"),
        ({"input": "text"}, "step 's': input= needs a function of the state, not 'text'"),
        ({"input": waits}, "step 's': input= must be a plain function of the state; what waits belongs into an agent"),
        ({"output_key": ""}, "step 's': output_key needs a non-empty string, a key of the state, not ''"),
        ({"timeout": -1}, "step 's': StepOptions.timeout: Input should be greater than 0"),
        ({"retry": 3}, "step 's': StepOptions.retry: Input should be a valid dictionary or instance of RetryPolicy"),
    ],
)
def test_wrong_sequential_steps_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(rf.InvalidArgument, match=message):
        sequential(**changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"agents": []}, r"step 's': agents needs a non-empty list, not \[\]"),
        ({"output_keys": "ab"}, "step 's': output_keys needs a non-empty list, not 'ab'"),
        ({"output_keys": ["a"]}, r"step 's': output key count \(1\) does not match agent count \(2\)"),
        ({"output_keys": ["a", "a"]}, "step 's': output key 'a' appears twice"),
        ({"output_keys": ["a", 3]}, r"step 's': output_keys\[1\] needs a non-empty string"),
        ({"agents": [sentiment, 3]}, r"step 's': agents\[1\]: 3 is not an agent"),
        ({"max_workers": 0}, "step 's': max_workers must be a whole number from 1, not 0; leave it out for no limit"),
        ({"max_workers": True}, "step 's': max_workers must be a whole number from 1, not True"),
        ({"input": None}, "step 's': input= needs a function of the state, not None"),
    ],
)
def test_wrong_parallel_steps_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(rf.DefinitionError, match=message):
        several(**changes)


def test_wrong_maps_are_refused() -> None:
    with pytest.raises(rf.DefinitionError, match=r"step 'map': max_workers must be a whole number from 1, not 1.5"):
        mapped(max_workers=1.5)
    with pytest.raises(rf.DefinitionError, match="step 'map': over= needs a function of the state, not 3"):
        rf.MapStep("map", agent=extractor, over=3, output_key="a")  # type: ignore[arg-type]


def test_a_step_is_frozen() -> None:
    step = several()
    assert step.agents == (sentiment, entities)
    with pytest.raises(dataclasses.FrozenInstanceError):
        step.name = "other"


def test_an_agent_of_its_own_retries() -> None:
    assert run(sequential(agent=flaky(0), input=lambda _: "x"), {})["out"] == "x at last"
