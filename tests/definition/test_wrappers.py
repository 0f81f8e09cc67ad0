from __future__ import annotations

import math
from typing import Any

import pytest

import rayflow as rf
from rayflow.definition.declared_steps import DeclaredStep
from tests.definition.agents import entities, extract, extractor, flaky, length, sentiment
from tests.definition.fake import BEGINNING, FakeExecution

NO_RETRIES = rf.RetryPolicy(max_retries=0)


def of(agent: Any, name: str = "inner", **options: Any) -> rf.SequentialStep:
    return rf.SequentialStep(name, agent=agent, input=lambda s: s["words"], output_key=name, **options)


def run(step: DeclaredStep, state: dict[str, Any], execution: FakeExecution | None = None) -> dict[str, Any]:
    execution = execution or FakeExecution()
    return execution.run(lambda: rf.Workflow("w").add_step(step).run(state))


# --- conditional --------------------------------------------------------------------------------------------
def branch(**options: Any) -> rf.ConditionalStep:
    return rf.ConditionalStep(
        "branch", condition=lambda s: s["long"], then=of(sentiment, "yes"), otherwise=of(entities, "no"), **options
    )


@pytest.mark.parametrize(
    ("long", "key", "value", "part"),
    [(True, "yes", "bad", "branch/then/agent"), (False, "no", ["Ann"], "branch/otherwise/agent")],
)
def test_only_the_chosen_branch_runs(*, long: bool, key: str, value: Any, part: str) -> None:
    """Case 4, ConditionalStep true/false: the chosen branch's output only."""
    execution = FakeExecution()
    state = run(branch(), {"long": long, "words": ["Ann"]}, execution)
    assert state == {"long": long, "words": ["Ann"], key: value}
    assert [(call.name, call.target.part) for call in execution.calls] == [(key, part)]
    assert execution.stages == [(0, "branch", "running"), (0, "branch", "completed")]
    assert [result.output for result in execution.results[0].results] == [value]


def test_false_without_a_branch_is_skipped() -> None:
    execution = FakeExecution()
    step = rf.ConditionalStep("branch", condition=lambda _: False, then=of(sentiment))
    assert run(step, {}, execution) == {}
    assert execution.calls == []
    assert execution.results == [rf.StepResult("branch", 0, "skipped")]


def test_a_branch_takes_the_options_that_it_does_not_set() -> None:
    execution = FakeExecution()
    step = rf.ConditionalStep(
        "branch", condition=lambda _: True, then=of(sentiment, timeout=3), retry=NO_RETRIES, timeout=8
    )
    run(step, {"words": []}, execution)
    assert execution.calls[0].options == rf.StepOptions(retry=NO_RETRIES, timeout=3)


# --- retry --------------------------------------------------------------------------------------------------
def test_first_try_success() -> None:
    """Case 5, RetryStep: first-try success."""
    execution = FakeExecution()
    assert run(rf.RetryStep(extract(), max_retries=2), {"text": "a b"}, execution)["words"] == ["a", "b"]
    assert execution.names == ["extract"]
    assert execution.calls[0].target.part == "extract/step/agent"
    assert execution.calls[0].options == rf.StepOptions(retry=NO_RETRIES)


def test_retries_after_a_fixed_delay_until_it_succeeds() -> None:
    execution = FakeExecution()
    state = run(rf.RetryStep(of(flaky(2)), max_retries=2, delay=30), {"words": "x"}, execution)
    assert state["inner"] == "x at last"
    assert execution.names == ["inner"] * 3
    assert execution.results[0].results[0].start_time == BEGINNING + 60


def test_after_the_last_retry_it_fails() -> None:
    """Case 5, RetryStep: after MaxRetries=2 the error contains "failed after 2 retries"."""
    execution = FakeExecution()
    with pytest.raises(rf.StepFailed) as caught:
        run(rf.RetryStep(of(flaky(9)), max_retries=2, delay=1), {"words": "x"}, execution)
    expected = (
        "step 'inner' failed after 3 attempts: ConnectionError: failed after 2 retries: agent flaky failed: no route"
    )
    assert str(caught.value) == expected
    assert caught.value.seq == 3
    assert caught.value.failure.matches(OSError)
    assert execution.names == ["inner"] * 3


def test_what_is_not_to_be_retried_is_not() -> None:
    execution = FakeExecution()
    with pytest.raises(rf.StepFailed, match="failed after 0 retries: agent flaky failed: no such model"):
        run(rf.RetryStep(of(flaky(9, retryable=False)), max_retries=5), {"words": "x"}, execution)
    assert execution.names == ["inner"]


