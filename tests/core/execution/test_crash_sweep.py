"""Workflows as people write them: stop after each entry of the journal, take up, finish, and nothing differs."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import pytest

import rayflow as rf
from rayflow.core.events import AttemptFailed, StepCompleted
from rayflow.core.execution.actions import RunAttempt
from rayflow.definition.agent import Agent, AgentResult
from rayflow.definition.declared_steps import DistributedParallelStep, SequentialStep
from rayflow.definition.options import ExecutionOptions, RetryPolicy
from rayflow.definition.workflow import Workflow
from rayflow.errors import StepFailed
from tests.core.fake import Flow, Shell, failure, run, stub, sweep

fetch = stub("fetch")
score = stub("score")
book = stub("book")
refund = stub("refund")
notify = stub("notify")

OPTIONS = ExecutionOptions(retry=RetryPolicy(max_retries=2, initial_delay=10, jitter=0.5))


def answer(attempt: RunAttempt) -> Any:
    """What steps come to: by their arguments and attempt, as any process would answer."""
    name, first = attempt.call.name, attempt.call.args[0]
    if name == "fetch" and attempt.attempt <= first % 3:
        return failure(f"fetch {first} is busy")
    if name == "book" and first == "car":
        return failure("no cars", retryable=False)
    if attempt.call.target.part:
        return AgentResult("agent", first, output=f"{name} of {first}")
    return f"{name} {first}"


async def fan_out_and_in() -> Any:
    pages = await asyncio.gather(*(fetch(number) for number in range(6)))
    return await score(" ".join(pages))


async def saga() -> Any:
    """Books in turn, and undoes in reverse what was booked when something fails."""
    undo: list[str] = []
    try:
        for what in ("flight", "hotel", "car"):
            undo.append(await book(what))  # noqa: PERF401 - what is booked must be known when the next one fails
    except StepFailed as error:
        for booked in reversed(undo):
            await refund(booked)
        return f"undone: {error.failure.message}"
    return "booked"


async def patient() -> Any:
    """Reminds every day, since no answer comes, and keeps count in its state."""
    answered = asyncio.Event()
    days = 0
    while days < 3:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(answered.wait(), 86_400)
        days += 1
        rf.state["days"] = days
        await notify(days)
    return [days, rf.now(), str(rf.uuid4())]


async def pipeline() -> Any:
    """Two workers between two queues."""
    todo: asyncio.Queue[int] = asyncio.Queue()
    scored: list[Any] = []
    limit = asyncio.Semaphore(2)

    async def work() -> None:
        while True:
            number = await todo.get()
            async with limit:
                scored.append(await score(await fetch(number)))
            todo.task_done()

    workers = [asyncio.create_task(work()) for _ in range(3)]
    for number in range(5):
        todo.put_nowait(number)
    await todo.join()
    for worker in workers:
        worker.cancel()
    return scored


async def deadline_inside() -> Any:
    """A group that is given up by a timeout, with durable clean-up."""

    async def careful(number: int) -> None:
        try:
            await fetch(number)
            await asyncio.sleep(1000)
        finally:
            await refund(number)

    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(60), asyncio.TaskGroup() as group:
            for number in range(4):
                group.create_task(careful(number))
    return rf.random().randint(0, 1000)


async def fails() -> Any:
    await asyncio.gather(fetch(1), fetch(5))
    await book("car")


def declared() -> Any:
    agents = {name: Agent(name, run=str.upper) for name in ("extract", "mood", "names")}
    workflow = (
        Workflow("declared")
        .add_step(SequentialStep("first", agent=agents["extract"], input=lambda s: s["input"], output_key="text"))
        .add_step(
            DistributedParallelStep(
                "second",
                agents=[agents["mood"], agents["names"]],
                input=lambda s: [s["text"]] * 2,
                output_keys=["mood", "names"],
            )
        )
    )
    return workflow.begin([{"input": "a document"}], {})


FLOWS: list[Flow] = [fan_out_and_in, saga, patient, pipeline, deadline_inside, fails, declared]


def watched(flow: Flow) -> Shell:
    ended = run(flow, answer, options=OPTIONS)
    assert ended.execution.outcome is not None
    return ended


@pytest.mark.parametrize("flow", FLOWS, ids=lambda flow: flow.__name__)
def test_a_crash_after_any_entry_changes_nothing(flow: Flow) -> None:
    ended = watched(flow)
    assert len(ended.journal) > 4
    sweep(ended, answer)


@pytest.mark.parametrize("flow", FLOWS, ids=lambda flow: flow.__name__)
def test_a_crash_before_every_event_changes_nothing(flow: Flow) -> None:
    shell = Shell(flow, options=OPTIONS).begin()
    runs: dict[int, int] = {}
    while shell.execution.outcome is None:
        crashed = shell
        shell = crashed.restored()
        crashed.execution.evict()
        attempt = next(iter(shell.running.values()), None)
        if attempt is None:
            shell.wake()
            continue
        value = answer(attempt)
        if isinstance(value, type(failure())):
            shell.fail(attempt.call.name, value)
        else:
            runs[attempt.seq] = runs.get(attempt.seq, 0) + 1
            shell.complete(attempt.call.name, value)
    assert shell.journal == watched(flow).journal
    recorded = [event.step for event in shell.events if isinstance(event, StepCompleted)]
    assert sorted(recorded) == sorted(runs)
    assert set(runs.values()) <= {1}


def test_the_workflows_do_what_they_say() -> None:
    assert watched(fan_out_and_in).result == "score " + " ".join(f"fetch {number}" for number in range(6))
    assert watched(fan_out_and_in).count(AttemptFailed) == 6
    undone = watched(saga)
    assert undone.result == "undone: no cars"
    assert [name for name, _ in undone.started] == ["book", "book", "book", "refund", "refund"]
    assert watched(patient).result[:2] == [3, 1000.0 + 3 * 86_400]
    assert sorted(watched(pipeline).result) == [f"score fetch {number}" for number in range(5)]
    assert watched(deadline_inside).count(StepCompleted) == 8
    assert watched(fails).failure.step == 3
    assert watched(declared).result["mood"] == "second/mood of first of a document"
