"""Compensations: what was done is undone, the last one first, if the workflow does not complete."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from typing import Any

import pytest

import rayflow as rf
from rayflow.core.events import Ended, StepCompleted, StepFailed, kind_and_name
from rayflow.definition.options import ExecutionOptions, RetryPolicy
from rayflow.errors import Failure, InvalidTransition
from rayflow.ids import ExecutionStatus
from tests.core.fake import Flow, Shell, failure, run, stub, sweep
from tests.core.others import CODEC

book = stub("book")
pay = stub("pay")
cancel_booking = stub("cancel_booking")
refund = stub("refund")
last = stub("last")

RETRYING = ExecutionOptions(retry=RetryPolicy(max_retries=1, initial_delay=10, jitter=0))


async def trip() -> Any:
    for what in ("flight", "hotel"):
        booked = await book(what)
        rf.compensate(cancel_booking, booked, why="trip")
    rf.compensate(refund)
    await pay()
    return "paid"


def answer(asked: Any) -> Any:
    return asked.call.args[0] if asked.call.name == "book" else None


def ended(shell: Shell) -> Ended:
    event = shell.events[-1]
    assert isinstance(event, Ended), event
    return event


def calls(shell: Shell) -> list[Any]:
    """What ran: names and arguments, in order."""
    return [(name, attempt) for name, attempt in shell.started]


def before_paying() -> Shell:
    return Shell(trip).begin().complete("book", "flight").complete("book", "hotel")


def undone(shell: Shell) -> list[tuple[str, list[Any]]]:
    """Run the compensations; answers their names and arguments in order."""
    seen = []
    while shell.execution.outcome is None:
        [attempt] = shell.running.values()
        seen.append((attempt.call.name, CODEC.decode(attempt.payload)))
        shell.complete(attempt.call.name)
    return seen


IN_REVERSE: list[tuple[str, list[Any]]] = [
    ("refund", [[], {}]),
    ("cancel_booking", [["hotel"], {"why": "trip"}]),
    ("cancel_booking", [["flight"], {"why": "trip"}]),
]


# --- when ------------------------------------------------------------------------------------------------------
def test_on_completion_nothing_is_undone() -> None:
    shell = before_paying().complete("pay")
    assert (shell.result, ended(shell).compensated) == ("paid", False)
    assert [entry.compensations for entry in shell.journal if entry.compensations] == [
        ("cancel_booking",),
        ("cancel_booking", "refund"),
    ]
    assert not [name for entry in shell.journal for name in entry.issued if "undo" in name]


def test_on_failure_what_was_done_is_undone_the_last_first_one_after_the_other() -> None:
    shell = before_paying().fail("pay")
    assert shell.execution.outcome is None
    assert undone(shell) == IN_REVERSE
    assert (shell.failure.step, ended(shell).status, ended(shell).compensated) == (3, ExecutionStatus.FAILED, True)
    issued = [kind_and_name(name) for entry in shell.journal for name in entry.issued]
    assert issued[3:] == [("undo", "refund"), ("undo", "cancel_booking"), ("undo", "cancel_booking")]
    sweep(shell, lambda asked: failure() if asked.call.name == "pay" else answer(asked))


def test_only_what_was_registered_before_the_failure() -> None:
    shell = Shell(trip).begin().complete("book", "flight").fail("book")
    assert undone(shell) == IN_REVERSE[2:]


def test_on_cancellation() -> None:
    shell = before_paying().cancel("enough")
    assert shell.stopped == [(3, 1)]
    assert undone(shell) == IN_REVERSE
    assert (ended(shell).status, ended(shell).compensated) == (ExecutionStatus.CANCELLED, True)
    assert shell.failure.message == "enough"


def test_when_the_time_is_up() -> None:
    shell = Shell(trip, deadline=1060.0).begin().complete("book", "flight").wake()
    assert undone(shell) == IN_REVERSE[2:]
    assert shell.failure.matches(TimeoutError)
    assert ended(shell).compensated


def test_when_the_result_cannot_be_written() -> None:
    async def flow() -> Any:
        rf.compensate(refund)
        return threading.Lock()

    shell = Shell(flow).begin()
    assert [run.call.name for run in shell.running.values()] == ["refund"]
    assert shell.complete("refund").failure.type.endswith("CodecError")


def test_after_the_code_s_own_clean_up() -> None:
    async def flow() -> None:
        rf.compensate(refund)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(tidy())
                await pay()
        finally:
            await last()

    async def tidy() -> None:
        try:
            await asyncio.sleep(1000)
        finally:
            await book("tidy")
            rf.compensate(cancel_booking, "late")

    shell = Shell(flow).begin().fail("pay").complete("book").complete("last")
    assert [name for name, _ in shell.started] == ["pay", "book", "last", "cancel_booking"]
    assert undone(shell) == [("cancel_booking", [["late"], {}]), ("refund", [[], {}])]


# --- how -------------------------------------------------------------------------------------------------------
def test_arguments_are_those_of_the_moment_of_registering() -> None:
    async def flow() -> None:
        rooms = ["101"]
        rf.compensate(cancel_booking, rooms)
        rooms.append("102")
        await pay()

    assert undone(Shell(flow).begin().fail("pay")) == [("cancel_booking", [[["101"]], {}])]


def test_they_are_tried_again_like_any_step() -> None:
    shell = Shell(trip, options=RETRYING).begin().fail("book").wake().fail("book")
    assert shell.failure.step == 1
    shell = Shell(trip, options=RETRYING).begin().complete("book", "flight").cancel()
    shell.fail("cancel_booking").wake()
    assert [(run.call.name, run.attempt) for run in shell.running.values()] == [("cancel_booking", 2)]
    assert shell.complete("cancel_booking").failure.type == "ExecutionCancelled"
    assert shell.letters == []


def test_one_that_fails_is_a_letter_and_the_others_go_on() -> None:
    shell = before_paying().fail("pay").fail("refund", failure("no money")).complete("cancel_booking")
    assert [kind_and_name(letter.name) for letter in shell.letters] == [("step", "pay"), ("undo", "refund")]
    assert shell.letters[1].failure.message == "no money"
    assert shell.execution.outcome is None
    shell.fail("cancel_booking")
    assert (shell.failure.step, ended(shell).compensated) == (3, True)
    assert [letter.step for letter in shell.letters] == [3, 4, 6]


def test_a_cancellation_during_them_changes_nothing() -> None:
    shell = before_paying().fail("pay").cancel("enough").complete("refund").cancel("really")
    assert undone(shell) == IN_REVERSE[1:]
    assert (ended(shell).status, shell.failure.step) == (ExecutionStatus.FAILED, 3)


def test_a_deadline_that_passes_during_them_changes_nothing() -> None:
    shell = Shell(trip, deadline=1060.0).begin().complete("book", "flight").fail("book").wake()
    assert undone(shell) == IN_REVERSE[2:]
    assert shell.failure.step == 2


def test_a_pause_during_them_holds_them_up() -> None:
    shell = before_paying().fail("pay").send("refund").pause().complete("refund")
    assert not shell.running
    shell.resume()
    assert undone(shell) == IN_REVERSE[1:]


def test_none_is_registered_while_they_run() -> None:
    class Registers:
        """What a compensation's argument says of itself while it is written."""

    async def flow() -> None:
        rf.compensate(cancel_booking, 1)
        with contextlib.suppress(asyncio.CancelledError):
            await pay()
        raise ValueError("after all")

    shell = Shell(flow).begin().cancel()
    assert undone(shell) == [("cancel_booking", [[1], {}])]
    assert (ended(shell).status, shell.failure.message) == (ExecutionStatus.FAILED, "after all")


