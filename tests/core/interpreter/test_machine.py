"""The machine: events in, effects out, the same on each replay."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator
from typing import Any

import pytest

import rayflow as rf
from rayflow.core.events import (
    CancelRequested,
    DeadlinePassed,
    Entry,
    Event,
    Paused,
    StageNote,
    Started,
    StepCompleted,
    StepFailed,
    TimerFired,
)
from rayflow.core.interpreter.machine import Machine
from rayflow.definition.context import current_execution
from rayflow.errors import CodecError, NonDeterminismError
from rayflow.errors import StepFailed as StepFailedError
from rayflow.ids import ExecutionStatus
from tests.core.fake import Flow, Shell, failure, run, stub, sweep
from tests.core.others import CODEC

one = stub("one")
two = stub("two")
undo = stub("undo")


def machine_of(flow: Flow) -> Machine:
    return Machine(flow, execution_id="e", workflow_id="w", payloads=CODEC)


def completed(step: int, name: str, value: Any = None, at: float = 2.0) -> StepCompleted:
    return StepCompleted(at, step, name, 1, CODEC.encode(value))


def failed(step: int, name: str, issued: int = 1) -> StepFailed:
    return StepFailed(2.0, step, name, 1, failure(), issued)


async def two_in_turn() -> Any:
    first = await one(1)
    return [first, await two(2)]


# --- effects ---------------------------------------------------------------------------------------------------
def test_one_event_after_another() -> None:
    machine = machine_of(two_in_turn)
    begun = machine.apply(Started(1.0))
    assert [(d.seq, d.call.name, CODEC.decode(d.payload)) for d in begun.dispatches] == [(1, "one", [[1], {}])]
    assert (machine.issued, machine.is_open(1), machine.outcome) == (1, True, None)
    middle = machine.apply(completed(1, "one", "first"))
    assert [d.seq for d in middle.dispatches] == [2]
    assert not machine.is_open(1)
    last = machine.apply(completed(2, "two", "second"))
    assert last.outcome is not None
    assert last.outcome.status is ExecutionStatus.COMPLETED
    assert CODEC.decode(last.outcome.result or b"") == ["first", "second"]
    after = machine.apply(TimerFired(9.0, 1))
    assert (after.dispatches, after.dropped, after.outcome) == ([], [], None)
    assert machine.next_timer() is None


def test_arguments_are_encoded_when_the_step_is_issued() -> None:
    async def flow() -> None:
        argument = ["as it was"]
        task = asyncio.create_task(one(argument, key=argument))
        await asyncio.sleep(0)
        argument.append("changed afterwards")
        await task

    (dispatch,) = machine_of(flow).apply(Started(1.0)).dispatches
    assert CODEC.decode(dispatch.payload) == [[["as it was"]], {"key": ["as it was"]}]


def test_what_is_published_is_in_the_effects() -> None:
    async def flow() -> None:
        rf.state["x"] = 1
        rf.state["x"] = 2
        execution = current_execution()
        assert execution is not None
        execution.stage(0, "first", "running")
        execution.stage(0, "first", "completed", {"answer": 1})
        await one()
        rf.state["y"] = execution.workflow_id

    machine = machine_of(flow)
    begun = machine.apply(Started(1.0))
    assert {key: CODEC.decode(value or b"") for key, value in begun.state.items()} == {"x": 2}
    assert begun.stages == [
        StageNote(0, "first", "running"),
        StageNote(0, "first", "completed", CODEC.encode({"answer": 1})),
    ]
    assert list(machine.apply(completed(1, "one")).state) == ["y"]


def test_nothing_can_be_published_by_a_generator_after_the_end() -> None:
    async def numbers() -> AsyncIterator[int]:
        try:
            yield 1
        finally:
            execution = current_execution()
            assert execution is not None
            with contextlib.suppress(RuntimeError):
                rf.state["x"] = 1
            with contextlib.suppress(RuntimeError):
                execution.stage(0, "s", "running")

    async def flow() -> None:
        async for _ in numbers():
            break

    ended = run(flow)
    assert "contextlib.aclosing" in ended.failure.message
    assert all(not entry.state and not entry.stages for entry in ended.journal)


def test_an_argument_that_cannot_be_written_fails_where_it_is_passed() -> None:
    async def flow() -> Any:
        try:
            await one(threading.Lock())
        except CodecError as error:
            return [str(error)[:26], await one("again")]

    ended = run(flow, lambda attempt: attempt.call.args[0])
    assert ended.result == ["cannot write [0][0]: a _th", "again"]
    assert (ended.journal[0].issued, ended.journal[0].dropped) == (("one", "one"), (1,))
    assert list(ended.started) == [("one", 1)]
    sweep(ended, lambda attempt: attempt.call.args[0])


def test_a_result_that_cannot_be_read_is_the_steps_failure() -> None:
    async def flow() -> str:
        try:
            await one()
        except StepFailedError as error:
            return error.failure.type
        return "not reached"

    machine = machine_of(flow)
    machine.apply(Started(1.0))
    outcome = machine.apply(StepCompleted(2.0, 1, "one", 1, b"damaged")).outcome
    assert outcome is not None
    assert CODEC.decode(outcome.result or b"") == "rayflow.errors.CodecError"


def test_a_result_of_the_workflow_that_cannot_be_written_is_its_failure() -> None:
    async def flow() -> Any:
        return threading.Lock()

    ended = Shell(flow).begin()
    assert ended.failure.matches(CodecError)


@pytest.mark.parametrize("event", [Paused(1.0)])
def test_events_that_are_none_of_the_codes_business_are_refused(event: Event) -> None:
    with pytest.raises(TypeError, match="Paused is not applied to workflow code"):
        machine_of(two_in_turn).apply(event)


# --- ends ------------------------------------------------------------------------------------------------------
def end_of(shell: Shell) -> tuple[ExecutionStatus, str, str]:
    outcome = shell.execution.outcome
    assert outcome is not None
    assert outcome.failure is not None
    return outcome.status, outcome.failure.type, outcome.failure.message


def test_cancelled_before_it_began() -> None:
    machine = machine_of(two_in_turn)
    assert machine.apply(CancelRequested(1.0)).outcome is None


@pytest.mark.parametrize("swallow", [True, False])
def test_cancelled_whether_the_code_swallows_it_or_not(swallow: bool) -> None:  # noqa: FBT001 - a parameter of the test
    async def flow() -> str:
        try:
            await one()
        except asyncio.CancelledError as error:
            rf.state["why"] = str(error)
            if not swallow:
                raise
        return "anyway"

    shell = Shell(flow).begin().cancel("enough")
    assert end_of(shell) == (ExecutionStatus.CANCELLED, "ExecutionCancelled", "enough")
    assert shell.journal[1].dropped == (1,)
    assert CODEC.decode(shell.journal[1].state["why"] or b"") == "enough"
    assert shell.stopped == [(1, 1)]
    sweep(shell)


def test_a_cancelled_workflow_cleans_up_durably_and_keeps_the_first_reason() -> None:
    async def flow() -> None:
        try:
            await one()
        finally:
            await undo()

    shell = Shell(flow).begin().cancel("first")
    assert [attempt.call.name for attempt in shell.running.values()] == ["undo"]
    shell.cancel("second")
    assert end_of(shell) == (ExecutionStatus.CANCELLED, "ExecutionCancelled", "first")


def test_a_failure_while_it_is_cancelled_is_a_failure() -> None:
    async def flow() -> None:
        try:
            await one()
        finally:
            raise ValueError("while cleaning up")

    assert end_of(Shell(flow).begin().cancel()) == (ExecutionStatus.FAILED, "ValueError", "while cleaning up")


@pytest.mark.parametrize("swallow", [True, False])
def test_time_is_up_whatever_the_code_does(swallow: bool) -> None:  # noqa: FBT001 - a parameter of the test
    async def flow() -> str:
        with contextlib.suppress(asyncio.CancelledError if swallow else KeyError):
            await one()
        return "anyway"

    shell = Shell(flow, deadline=1060.0).begin().wake()
    status, kind, message = end_of(shell)
    assert (status, kind) == (ExecutionStatus.FAILED, "rayflow.errors.ExecutionTimeout")
    assert message == "the execution's timeout is up"
    assert shell.failure.matches(TimeoutError)
    assert shell.events[1] == DeadlinePassed(1060.0, "timeout")


def test_a_cancellation_of_ones_own_is_a_failure() -> None:
    async def flow() -> None:
        task = asyncio.create_task(one())
        await asyncio.sleep(0)
        task.cancel()
        await task

    assert end_of(Shell(flow).begin())[:2] == (ExecutionStatus.FAILED, "asyncio.exceptions.CancelledError")


def test_what_a_finished_workflow_left_running_can_be_cancelled_again() -> None:
    async def stubborn() -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()

    tasks = []

    async def flow() -> str:
        tasks.append(asyncio.create_task(stubborn()))
        await asyncio.sleep(0)
        return "done"

    shell = Shell(flow).begin()
    assert shell.execution.outcome is None
    shell.cancel("for good")
    assert end_of(shell) == (ExecutionStatus.CANCELLED, "ExecutionCancelled", "for good")


# --- replay ----------------------------------------------------------------------------------------------------
RECORDED = [
    Entry(1, Started(1.0), issued=("one",)),
    Entry(2, completed(1, "one", "first"), issued=("two",)),
]


def test_replay_answers_what_is_not_answered_in_the_order_of_issue() -> None:
    async def flow() -> None:
        await asyncio.gather(*(one(number) for number in range(4)))

    machine = machine_of(flow)
    entries = [Entry(1, Started(1.0), issued=("one",) * 4), Entry(2, completed(2, "one"))]
    waiting = machine.replay(entries)
    assert [(d.seq, CODEC.decode(d.payload)) for d in waiting] == [(1, [[0], {}]), (3, [[2], {}]), (4, [[3], {}])]


def test_replay_does_not_encode_the_arguments_of_answered_steps_again() -> None:
    encoded: list[Any] = []

    class Counting:
        def encode(self, value: Any) -> bytes:
            encoded.append(value)
            return CODEC.encode(value)

        def decode(self, data: bytes, annotation: Any = None) -> Any:
            return CODEC.decode(data, annotation)

    machine = Machine(two_in_turn, execution_id="e", workflow_id="w", payloads=Counting())
    machine.replay(RECORDED)
    assert encoded == [[[2], {}]]


async def other_name() -> None:
    await two(1)


async def one_more() -> None:
    await asyncio.gather(one(1), two(2))


async def none_at_all() -> None:
    await asyncio.sleep(100)


async def ends_at_once() -> str:
    return "done"


async def gives_up() -> None:
    task = asyncio.create_task(one(1))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.sleep(100)


async def ends_after_one() -> None:
    await one(1)


async def ignores_the_failure() -> None:
    await one(1)
    await one(2)
    await one(3)


@pytest.mark.parametrize(
    ("flow", "entries", "message"),
    [
        (other_name, RECORDED, "at entry 1: expected step 'one' (number 1 of this entry), saw step 'two'"),
        (one_more, RECORDED, "at entry 1: expected no further step, saw step 'two'"),
        (none_at_all, RECORDED, "at entry 1: expected step 'one', saw no further step"),
        (ends_at_once, RECORDED, "at entry 1: expected step 'one', saw no further step"),
        (gives_up, RECORDED, "at entry 1: expected steps [] to be dropped, saw [1]"),
        (ignores_the_failure, RECORDED, "at entry 2: expected step 'two' (number 1 of this entry), saw step 'one'"),
        (ends_after_one, RECORDED, "at entry 2: expected step 'two', saw no further step"),
        (
            ends_after_one,
            [RECORDED[0], Entry(2, completed(1, "one")), Entry(3, completed(2, "two"))],
            "at entry 3: expected step 2 'two' to be waited for, saw the workflow's end (completed)",
        ),
        (
            ends_after_one,
            [RECORDED[0], Entry(2, completed(1, "one")), Entry(3, TimerFired(3.0, 1))],
            "at entry 3: expected timer 1 to be waited for, saw the workflow's end (completed)",
        ),
        (
            ends_after_one,
            [RECORDED[0], Entry(2, completed(1, "one")), Entry(3, CancelRequested(3.0))],
            "at entry 3: expected CancelRequested to be waited for, saw the workflow's end (completed)",
        ),
        (ends_after_one, [RECORDED[0], Entry(2, completed(1, "two"))], "expected step 1 'two', saw step 1 'one'"),
        (ends_after_one, [RECORDED[0], Entry(2, failed(5, "one"))], "expected step 5 'one', saw no such call waiting"),
        (
            ends_after_one,
            [RECORDED[0], Entry(2, TimerFired(2.0, 7))],
            "at entry 7: expected timer 7 to be waiting, saw no such timer",
        ),
    ],
)
def test_code_that_does_not_repeat_itself_is_found_and_told_what_was_expected_and_seen(
    flow: Flow, entries: list[Entry], message: str
) -> None:
    machine = machine_of(flow)
    with pytest.raises(NonDeterminismError) as caught:
        machine.replay(entries)
    assert message in str(caught.value)
    assert "then resume the execution" in str(caught.value)
    machine.evict()
