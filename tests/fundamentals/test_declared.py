"""Declared workflows: a list of steps over a state, with a StepResult for each."""

from __future__ import annotations

from typing import Any

import pytest

import rayflow as rf
from tests.fundamentals.tools import Ledger


@rf.agent(id="extractor")
def extractor(text: str) -> rf.AgentOutput:
    return rf.AgentOutput(text.strip(), usage=rf.TokenUsage(input_tokens=7, output_tokens=3))


@rf.agent(id="shouter")
async def shouter(text: str) -> str:
    return text.upper()


@rf.agent(id="counter")
def counter(text: str) -> int:
    return len(text.split())


@rf.agent(id="broken")
def broken(text: str) -> str:
    raise rf.TerminalError(f"cannot read {text!r}")


def extracting(agent: rf.Agent = extractor) -> rf.SequentialStep:
    return rf.SequentialStep("extract", agent=agent, input=lambda s: s["input"], output_key="extracted")


def analysing(kind: type[rf.ParallelStep] = rf.ParallelStep, second: rf.Agent = counter) -> rf.ParallelStep:
    return kind(
        "analysis",
        agents=[shouter, second],
        input=lambda s: [s["extracted"]] * 2,
        output_keys=["shouted", "words"],
    )


FLOW = rf.Workflow("fundamental-analysis", name="Analysis", description="Looks at a text.")
FLOW.add_step(extracting()).add_step(analysing())


def test_it_answers_its_final_state(engine: rf.LocalEngine) -> None:
    given = {"input": " a large text "}
    state = engine.start(FLOW.options(id="one"), given).result(20)
    assert state == {"input": " a large text ", "extracted": "a large text", "shouted": "A LARGE TEXT", "words": 3}
    assert engine.status("one").state == state
    assert given == {"input": " a large text "}


def test_the_snapshot_has_a_result_for_each_step_in_order(engine: rf.LocalEngine) -> None:
    engine.start(FLOW.options(id="one"), {"input": " two words "}).result(20)
    snapshot = engine.status("one")
    assert snapshot.completed_steps == [0, 1]
    first, second = snapshot.results
    assert (first.name, first.index, first.status, first.error) == ("extract", 0, "completed", None)
    [result] = first.results
    assert (result.agent_id, result.input, result.output) == ("extractor", " two words ", "two words")
    assert result.usage.total_tokens == 10
    assert result.duration >= 0
    assert [(r.agent_id, r.output) for r in second.results] == [("shouter", "TWO WORDS"), ("counter", 2)]


def test_each_execution_has_a_state_of_its_own(engine: rf.LocalEngine) -> None:
    handles = engine.start_many(FLOW.call({"input": f"text {number}"}) for number in range(10))
    assert [handle.result(timeout=20)["shouted"] for handle in handles] == [f"TEXT {number}" for number in range(10)]


def test_values_keep_their_types(engine: rf.LocalEngine) -> None:
    given: dict[str, Any] = {"materialize": 1, "float": 1.0, "text": "x", "list": [1, "a"], "none": None, "yes": True}
    state = engine.start(rf.Workflow("fundamental-types"), given).result(20)
    assert state == given
    assert {key: type(value) for key, value in state.items()} == {key: type(value) for key, value in given.items()}


def test_no_steps_and_no_state_are_fine(engine: rf.LocalEngine) -> None:
    assert engine.start(rf.Workflow("fundamental-nothing")).result(20) == {}


@pytest.mark.parametrize("kind", [rf.ParallelStep, rf.DistributedParallelStep])
def test_a_failed_branch_stores_nothing_and_names_its_agent(
    engine: rf.LocalEngine, kind: type[rf.ParallelStep]
) -> None:
    flow = rf.Workflow("fundamental-broken").add_step(extracting()).add_step(analysing(kind, broken))
    with pytest.raises(rf.ExecutionFailed, match="agent broken failed: cannot read 'x'"):
        engine.start(flow.options(id="one"), {"input": "x"}).result(20)
    snapshot = engine.status("one")
    assert snapshot.state == {"input": "x", "extracted": "x"}
    assert [(stage.name, stage.status) for stage in snapshot.stages] == [
        ("extract", "completed"),
        ("analysis", "failed"),
    ]