def test_code_that_never_settles_is_undone_all_the_same() -> None:
    async def flow() -> None:
        rf.compensate(refund)
        rf.compensate(cancel_booking, "hotel")
        await pay()
        while True:  # noqa: ASYNC110 - that it polls is the point
            await asyncio.sleep(0)

    shell = Shell(flow, budget=100).begin().complete("pay")
    assert undone(shell) == [("cancel_booking", [["hotel"], {}]), ("refund", [[], {}])]
    assert shell.failure.type.endswith("WorkflowStalled")
    assert ended(shell).compensated
    sweep(shell)


def test_code_that_never_settles_gives_up_what_it_waits_for() -> None:
    async def flow() -> None:
        async def polls() -> None:
            await book("x")
            while True:  # noqa: ASYNC110 - that it polls is the point
                await asyncio.sleep(0)

        rf.compensate(refund)
        await asyncio.gather(polls(), pay())

    shell = Shell(flow, budget=100).begin().complete("book")
    assert shell.stopped == [(2, 1)]
    assert [run.call.name for run in shell.running.values()] == ["refund"]
    sweep(shell.complete("refund"))


def test_clean_up_that_never_settles_does_not_end_what_is_being_undone() -> None:
    async def flow() -> None:
        rf.compensate(refund)
        try:
            await pay()
        finally:
            while True:  # noqa: ASYNC110 - that it polls is the point
                await asyncio.sleep(0)

    shell = Shell(flow, budget=100).begin().fail("pay")
    assert undone(shell) == [("refund", [[], {}])]
    assert shell.failure.type.endswith("WorkflowStalled")


