"""What is asked of others once more, after a rewind or in a fork, and which answers count."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import rayflow as rf
from rayflow.core.events import (
    CancelRequested,
    Continued,
    Ended,
    RequestCompleted,
    RequestsReissued,
    StepCompleted,
    label,
)
from rayflow.core.execution.forks import plan_fork
from tests.core.fake import Shell, stub
from tests.core.others import CODEC

one, two = stub("one"), stub("two")


@rf.workflow
async def page(number: int) -> int:
    """A child."""
    return number


def reissued_requests(shell: Shell) -> list[int]:
    return [step for event in shell.events if isinstance(event, RequestsReissued) for step in event.steps]


# --- what is asked ----------------------------------------------------------------------------------------------
async def together() -> Any:
    ended = await asyncio.gather(one(), page(1), page(2), return_exceptions=True)
    for each in ended:
        if isinstance(each, BaseException):
            raise each
    return ended


def test_a_child_whose_result_is_carried_along_is_not_asked_again() -> None:
    shell = Shell(together).begin().fail("one").answer("page", 10).answer("page", 20)
    again = shell.rewound()
    assert (reissued_requests(again), again.others.log) == ([], [])
    assert again.complete("one", 0).result == [0, 10, 20]


async def in_a_row() -> Any:
    return [await page(1), await one(), await two()]


def test_nor_is_the_one_whose_end_led_to_the_call_before_which_a_fork_begins() -> None:
    shell = Shell(in_a_row).begin().answer("page", 10).complete("one").complete("two")
    plan = plan_fork("e", shell.journal, "one")
    assert ([type(event) for event in plan.carried], plan.open) == ([RequestCompleted], ())
    fork = shell.forked("one")
    assert (reissued_requests(fork), fork.others.log) == ([], [])
    assert fork.finish().result == [10, None, None]


async def in_lock() -> Any:
    async with rf.lock("l") as lock:
        return [await one(), lock.token]


def test_a_lock_that_led_to_that_call_is_claimed_in_the_forks_own_name() -> None:
    shell = Shell(in_lock).begin().answer("l", 1).complete("one")
    plan = plan_fork("e", shell.journal, "one")
    assert (plan.carried, plan.open) == ((), ("lock 'l'",))
    fork = shell.forked("one")
    assert (reissued_requests(fork), list(fork.running)) == ([1], [])
    assert fork.answer("l", 7).complete("one", "done").result == ["done", 7]


async def at_the_bench() -> Any:
    async def at_work(number: int) -> Any:
        async with rf.semaphore("bench", 2):
            return await one(number)

    return await asyncio.gather(*(at_work(number) for number in range(3)))


def test_permits_that_tasks_had_are_claimed_before_those_that_others_wait_for() -> None:
    shell = Shell(at_the_bench).begin().answer("bench", 1).answer("bench", 2).fail("one")
    again = shell.rewound()
    assert again.others.log == ["lock bench 1", "lock bench 2", "lock bench 3"]
    again.answer("bench", 3)
    assert not again.running  # one of the two has no permit yet
    again.answer("bench", 4)
    assert [run.call.args for run in again.running.values()] == [(0,), (1,)]


# --- which answers count ----------------------------------------------------------------------------------------
async def looping(number: int = 0) -> Any:
    value = None
    if number == 0:
        asyncio.get_running_loop().create_task(page(0))
        await asyncio.sleep(5)
        rf.continue_as_new(1)
    value = await page(1)
    return [value, await one()]


def test_an_answer_to_an_earlier_run_is_passed_over() -> None:
    """It has another call of that number."""
    run = Shell(looping).begin().wake().run_on()
    assert isinstance(run.events[0], Continued)
    late = RequestCompleted(run.now, 1, label("child", "page"), result=CODEC.encode("of run 1"), run=1)
    before = len(run.journal)
    run.deliver(late)
    assert (len(run.journal), list(run.running)) == (before, [])
    run.deliver(RequestCompleted(run.now, 1, label("child", "page"), result=CODEC.encode("of run 2"), run=2))
    assert run.complete("one").result == ["of run 2", None]


async def with_clean_up() -> Any:
    try:
        await one()
    except rf.StepFailed:
        await page(1)
        raise
    return [await page(2), await two()]


def test_an_answer_to_a_call_that_a_rewind_has_superseded_is_passed_over() -> None:
    """Another call has its number now; the old one's child ends late."""
    shell = Shell(with_clean_up).begin().fail("one").answer("page", 1)
    again = shell.rewound().complete("one")
    assert [(ask.seq, ask.rewinds, ask.payload) for ask in again.others.open.values()] == [
        (2, 1, CODEC.encode(((2,), {})))
    ]
    before = len(again.journal)
    again.deliver(RequestCompleted(again.now, 2, label("child", "page"), result=CODEC.encode("old"), run=1, rewinds=0))
    assert (len(again.journal), again.inbox_done) == (before, len(again.rows))
    again.deliver(RequestCompleted(again.now, 2, label("child", "page"), result=CODEC.encode("new"), run=1, rewinds=1))
    restored = again.restored()
    assert restored.complete("two").result == ["new", None]


