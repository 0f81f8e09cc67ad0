"""What a person sees of an execution, folded from its journal alone."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import rayflow as rf
from rayflow.core.events import (
    AttemptFailed,
    CancelRequested,
    DeadlinePassed,
    Ended,
    Entry,
    Event,
    Paused,
    Resumed,
    Rewound,
    StageNote,
    Started,
    StepCompleted,
    StepFailed,
    TimerFired,
)
from rayflow.core.execution.snapshot import ExecutionSnapshot, StageSnapshot, StepSnapshot, fold
from rayflow.definition.agent import Agent, AgentResult
from rayflow.definition.declared_steps import SequentialStep
from rayflow.definition.options import ExecutionOptions, RetryPolicy
from rayflow.definition.workflow import Workflow
from rayflow.ids import ExecutionStatus
from tests.core.fake import Shell, failure, stub
from tests.core.others import CODEC

one = stub("one")
two = stub("two")


def seen(entries: list[Entry]) -> ExecutionSnapshot:
    snapshot = ExecutionSnapshot("e", "w", "1", ExecutionStatus.RUNNING, created_at=1.0, updated_at=1.0)
    assert fold(snapshot, entries, CODEC.decode) is snapshot
    return snapshot


def after(*events: Event) -> ExecutionSnapshot:
    """The snapshot after two steps were issued and these events happened."""
    begun = Entry(1, Started(1.0), issued=("one", "two"), state={"x": CODEC.encode("begun")})
    return seen([begun, *(Entry(seq, event) for seq, event in enumerate(events, 2))])


def completed(step: int) -> StepCompleted:
    return StepCompleted(9.0, step, "one", 3, CODEC.encode(step * 10), 7.0, "w1")


RUNNING = StepSnapshot(2, "two")


def test_of_an_empty_journal() -> None:
    snapshot = seen([])
    assert (snapshot.steps, snapshot.stages, snapshot.state, snapshot.result) == ([], [], {}, None)
    assert (snapshot.completed_steps, snapshot.current_steps, snapshot.results) == ([], [], [])


def test_steps_are_running_when_they_are_issued() -> None:
    snapshot = after()
    assert snapshot.steps == [StepSnapshot(1, "one"), RUNNING]
    assert snapshot.current_steps == ["one", "two"]
    assert snapshot.state == {"x": "begun"}


def test_a_completed_step() -> None:
    snapshot = after(completed(1))
    assert snapshot.steps == [
        StepSnapshot(1, "one", "completed", attempts=3, result=10, began=7.0, ended=9.0, worker="w1"),
        RUNNING,
    ]
    assert (snapshot.completed_steps, snapshot.current_steps, snapshot.results) == ([1], ["two"], [10])


def test_a_failed_attempt_and_its_retry() -> None:
    lost = AttemptFailed(2.0, 1, "one", 1, failure("first"), 12.0, counts=False, began=1.5, worker="w1")
    waiting = after(lost).steps[0]
    assert waiting == StepSnapshot(1, "one", "running", 1, None, failure("first"), 1.5, None, 12.0, "w1")
    assert after(lost, completed(1)).steps[0].error is None
    assert after(lost, completed(1)).steps[0].retry_at is None


def test_a_failed_step() -> None:
    failed = after(StepFailed(5.0, 1, "one", 4, failure("last"), 2, 0.0, "w2")).steps[0]
    assert failed == StepSnapshot(1, "one", "failed", 4, None, failure("last"), None, 5.0, None, "w2")


def test_events_that_concern_no_step_change_no_step() -> None:
    quiet = (Paused(2.0), Resumed(3.0), TimerFired(4.0, 1), CancelRequested(5.0), DeadlinePassed(6.0))
    assert after(*quiet) == after()


def test_the_end() -> None:
    snapshot = after(Ended(9.0, ExecutionStatus.COMPLETED, CODEC.encode("all")))
    assert snapshot.result == "all"
    assert after(Ended(9.0, ExecutionStatus.FAILED, failure=failure())).result is None


def test_what_a_rewind_superseded_is_not_seen() -> None:
    failed = StepFailed(5.0, 1, "one", 1, failure(), 2)
    snapshot = after(failed, Ended(9.0, ExecutionStatus.FAILED, CODEC.encode("old")), Rewound(10.0, to=1), completed(2))
    assert [step.status for step in snapshot.steps] == ["running", "completed"]
    assert snapshot.result is None


def test_steps_that_were_given_up_and_state_that_changed() -> None:
    async def flow() -> str:
        rf.state["phase"] = "first"
        rf.state["kept"] = [1]
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(one(), 5)
        rf.state["phase"] = "second"
        return str(await two())

    shell = Shell(flow).begin().wake()
    snapshot = seen(shell.journal)
    assert [(step.name, step.status) for step in snapshot.steps] == [("one", "dropped"), ("two", "running")]
    assert snapshot.state == {"phase": "second", "kept": [1]}
    assert snapshot.current_steps == ["two"]


def test_of_a_durable_function() -> None:
    async def flow() -> Any:
        answers = await asyncio.gather(one(), two())
        return [*answers, await one()]

    retrying = ExecutionOptions(retry=RetryPolicy(max_retries=1, initial_delay=10, jitter=0))
    shell = Shell(flow, options=retrying).begin().fail("one").wake().complete("two", "b").complete("one", "a")
    snapshot = seen(shell.journal)
    assert [(step.seq, step.status, step.attempts) for step in snapshot.steps] == [
        (1, "completed", 2),
        (2, "completed", 1),
        (3, "running", 0),
    ]
    assert (snapshot.completed_steps, snapshot.results) == ([1, 2], ["a", "b"])
    shell.complete("one", "c")
    assert seen(shell.journal).result == ["a", "b", "c"]


def test_of_a_declared_workflow() -> None:
    upper = Agent("upper", run=str.upper)
    declared = (
        Workflow("declared")
        .add_step(SequentialStep("first", agent=upper, input=lambda state: state["input"], output_key="a"))
        .add_step(SequentialStep("second", agent=upper, input=lambda state: state["a"], output_key="b"))
    )
    shell = Shell(lambda: declared.begin([{"input": "x"}], {})).begin()
    snapshot = seen(shell.journal)
    assert [(stage.index, stage.name, stage.status) for stage in snapshot.stages] == [(0, "first", "running")]
    assert (snapshot.completed_steps, snapshot.results) == ([], [])
    attempt = next(iter(shell.running.values()))
    shell.complete(attempt.call.name, AgentResult("upper", "x", output="X"))
    snapshot = seen(shell.journal)
    assert snapshot.completed_steps == [0]
    assert snapshot.state["a"] == "X"
    assert [(result.name, result.status) for result in snapshot.results] == [("first", "completed")]
    assert [stage.status for stage in snapshot.stages] == ["completed", "running"]


def test_stages_are_in_the_order_of_their_indices_and_the_last_note_counts() -> None:
    notes = (
        StageNote(1, "b", "running"),
        StageNote(0, "a", "skipped"),
        StageNote(1, "b", "completed", CODEC.encode(5)),
    )
    snapshot = seen([Entry(1, Started(1.0), stages=notes)])
    assert snapshot.stages == [StageSnapshot(0, "a", "skipped"), StageSnapshot(1, "b", "completed", 5)]
    assert (snapshot.completed_steps, snapshot.results) == ([1], [5])
