from __future__ import annotations

from typing import Any

import pytest

import rayflow as rf
from tests.definition.agents import broken, entities, extract, extractor, length, sentiment
from tests.definition.fake import FakeExecution, plainly


def analysis() -> rf.Workflow:
    return (
        rf.Workflow("distributed-analysis", name="Distributed Analysis", description="Reads.", version="2")
        .add_step(extract())
        .add_step(
            rf.DistributedParallelStep(
                "analysis",
                agents=[sentiment, entities],
                input=lambda s: [s["words"]] * 2,
                output_keys=["mood", "names"],
                max_workers=2,
            )
        )
    )


def test_it_keeps_its_id_name_and_steps() -> None:
    workflow = analysis()
    assert (workflow.id, workflow.name, workflow.description, workflow.version) == (
        "distributed-analysis",
        "Distributed Analysis",
        "Reads.",
        "2",
    )
    assert [step.name for step in workflow.steps] == ["extract", "analysis"]
    assert rf.Workflow("w").name == "w"
    assert repr(workflow) == "<workflow 'distributed-analysis' version '2': 2 steps>"
    assert workflow.returns == dict[str, Any]


def test_a_step_sees_the_output_of_the_one_before_and_results_come_in_order() -> None:
    """Case 7, Engine_Execute: step 2 sees step 1's output; 2 results in order."""
    execution = FakeExecution()
    state = execution.run(lambda: analysis().begin(({"text": "Ann is well"},), {}))
    assert state == {"text": "Ann is well", "words": ["Ann", "is", "well"], "mood": "good", "names": ["Ann"]}
    assert execution.names == ["extract", "analysis/sentiment", "analysis/entities"]
    assert execution.stages == [
        (0, "extract", "running"),
        (0, "extract", "completed"),
        (1, "analysis", "running"),
        (1, "analysis", "completed"),
    ]
    first, second = execution.results
    assert [(r.agent_id, r.output) for r in first.results] == [("extractor", ["Ann", "is", "well"])]
    assert [(r.agent_id, r.output) for r in second.results] == [("sentiment", "good"), ("entities", ["Ann"])]


def test_the_state_is_published_as_it_changes() -> None:
    """Case 8, Workflow_StateManagement: values of mixed types are kept as they are, key by key."""
    execution = FakeExecution()
    initial = {"text": "a", "n": 3, "nested": {"list": [1.5, None]}}
    state = execution.run(lambda: rf.Workflow("w").add_step(extract()).run(initial))
    assert state == {**initial, "words": ["a"]}
    assert "missing" not in state
    assert [entry for entry in execution.log if entry[0] in {"state", "done", "stage"}] == [
        ("state", "text", "a"),
        ("state", "n", 3),
        ("state", "nested", {"list": [1.5, None]}),
        ("stage", 0, "extract", "running", None),
        ("done", "extract"),
        ("state", "words", ["a"]),
        ("stage", 0, "extract", "completed", execution.results[0]),
    ]


def test_each_execution_has_a_state_of_its_own() -> None:
    workflow = rf.Workflow("w").add_step(extract())
    initial = {"text": "a"}
    assert plainly(workflow.run(initial))["words"] == ["a"]
    assert plainly(workflow.run({"text": "b"}))["words"] == ["b"]
    assert initial == {"text": "a"}


def test_a_failed_step_ends_the_walk() -> None:
    workflow = rf.Workflow("w").add_step(
        rf.SequentialStep("first", agent=broken, input=lambda _: 1, output_key="x"),
    )
    execution = FakeExecution()
    with pytest.raises(rf.StepFailed, match="agent broken failed"):
        execution.run(lambda: workflow.add_step(extract()).run({}))
    assert execution.stages == [(0, "first", "running"), (0, "first", "failed")]


def test_a_workflow_of_no_steps_answers_its_state() -> None:
    """Case 26 (its definition): an empty workflow has a result."""
    assert plainly(rf.Workflow("w").run()) == {}
    assert plainly(rf.Workflow("w").run({"a": 1})) == {"a": 1}


def test_outside_an_execution_a_whole_result_of_an_agent_counts() -> None:
    whole = rf.Agent("materialize", run=lambda _: rf.AgentResult("inner", output="o"))
    step = rf.SequentialStep("s", agent=whole, input=lambda _: 0, output_key="out")
    assert plainly(rf.Workflow("w").add_step(step).run({})) == {"out": "o"}


# --- parts --------------------------------------------------------------------------------------------------
def test_every_agent_has_a_path() -> None:
    workflow = (
        analysis()
        .add_step(rf.RemoteStep(rf.RetryStep(extract("again"), max_retries=1)))
        .add_step(
            rf.ConditionalStep(
                "branch",
                condition=bool,
                then=rf.MapStep("each", agent=length, over=list, output_key="n"),
                otherwise=extract("other"),
            )
        )
    )
    paths = {
        "extract/agent": extractor,
        "analysis/agents/0": sentiment,
        "analysis/agents/1": entities,
        "again/step/step/agent": extractor,
        "branch/then/agent": length,
        "branch/otherwise/agent": extractor,
    }
    assert {path: workflow.part(path) for path in paths} == paths
    message = (
        r"workflow 'distributed-analysis' \(version 2\) has no agent at 'analysis/agents/2'; it has: extract/agent"
    )
    with pytest.raises(rf.IncompatibleVersion, match=message):
        workflow.part("analysis/agents/2")


# --- what is refused ----------------------------------------------------------------------------------------
def test_a_name_may_appear_once() -> None:
    with pytest.raises(rf.DefinitionError, match="workflow 'w': it has a step 'extract' already"):
        rf.Workflow("w").add_step(extract()).add_step(rf.RetryStep(extract(), max_retries=1))


def test_two_agents_may_not_share_an_id_but_one_may_be_used_twice() -> None:
    other = rf.Agent("extractor", run=len)
    workflow = rf.Workflow("w").add_step(extract("one")).add_step(extract("two"))
    step = rf.SequentialStep("three", agent=other, input=len, output_key="n")
    with pytest.raises(rf.DefinitionError, match="workflow 'w': two different agents have the id 'extractor'; give"):
        workflow.add_step(step)
    assert [step.name for step in workflow.steps] == ["one", "two"]


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (length, "workflow 'w': add_step needs a declared step, not <step 'length'.*; wrap it in a SequentialStep"),
        (extractor, "workflow 'w': add_step needs a declared step, not <agent 'extractor'"),
    ],
)
def test_only_declared_steps_are_added(step: Any, message: str) -> None:
    with pytest.raises(rf.DefinitionError, match=message):
        rf.Workflow("w").add_step(step)


def test_wrong_ids_are_refused() -> None:
    with pytest.raises(rf.DefinitionError, match="workflow id must not be empty"):
        rf.Workflow("")
    with pytest.raises(rf.DefinitionError, match="workflow version must be a string, not int"):
        rf.Workflow("w", version=1)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("text",), "workflow 'w' takes its initial state, one dict, not str"),
        (({1: 2},), "workflow 'w': the keys of its state must be strings, not 1"),
        (({}, {}), "workflow 'w': too many positional arguments; it takes its initial state, one dict"),
    ],
)
def test_a_wrong_state_is_refused(args: tuple[Any, ...], message: str) -> None:
    with pytest.raises(TypeError, match=message):
        _ = rf.Workflow("w").begin(args, {})