def test_a_wrong_definition_is_not_retried() -> None:
    execution = FakeExecution()
    with pytest.raises(rf.DefinitionError, match="input= raised KeyError: 'words'"):
        run(rf.RetryStep(of(extractor), max_retries=5), {}, execution)
    assert execution.calls == []


def test_a_policy_inside_a_retry_step_stands() -> None:
    execution = FakeExecution()
    own = rf.RetryPolicy(max_retries=4)
    run(rf.RetryStep(of(length, retry=own), max_retries=1, timeout=8), {"words": []}, execution)
    assert execution.calls[0].options == rf.StepOptions(retry=own, timeout=9, pool="gpu")


# --- remote -------------------------------------------------------------------------------------------------
def test_a_remote_step_insists_on_a_worker_and_its_options() -> None:
    execution = FakeExecution()
    local = rf.step(local=True, timeout=1)(length.fn)
    policy = rf.RetryPolicy(max_retries=9)
    step = rf.RemoteStep(of(local, timeout=2), timeout=60, retry=policy)
    assert run(step, {"words": ["a"]}, execution)["inner"] == 1
    (call,) = execution.calls
    assert (step.name, call.target.part) == ("inner", "inner/step/agent")
    assert call.options == rf.StepOptions(local=False, timeout=60, retry=policy)


def test_a_remote_step_that_says_nothing_keeps_what_is_inside() -> None:
    execution = FakeExecution()
    run(rf.RemoteStep(rf.RetryStep(of(length), max_retries=1)), {"words": []}, execution)
    (call,) = execution.calls
    assert call.target.part == "inner/step/step/agent"
    assert call.options == rf.StepOptions(local=False, timeout=9, retry=NO_RETRIES, pool="gpu")


def test_of_two_remote_steps_the_outer_one_insists() -> None:
    execution = FakeExecution()
    run(rf.RemoteStep(rf.RemoteStep(of(length), timeout=5, retry=NO_RETRIES), timeout=6), {"words": []}, execution)
    assert execution.calls[0].options == rf.StepOptions(local=False, timeout=6, retry=NO_RETRIES, pool="gpu")


def test_names_of_all_kinds() -> None:
    """Case 10, StepName for all kinds."""
    parallel = rf.ParallelStep("parallel", agents=[extractor], input=lambda _: [], output_keys=["a"])
    steps = [extract("sequential"), parallel, branch(), rf.RetryStep(extract("retried"), max_retries=1)]
    steps.append(rf.RemoteStep(extract("remote")))
    assert [step.name for step in steps] == ["sequential", "parallel", "branch", "retried", "remote"]


# --- what is refused ----------------------------------------------------------------------------------------
wrong: Any = rf  # what a type checker would refuse, too


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: wrong.RetryStep(length, max_retries=1),
            "RetryStep needs a declared step, .*wrap it in a SequentialStep",
        ),
        (lambda: wrong.RemoteStep(3), r"step '\(remote\)': RemoteStep needs a declared step, not 3$"),
        (
            lambda: wrong.RetryStep(extract(), max_retries=-1),
            "step 'extract': max_retries must be a whole number from 0",
        ),
        (lambda: wrong.RetryStep(extract(), max_retries=1.5), "max_retries must be a whole number from 0, not 1.5"),
        (
            lambda: wrong.RetryStep(extract(), max_retries=1, delay=-1),
            "delay must be seconds as a number, 0 or more, not -1",
        ),
        (lambda: wrong.RetryStep(extract(), max_retries=1, delay=math.inf), "delay must be seconds as a number"),
        (lambda: wrong.ConditionalStep("c", condition=1, then=extract()), "step 'c': condition= needs a function"),
        (lambda: wrong.ConditionalStep("c", condition=len, then=length), "step 'c': then= needs a declared step"),
        (
            lambda: wrong.ConditionalStep("c", condition=len, then=extract(), otherwise=3),
            "step 'c': otherwise= needs a declared step, not 3",
        ),
        (
            lambda: wrong.RemoteStep(extract(), timeout=0),
            "step 'extract': StepOptions.timeout: Input should be greater",
        ),
    ],
)
def test_wrong_wrappers_are_refused(make: Any, message: str) -> None:
    with pytest.raises(rf.InvalidArgument, match=message):
        make()