# --- crash, resume, fork ---------------------------------------------------------------------------------------
@pytest.mark.parametrize("refused", [None, "refund", "cancel_booking"])
def test_a_crash_after_each_entry(refused: str | None) -> None:
    def fails(asked: Any) -> Any:
        name = asked.call.name
        return failure() if name in {"pay", refused} else answer(asked)

    shell = run(trip, fails, options=RETRYING)
    assert ended(shell).compensated
    assert shell.count(StepCompleted) + sum(isinstance(event, StepFailed) for event in shell.events) == 6
    sweep(shell, fails)


def test_what_is_undone_cannot_be_resumed() -> None:
    shell = before_paying().fail("pay")
    undone(shell)
    with pytest.raises(InvalidTransition, match="its compensations have run") as caught:
        shell.rewound()
    assert caught.value.action == "resume"
    fork = shell.forked("pay")
    assert [(run.call.name, run.seq) for run in fork.running.values()] == [("pay", 3)]
    assert undone(fork.fail("pay")) == IN_REVERSE


def test_what_failed_with_nothing_to_undo_can_be_resumed() -> None:
    shell = Shell(trip).begin().fail("book")
    assert not ended(shell).compensated
    assert [run.attempt for run in shell.rewound().running.values()] == [2]


# --- bad calls -------------------------------------------------------------------------------------------------
async def no_step() -> None:
    rf.compensate(trip)  # type: ignore[arg-type]


async def bad_arguments() -> None:
    @rf.step
    async def strict(a: int) -> None: ...

    rf.compensate(strict)  # type: ignore[call-arg]


async def unwritable() -> None:
    rf.compensate(cancel_booking, threading.Lock())


@pytest.mark.parametrize(
    ("flow", "said"),
    [
        (no_step, "takes a step and its arguments"),
        (bad_arguments, "missing a required argument: 'a'"),
        (unwritable, "lock"),
    ],
)
def test_what_cannot_be_run_is_refused_at_once(flow: Flow, said: str) -> None:
    shell = Shell(flow).begin()
    failed: Failure = shell.failure
    assert said in failed.message
    assert (ended(shell).compensated, shell.journal[0].compensations) == (False, ())


def test_outside_a_workflow() -> None:
    with pytest.raises(RuntimeError, match=r"rf\.compensate\(\) works in a workflow's own code"):
        rf.compensate(refund)