def test_a_branch_that_is_not_taken_leaves_no_trace(engine: rf.LocalEngine) -> None:
    loud = rf.SequentialStep("loud", agent=shouter, input=lambda s: s["text"], output_key="loud")
    count = rf.SequentialStep("count", agent=counter, input=lambda s: s["text"], output_key="words")
    flow = rf.Workflow("fundamental-branch").add_step(
        rf.ConditionalStep("choice", condition=lambda s: s["shout"], then=loud, otherwise=count)
    )
    assert engine.start(flow, {"text": "a b", "shout": True}).result(20)["loud"] == "A B"
    assert engine.start(flow, {"text": "a b", "shout": False}).result(20) == {
        "text": "a b",
        "shout": False,
        "words": 2,
    }
    skipping = rf.Workflow("fundamental-skip").add_step(
        rf.ConditionalStep("choice", condition=lambda s: False, then=loud)
    )
    assert engine.start(skipping.options(id="skip"), {"text": "a"}).result(20) == {"text": "a"}
    assert [result.status for result in engine.status("skip").results] == ["skipped"]


def test_a_retry_step_tries_so_often_and_says_so(engine: rf.LocalEngine, ledger: Ledger) -> None:
    path = ledger.path

    def noting(text: str) -> str:
        with open(path, "a") as file:  # noqa: PTH123 - it travels by value, with what it refers to
            file.write(f"{text}\n")
        raise OSError("no luck")

    once = rf.SequentialStep("try", agent=rf.Agent("noting", noting), input=lambda s: "tried", output_key="out")
    flow = rf.Workflow("fundamental-retries").add_step(rf.RetryStep(once, max_retries=2, delay=0.01))
    with pytest.raises(rf.ExecutionFailed, match=r"failed after 2 retries.*no luck"):
        engine.start(flow).result(20)
    assert ledger.lines() == ["tried"] * 3


def test_a_remote_step_and_a_map_run_with_the_rest(engine: rf.LocalEngine) -> None:
    flow = (
        rf.Workflow("fundamental-map")
        .add_step(rf.RemoteStep(extracting(), timeout=30))
        .add_step(rf.MapStep("each", agent=counter, over=lambda s: s["extracted"].split(","), output_key="counts"))
    )
    state = engine.start(flow.options(distributed=False), {"input": " a b,c,d e f "}).result(20)
    assert state["counts"] == [2, 1, 3]


def test_one_that_no_module_holds_is_saved_by_value_and_run_by_its_id(store: str) -> None:
    suffix = "!"
    shout = rf.Agent("inline", run=lambda text: text.upper() + suffix)
    flow = rf.Workflow("fundamental-inline", name="Inline", description="Made in a function.").add_step(
        rf.SequentialStep("shout", agent=shout, input=lambda s: s["text"] + suffix, output_key="loud")
    )
    with rf.LocalEngine(store) as engine:
        engine.register(flow)
    del flow, shout
    with rf.LocalEngine(store) as engine:
        [saved] = engine.workflows()
        assert (saved.workflow_id, saved.name, saved.description) == (
            "fundamental-inline",
            "Inline",
            "Made in a function.",
        )
        assert engine.start(rf.SavedWorkflow("fundamental-inline"), {"text": "hey"}).result(20)["loud"] == "HEY!!"


def test_steps_that_were_added_later_run_after_it_is_started_again(engine: rf.LocalEngine) -> None:
    flow = rf.Workflow("fundamental-growing").add_step(extracting())
    assert engine.start(flow, {"input": " a "}).result(20) == {"input": " a ", "extracted": "a"}
    flow.add_step(analysing())
    assert engine.start(flow, {"input": " a "}).result(20)["words"] == 1


def test_a_wrong_state_is_refused_before_anything_is_written(engine: rf.LocalEngine) -> None:
    with pytest.raises(TypeError, match="one dict, not list"):
        engine.start(FLOW, ["input"])  # type: ignore[call-overload]
    with pytest.raises(TypeError, match="must be strings"):
        engine.start(FLOW, {1: "input"})  # type: ignore[dict-item]
    assert engine.list() == []
