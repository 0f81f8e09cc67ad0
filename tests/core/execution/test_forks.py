"""A fork takes over what was recorded before a call, and does that call and the rest again."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import rayflow as rf
from rayflow.core.events import CancelRequested, SignalReceived, StepCompleted, StepFailed
from rayflow.core.execution.forks import plan_fork
from rayflow.errors import InvalidTransition
from tests.core.fake import Shell, stub, sweep

one, two = stub("one"), stub("two")


def names(shell: Shell) -> list[str]:
    return [run.call.name for run in shell.running.values()]


async def in_a_row(word: str = "first") -> list[Any]:
    found = [await one(word), await two(f"{word} {rf.state.get('by', 'nobody')}")]
    rf.state["by"] = "flow"
    return [*found, await one(str(rf.state["by"]))]


def done() -> Shell:
    return Shell(in_a_row).begin().complete("one", 1).complete("two", 2).complete("one", 3)


# --- where it is cut -------------------------------------------------------------------------------------------
def test_what_led_to_the_call_is_applied_again() -> None:
    fork = done().forked("two")
    assert names(fork) == ["two"]
    assert [type(event).__name__ for event in fork.events] == ["Started", "Forked", "StepCompleted"]
    assert fork.finish().result == [1, None, None]
    sweep(fork)


def test_another_state_has_its_say_in_the_arguments_of_that_call() -> None:
    assert done().forked("two", by="ada").run_of("two").call.args == ("first ada",)


def test_other_code_may_do_something_else_from_there_on() -> None:
    async def other(word: str = "first") -> list[Any]:
        return [await one(word), await one("instead")]

    fork = done().forked(2, other)
    assert fork.complete("one", "new").result == [1, "new"]


def test_before_the_first_call_everything_is_done_again() -> None:
    fork = done().forked(1, word="state is set before the code begins")
    assert [type(event).__name__ for event in fork.events] == ["Forked", "Started"]
    assert names(fork) == ["one"]
    sweep(fork.finish())


def test_the_first_one_of_that_name_is_meant() -> None:
    assert plan_fork("e", done().journal, "one").issued == 0
    assert plan_fork("e", done().journal, 3).issued == 2


@pytest.mark.parametrize("before", [0, 4, -1, "three"])
def test_a_call_that_there_is_not(before: str | int) -> None:
    with pytest.raises(InvalidTransition, match=r"Its calls so far \(3\): one, two"):
        plan_fork("e", done().journal, before)


# --- what is carried along -------------------------------------------------------------------------------------
async def at_once() -> list[Any]:
    return list(await asyncio.gather(one("a"), two("b"), one("c")))


def test_results_of_earlier_calls_are_kept_also_where_they_came_later() -> None:
    shell = Shell(at_once).begin().complete("two", "B").complete("one", "A").complete("one", "C")
    fork = shell.forked("two")
    assert fork.started == [("two", 1), ("one", 1)], "what was recorded of the first one need not run again"
    assert fork.finish().result == ["A", None, None]
    sweep(fork)


def test_a_failure_that_led_to_the_call_is_applied_again() -> None:
    async def flow() -> Any:
        try:
            await one()
        except rf.StepFailed:
            return await two("instead")

    shell = Shell(flow).begin().fail("one").complete("two", 2)
    plan = plan_fork("e", shell.journal, "two")
    assert [type(event) for event in plan.carried] == [StepFailed]
    assert names(shell.forked("two")) == ["two"]


def test_a_cancellation_that_led_to_the_call_is_applied_again() -> None:
    async def flow() -> None:
        try:
            await one()
        finally:
            await two("clean")

    shell = Shell(flow).begin().cancel().complete("two")
    assert [type(event) for event in plan_fork("e", shell.journal, "two").carried] == [CancelRequested]
    assert names(shell.forked("two")) == ["two"]


def test_a_timer_fires_again_by_itself() -> None:
    async def flow() -> Any:
        await asyncio.sleep(10)
        return await two("late")

    shell = Shell(flow).begin().wake().complete("two", 2)
    fork = shell.forked("two")
    assert plan_fork("e", shell.journal, "two").carried == ()
    assert names(fork) == ["two"]


def test_of_the_signals_only_the_one_that_led_there_comes_along() -> None:
    async def flow() -> list[Any]:
        got = [await rf.wait_for_signal("a")]
        await two("x")
        return [*got, await rf.wait_for_signal("a")]

    shell = Shell(flow).begin().signal("a", 1).complete("two").signal("a", 2)
    assert shell.result == [1, 2]
    assert [type(event) for event in plan_fork("e", shell.journal, "two").carried] == [SignalReceived]
    fork = shell.forked("two").complete("two")
    assert fork.execution.outcome is None
    assert fork.signal("a", 3).result == [1, 3]


def test_pauses_and_rewinds_of_the_other_one_are_no_part_of_it() -> None:
    shell = Shell(in_a_row).begin().pause().resume().complete("one", 1).fail("two").rewound().complete("two", 2)
    fork = shell.complete("one", 3).forked(3)
    assert [entry.seq for entry in fork.journal] == [1, 2, 3, 4]
    assert [type(event) for event in fork.events[-1:]] == [StepCompleted]
    assert names(fork) == ["one"]


# --- random numbers --------------------------------------------------------------------------------------------
async def draws() -> list[Any]:
    order = str(rf.uuid4())
    room = await one(order)
    confirmed = await two(order, str(rf.uuid4()))
    return [order, room, confirmed, str(rf.uuid4()), await one("last")]


def all_drawn() -> Shell:
    return Shell(draws).begin().complete("one", "room").complete("two", "yes").complete("one", None)


def test_a_fork_draws_the_numbers_with_which_the_results_that_it_takes_over_were_made() -> None:
    source = all_drawn()
    fork = source.forked("two")
    assert fork.run_of("two").call.args[0] == source.result[0]
    sweep(fork.finish())


def test_a_fork_draws_numbers_of_its_own_after_the_call_that_is_done_again() -> None:
    source, fork = all_drawn(), all_drawn().forked("two").finish()
    other = all_drawn().forked("two").forked("two").finish()
    assert (fork.result[0], other.result[0]) == (source.result[0], source.result[0])
    assert fork.result[3] != source.result[3]


def test_results_that_came_with_the_call_fit_the_numbers_of_the_code_that_runs_again() -> None:
    async def both() -> str:
        order = str(rf.uuid4())
        await asyncio.gather(one(order), two(order))
        return order

    source = Shell(both).begin().complete("one", 1).complete("two", 2)
    fork = source.forked("two")
    assert fork.run_of("two").call.args[0] == source.result
    sweep(fork.finish())


def test_a_fork_of_a_fork_has_what_the_first_one_has_drawn_and_changed() -> None:
    async def flow() -> list[Any]:
        first = [await one(str(rf.uuid4())), str(rf.uuid4()), rf.state.get("by")]
        return [*first, await two(*first)]

    fork = Shell(flow).begin().complete("one", 1).complete("two", 2).forked("one", by="ada").complete("one", 1)
    again = fork.complete("two", 2).forked("two")
    assert again.run_of("two").call.args == tuple(fork.result[:3])
    assert fork.result[2] == "ada"
    sweep(again.finish())


def test_runs_of_a_fork_draw_other_numbers_than_those_of_its_source() -> None:
    async def flow(run: int = 1) -> Any:
        if run == 1:
            await one(run)
            rf.continue_as_new(run + 1)
        return str(rf.uuid4())

    source = Shell(flow).begin()
    fork = source.complete("one", 1).forked("one").complete("one", 1)
    assert source.run_on().result != fork.run_on().result