async def waiting_for_both() -> Any:
    return await asyncio.gather(one(), page(1))


def test_a_child_that_is_asked_for_again_is_the_child_of_before() -> None:
    again = Shell(waiting_for_both).begin().fail("one").rewound()
    assert reissued_requests(again) == [2]
    assert again.others.open[2].rewinds == 0
    unasked = again.fail("one").others.log[-1]
    assert unasked == "not child page 2"


def test_a_permit_is_asked_for_again_with_the_token_that_it_had() -> None:
    again = Shell(in_lock_and_fails).begin().answer("l", 4).fail("one").rewound()
    assert again.others.open[1].token == 4
    assert again.answer("l", 4).complete("one", "done").result == ["done", 4]


def test_but_not_with_that_of_the_execution_that_it_was_forked_from() -> None:
    fork = Shell(in_lock_and_fails).begin().answer("l", 4).complete("one").complete("two").forked("two")
    assert fork.others.open[1].token == 0
    again = fork.answer("l", 7).fail("two").rewound()
    assert again.others.open[1].token == 7


async def in_lock_and_fails() -> Any:
    async with rf.lock("l") as lock:
        done = await one()
        if done is None:
            await two()
        return [done, lock.token]


async def reluctant() -> Any:
    try:
        await one()
    finally:
        await two()


@pytest.mark.parametrize(
    ("by", "given_up"), [(["p", "p"], True), (["p", ""], False), (["", "p"], False)], ids=["parent", "then me", "me"]
)
def test_the_end_says_whether_it_was_only_given_up(by: list[str], *, given_up: bool) -> None:
    shell = Shell(reluctant).begin()
    for who in by:
        shell.deliver(CancelRequested(shell.now, "no", who))
        shell = shell.restored()
    assert isinstance(shell.events[-1], Ended)
    assert shell.events[-1].cancelled_by_parent is given_up


def test_a_lock_that_was_refused_is_not_given_back() -> None:
    async def refused() -> Any:
        try:
            async with rf.lock("l"):
                raise AssertionError("it is never granted")
        except rf.StepFailed:
            return await one()

    shell = Shell(refused).begin()
    shell.answer("l", failure=rf.Failure("rayflow.errors.LockPermitsMismatch", "no"))
    assert shell.complete("one").result is None
    assert shell.others.log == ["lock l 1"]


# --- signals ----------------------------------------------------------------------------------------------------
def test_signals_that_a_fork_has_taken_over_come_before_its_own() -> None:
    async def waiting() -> Any:
        await one()
        await two()
        rf.continue_as_new()

    shell = Shell(waiting).begin().signal("a", 1).signal("b", 2).complete("one").complete("two")
    fork = shell.forked("two").signal("a", 3).complete("two")
    event = fork.events[-1]
    assert isinstance(event, Continued)
    assert [CODEC.decode(signal.payload) for signal in event.signals] == [1, 2, 3]
    assert any(isinstance(event, StepCompleted) for event in fork.events)
