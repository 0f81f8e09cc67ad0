"""rf.continue_as_new: the run ends, and the workflow begins anew with what nobody received yet."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

import rayflow as rf
from rayflow.core.events import Continued, Entry, SignalReceived, Started
from rayflow.errors import ExecutionNotFound, InvalidTransition
from rayflow.ids import ExecutionStatus
from tests.core.fake import Flow, Shell, run, stub, sweep
from tests.core.others import CODEC

one = stub("one")
two = stub("two")
undo = stub("undo")


async def counting(n: int = 0, *, step: int = 1) -> Any:
    rf.state["n"] = n
    rf.state.setdefault("first", n)
    await one(n)
    if n < 3:
        rf.continue_as_new(n + step, step=step)
    return [n, dict(rf.state)]


def test_a_run_ends_and_the_next_one_begins_with_its_arguments_and_state() -> None:
    shell = Shell(counting).begin().complete("one")
    assert CODEC.decode(shell.next_run or b"") == ((1,), {"step": 1})
    state = {"n": CODEC.encode(0), "first": CODEC.encode(0)}
    continued = shell.journal[-1].event
    assert isinstance(continued, Continued)
    assert shell.journal[-1] == Entry(3, Continued(1000.0, 2, (), state, continued.seed))
    assert shell.execution.take().status is ExecutionStatus.RUNNING
    nxt = shell.run_on()
    assert [type(event) for event in nxt.events] == [Continued, Started]
    assert [(run.seq, run.call.args) for run in nxt.running.values()] == [(1, (1,))]
    while nxt.next_run is not None or nxt.execution.outcome is None:
        nxt = nxt.run_on() if nxt.next_run is not None else nxt.complete("one")
    assert nxt.result == [3, {"n": 3, "first": 0}]
    assert isinstance(nxt.events[0], Continued)
    assert nxt.events[0].run == 4


def test_numbers_of_entries_go_on_and_those_of_calls_begin_anew() -> None:
    nxt = Shell(counting).begin().complete("one").run_on()
    assert [entry.seq for entry in nxt.journal] == [3, 4]
    assert nxt.machine.issued == 1


def test_signals_that_nobody_received_are_carried_over_in_order() -> None:
    async def flow(n: int = 0) -> Any:
        if n == 0:
            await one()
            rf.continue_as_new(1)
        return [await rf.wait_for_signal("a"), await rf.wait_for_signal("b"), await rf.wait_for_signal("a")]

    shell = Shell(flow).begin().signal("a", 1).signal("b", 2).complete("one")
    event = shell.events[-1]
    assert isinstance(event, Continued)
    assert [(signal.name, signal.number) for signal in event.signals] == [("a", 1), ("b", 2)]
    shell.signal("a", 3)  # it comes after the end of the run: the next one applies it
    assert shell.inbox_done == 2
    nxt = shell.run_on()
    assert nxt.result == [1, 2, 3]
    assert nxt.inbox_done == 3
    assert [event.number for event in nxt.events if isinstance(event, SignalReceived)] == [3]


def test_a_crash_between_and_in_the_next_run() -> None:
    nxt = Shell(counting).begin().complete("one").run_on()
    again = nxt.restored(entries=1)
    assert again.journal == nxt.journal
    assert again.complete("one").journal == nxt.complete("one").journal
    assert again.next_run == nxt.next_run
    shell = run(counting)
    sweep(shell)


def test_random_numbers_are_fresh_in_each_run_and_the_same_in_each_replay() -> None:
    async def flow(seen: list[float] | None = None) -> Any:
        numbers = [*(seen or []), rf.random().random()]
        await one()
        if len(numbers) < 3:
            rf.continue_as_new(numbers)
        return [*numbers, str(rf.uuid4())]

    def through(*, crash: bool) -> Any:
        shell = Shell(flow).begin()
        while shell.execution.outcome is None or shell.next_run is not None:
            shell = shell.run_on() if shell.next_run is not None else shell.complete("one")
            if crash and shell.execution.outcome is None:
                shell = shell.restored()
        return shell.result

    numbers = through(crash=False)
    assert len(set(numbers)) == 4
    assert through(crash=True) == numbers


def test_what_is_under_way_is_given_up_with_the_run() -> None:
    async def flow(n: int = 0) -> Any:
        if n == 0:
            asyncio.get_running_loop().create_task(one("left"))
            await asyncio.sleep(5)
            rf.continue_as_new(1)
        return n

    shell = Shell(flow).begin().wake()
    assert shell.stopped == [(1, 1)]
    assert shell.run_on().result == 1


def test_clean_up_comes_first() -> None:
    async def flow(n: int = 0) -> Any:
        try:
            if n == 0:
                rf.continue_as_new(1)
        finally:
            await undo(n)
        return n

    shell = Shell(flow).begin()
    assert shell.next_run is None
    nxt = shell.complete("undo").run_on()
    assert nxt.complete("undo").result == 1


@pytest.mark.parametrize("how", ["cancel", "deadline"])
def test_cancelled_meanwhile_it_does_not_continue(how: str) -> None:
    async def flow(n: int = 0) -> Any:
        try:
            await one()
        finally:
            await undo()
            rf.continue_as_new(n + 1)

    shell = Shell(flow, deadline=1060.0).begin()
    shell = (shell.cancel("enough") if how == "cancel" else shell.wake()).complete("undo")
    outcome = shell.execution.outcome
    assert outcome is not None
    assert shell.next_run is None
    assert outcome.status is (ExecutionStatus.CANCELLED if how == "cancel" else ExecutionStatus.FAILED)


def test_a_patch_is_asked_anew_in_the_next_run() -> None:
    async def old(n: int = 0) -> Any:
        await one()
        rf.continue_as_new(n + 1)

    async def new(n: int = 0) -> Any:
        seen = rf.patched("change")
        await one()
        rf.continue_as_new(n + 1 if not seen else 100 + n)

    shell = Shell(old).begin().restored(new).complete("one")
    assert CODEC.decode(shell.next_run or b"") == ((1,), {})
    nxt = shell.run_on(new).complete("one")
    assert CODEC.decode(nxt.next_run or b"") == ((101,), {})


def test_a_continued_run_that_fails_is_rewound_to_its_own_beginning_at_most() -> None:
    async def flow(n: int = 0) -> Any:
        if n:
            raise ValueError("a mistake")
        rf.continue_as_new(1)

    async def mended(n: int = 0) -> Any:
        return [n, rf.state["kept"]]

    async def first(n: int = 0) -> Any:
        rf.state["kept"] = "yes"
        await flow(n)

    failed = Shell(first).begin().run_on(flow)
    assert failed.failure.message == "a mistake"
    assert failed.rewound(mended).result == [1, "yes"]


# --- refused ---------------------------------------------------------------------------------------------------
async def compensated() -> None:
    rf.compensate(undo)
    rf.continue_as_new()


async def wrong_arguments() -> None:
    rf.continue_as_new(1, 2, 3)


async def unwritable(lock: Any = None) -> None:
    rf.continue_as_new(threading.Lock())


@pytest.mark.parametrize(
    ("flow", "said"),
    [
        (compensated, "1 compensations are registered, which a new run would forget"),
        (wrong_arguments, "too many positional arguments"),
        (unwritable, "lock"),
    ],
)
def test_what_cannot_continue_is_an_error_where_it_is_asked_for(flow: Flow, said: str) -> None:
    shell = Shell(flow).begin()
    while shell.running:
        shell.complete("undo")
    assert said in shell.failure.message
    assert shell.next_run is None


def test_it_is_no_exception_that_code_would_catch() -> None:
    async def flow(n: int = 0) -> Any:
        if n == 0:
            try:
                rf.continue_as_new(1)
            except Exception:  # noqa: BLE001 - this is what must not catch it
                return "caught"
        return n

    assert Shell(flow).begin().run_on().result == 1


def test_a_run_that_continued_is_not_rewound() -> None:
    shell = Shell(counting).begin().complete("one")
    with pytest.raises(InvalidTransition, match="not failed"):
        shell.rewound()


def test_outside_a_workflow() -> None:
    with pytest.raises(RuntimeError, match=r"rf\.continue_as_new\(\) works in a workflow's own code"):
        rf.continue_as_new()
    assert issubclass(ExecutionNotFound, LookupError)


# --- from where it is called -----------------------------------------------------------------------------------
async def in_a_group(run: int = 0) -> Any:
    if run == 0:
        async with asyncio.TaskGroup():
            await one()
            rf.continue_as_new(run + 1)
    return "done"


async def in_a_child_of_a_group(run: int = 0) -> Any:
    async def child() -> None:
        await one()
        rf.continue_as_new(run + 1)

    if run == 0:
        async with asyncio.timeout(1000), asyncio.TaskGroup() as group:
            group.create_task(child())
            group.create_task(two())
    return "done"


async def in_a_gather(run: int = 0) -> Any:
    async def child() -> None:
        await one()
        rf.continue_as_new(run + 1)

    if run == 0:
        await asyncio.gather(child(), two(), return_exceptions=True)
    return "done"


async def in_the_background(run: int = 0) -> Any:
    async def watches() -> None:
        await one()
        rf.continue_as_new(run + 1)

    if run == 0:
        task = asyncio.create_task(watches())
        await asyncio.sleep(0)
        await two()
        await task
    return "done"


async def in_a_callback(run: int = 0) -> Any:
    if run == 0:
        await one()
        asyncio.get_running_loop().call_soon(rf.continue_as_new, run + 1)
        await two()
    return "done"


@pytest.mark.parametrize("flow", [in_a_group, in_a_child_of_a_group, in_a_gather, in_the_background, in_a_callback])
def test_it_continues_from_groups_background_tasks_and_callbacks(flow: Any) -> None:
    shell = Shell(flow).begin().complete("one")
    assert shell.next_run is not None
    assert shell.told.messages == []
    assert shell.run_on().result == "done"
    sweep(shell)


def test_another_failure_in_the_group_fails_the_execution_and_says_both() -> None:
    async def flow() -> None:
        async def fails() -> None:
            try:
                await two()
            finally:
                raise ValueError("clean-up failed")

        async with asyncio.TaskGroup() as group:
            group.create_task(fails())
            await one()
            rf.continue_as_new()

    failure = Shell(flow).begin().complete("one").failure
    assert "ContinueAsNew" in failure.message
    assert "ValueError: clean-up failed" in failure.message


def test_a_cancellation_counts_where_a_background_task_continues() -> None:
    async def flow() -> None:
        async def watches() -> None:
            try:
                await one()
            finally:
                rf.continue_as_new()

        task = asyncio.create_task(watches())
        try:
            await task
        finally:
            await asyncio.sleep(0)

    assert Shell(flow).begin().cancel().execution.outcome.status == "cancelled"  # type: ignore[union-attr]


def test_after_the_workflow_s_end_it_is_refused() -> None:
    async def flow() -> str:
        async def left() -> None:
            try:
                await one()
            finally:
                rf.continue_as_new()

        task = asyncio.create_task(left())
        await asyncio.sleep(0)
        return f"done {task.done()}"

    shell = Shell(flow).begin()
    assert shell.result == "done False"
    assert "called after the workflow's end" in shell.told.messages[0]
