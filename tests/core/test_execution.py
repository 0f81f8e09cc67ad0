"""Statuses, pausing, the inbox and what comes of attempts, without a cluster."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import pytest

from rayflow.core.events import (
    CancelRequested,
    DeadlinePassed,
    Ended,
    Entry,
    Paused,
    Resumed,
    Started,
    StepCompleted,
    TimerFired,
)
from rayflow.definition import api as rf
from rayflow.definition.options import ExecutionOptions, RetryPolicy
from rayflow.errors import NonDeterminismError
from rayflow.ids import ExecutionStatus
from tests.core.fake import CODEC, NO_RETRY, Flow, Shell, failure, run, stub

one = stub("one")
two = stub("two")
undo = stub("undo")
here = stub("here", local=True)
there = stub("there", local=False)

PLAIN = ExecutionOptions(retry=RetryPolicy(max_retries=2, initial_delay=10, jitter=0))


async def in_turn() -> list[Any]:
    first = await one(1)
    return [first, await two(2)]


async def at_once() -> list[Any]:
    return list(await asyncio.gather(one(1), two(2), one(3)))


# --- the ordinary way ------------------------------------------------------------------------------------------
def test_from_start_to_end() -> None:
    shell = Shell(in_turn).begin()
    assert shell.execution.next_wake() is None
    assert not shell.execution.idle
    assert (shell.execution.issued, shell.execution.unanswered) == (1, 1)
    assert shell.execution.take().status is ExecutionStatus.RUNNING
    shell.complete("one", "a").complete("two", "b")
    assert shell.result == ["a", "b"]
    assert shell.execution.idle
    assert (shell.execution.issued, shell.execution.unanswered) == (2, 0)
    assert shell.events == [
        Started(1000.0),
        StepCompleted(1000.0, 1, "one", 1, CODEC.encode("a"), 1000.0, "w1"),
        StepCompleted(1000.0, 2, "two", 1, CODEC.encode("b"), 1000.0, "w1"),
        Ended(1000.0, ExecutionStatus.COMPLETED, CODEC.encode(["a", "b"])),
    ]
    assert [entry.seq for entry in shell.journal] == [1, 2, 3, 4]
    assert [entry.issued for entry in shell.journal] == [("one",), ("two",), (), ()]
    assert shell.execution.take().status is ExecutionStatus.COMPLETED
    assert shell.counts == {
        "attempts_started": 2,
        "steps_completed": 2,
        "attempts_timed": 2,
        "attempt_microseconds": 0,
    }


def test_work_is_empty_when_there_is_nothing_to_do() -> None:
    shell = Shell(in_turn)
    assert not shell.execution.take()
    shell.execution.begin(1.0)
    work = shell.execution.take()
    assert work
    assert work.outcome is None
    assert not shell.execution.take()


def test_where_steps_run() -> None:
    async def flow() -> None:
        await asyncio.gather(one(), here(), there())

    def places(options: ExecutionOptions) -> list[bool]:
        return [attempt.local for attempt in Shell(flow, options=options).begin().running.values()]

    assert places(NO_RETRY) == [False, True, False]
    assert places(NO_RETRY.replace(distributed=False)) == [True, True, False]


def test_attempts_are_timed() -> None:
    shell = Shell(in_turn).begin()
    attempt = shell.run_of("one")
    shell.execution.completed(1, attempt.attempt, CODEC.encode(1), began=998.5, worker="w", now=1000.0)
    assert shell.collect().counts["attempt_microseconds"] == 1_500_000


def test_time_never_goes_back() -> None:
    async def flow() -> list[float]:
        await one()
        return [rf.now()]

    shell = Shell(flow).begin()
    shell.now = 900.0
    assert shell.complete("one").result == [1000.0]
    assert [event.at for event in shell.events] == [1000.0] * 3


def test_time_does_not_go_back_either_where_another_clock_takes_it_up() -> None:
    shell = Shell(in_turn).begin().complete("one")
    shell.now = 900.0
    again = shell.restored().complete("two")
    assert [event.at for event in again.events] == [1000.0] * 4


def test_what_is_due_happens_earliest_first_and_each_on_its_own() -> None:
    async def flow() -> list[float]:
        seen = []

        async def sleep(seconds: float) -> None:
            await asyncio.sleep(seconds)
            seen.append(rf.now())
            await one(seconds)

        await asyncio.gather(sleep(3), sleep(1), sleep(2))
        return seen

    shell = Shell(flow).begin().pass_time(10)
    assert [event.timer for event in shell.events if isinstance(event, TimerFired)] == [2, 3, 1]
    assert [attempt.call.args[0] for attempt in shell.running.values()] == [1, 2, 3]
    assert shell.finish().result == [1010.0] * 3


def test_late_results_are_counted_and_dropped() -> None:
    shell = Shell(in_turn).begin()
    entries = len(shell.journal)
    execution, result = shell.execution, CODEC.encode(1)
    assert not execution.completed(1, 2, result, began=0, worker="w", now=1000.0)
    assert not execution.completed(9, 1, result, began=0, worker="w", now=1000.0)
    assert not execution.failed(1, 0, failure(), began=0, worker="w", now=1000.0)
    execution.lost(1, 2, failure(), alone=True, worker="w", now=1000.0)
    execution.not_begun(1, 2)
    execution.sent(1, 2, 1000.0)
    shell.collect()
    assert shell.counts["late_results"] == 3
    assert len(shell.journal) == entries
    shell.complete("one").complete("two")
    assert not execution.completed(2, 1, result, began=0, worker="w", now=1000.0)


def test_a_step_that_was_given_up_is_stopped_and_its_answer_is_late() -> None:
    async def flow() -> str:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(one(), 5)
        return str(await two())

    shell = Shell(flow).begin().wake()
    assert shell.stopped == [(1, 1)]
    assert not shell.execution.completed(1, 1, b"", began=0, worker="w", now=1005.0)
    assert shell.complete("two", "b").result == "b"


def test_the_end_stops_what_still_runs() -> None:
    async def flow() -> None:
        await asyncio.gather(one(), two())

    shell = Shell(flow).begin().fail("one")
    assert shell.failure.step == 1
    assert shell.stopped == [(2, 1)]
    assert shell.journal[1].dropped == (2,)
    shell.pass_time(1000)
    assert shell.deliver(CancelRequested(1.0)).execution.inbox_seen == 1
    assert isinstance(shell.events[-1], Ended)


# --- pause -----------------------------------------------------------------------------------------------------
def test_a_pause_withdraws_what_was_not_sent_and_starts_nothing() -> None:
    shell = Shell(at_once).begin().send("two").pause()
    assert shell.execution.take().status is ExecutionStatus.PAUSED
    assert shell.execution.take().reason is not None
    assert shell.stopped == [(1, 1), (3, 1)]
    assert list(shell.running) == [2]
    assert not shell.execution.idle
    assert shell.pause().events == [Started(1000.0), Paused(1000.0, "lunch")]
    shell.resume()
    assert shell.started == [("one", 1), ("two", 1), ("one", 1), ("one", 1), ("one", 1)]
    assert shell.execution.take().reason is None
    assert shell.resume().finish(lambda attempt: attempt.seq).result == [1, 2, 3]


def test_what_ends_during_a_pause_is_held_and_applied_in_order_on_resume() -> None:
    shell = Shell(at_once, options=PLAIN).begin().send("one").send("two")
    shell.run_of("one")
    shell.execution.sent(3, 1, shell.now)
    shell.pause()
    shell.running = dict(reversed(shell.running.items()))
    shell.complete("one", "third")
    shell.fail("two")
    shell.complete("one", "first")
    assert [event.__class__.__name__ for event in shell.events] == ["Started", "Paused"]
    assert [row.__class__.__name__ for row in shell.rows] == [
        "Paused",
        "StepCompleted",
        "AttemptFailed",
        "StepCompleted",
    ]
    assert shell.inbox_done == 1
    assert shell.execution.idle
    shell.pass_time(60).resume()
    assert shell.inbox_done == 5
    assert [getattr(event, "step", None) for event in shell.events] == [None, None, None, 3, 2, 1]
    assert [event.at for event in shell.events[2:]] == [1060.0] * 4
    assert shell.running == {}
    shell.wake()
    assert (shell.now, shell.started[-1]) == (1070.0, ("two", 2))
    assert shell.complete("two", "second").result == ["first", "second", "third"]


def test_timers_and_retries_wait_for_the_end_of_a_pause() -> None:
    async def flow() -> float:
        await asyncio.gather(one(), asyncio.sleep(5))
        return rf.now()

    shell = Shell(flow, options=PLAIN).begin().send("one").fail("one").pause()
    assert shell.execution.next_wake() is None
    shell.pass_time(100)
    assert isinstance(shell.events[-1], Paused)
    shell.resume().pass_time(0)
    assert [attempt.attempt for attempt in shell.running.values()] == [2]
    assert shell.complete("one").result == 1100.0


def test_an_attempt_that_never_began_waits_for_the_end_of_a_pause() -> None:
    shell = Shell(in_turn).begin().send("one").pause()
    shell.running.clear()
    shell.execution.not_begun(1, 1)
    assert shell.collect().running == {}
    assert list(shell.resume().running) == [1]


def test_a_timeout_during_a_pause_counts_and_is_held() -> None:
    shell = Shell(in_turn, options=PLAIN.replace(step_timeout=30)).begin().send("one").pause().wake()
    assert (shell.now, shell.stopped) == (1030.0, [(1, 1)])
    assert isinstance(shell.events[-1], Paused)
    shell.resume().wake()
    assert shell.started[-1] == ("one", 2)


def test_cancel_passes_a_pause() -> None:
    async def flow() -> None:
        try:
            await asyncio.gather(one(), two())
        finally:
            await undo()

    shell = Shell(flow).begin().send("one").pause().complete("one", 1).cancel()
    assert [event.__class__.__name__ for event in shell.events[1:]] == [
        "Paused",
        "Resumed",
        "StepCompleted",
        "CancelRequested",
    ]
    assert [attempt.call.name for attempt in shell.running.values()] == ["undo"]
    assert ("two", 1) not in shell.started[2:], "what is given up is not started first"
    assert shell.complete("undo").execution.take().status is ExecutionStatus.CANCELLED


def test_a_result_held_during_a_pause_that_ends_the_workflow_goes_before_a_cancellation() -> None:
    shell = Shell(in_turn).begin().complete("one", 1).send("two").pause().complete("two", 2).cancel()
    assert shell.result == [1, 2]
    assert [event.__class__.__name__ for event in shell.events[-2:]] == ["StepCompleted", "Ended"]


def test_a_deadline_passes_a_pause() -> None:
    shell = Shell(in_turn, options=NO_RETRY.replace(deadline=1060.0), deadline=1060.0).begin().pause()
    assert shell.execution.next_wake() == 1060.0
    shell.wake()
    assert shell.events[2:4] == [Resumed(1060.0), DeadlinePassed(1060.0, "deadline")]
    assert shell.failure.message == "the execution's deadline is up"


def test_a_deadline_while_it_waits_for_a_retry() -> None:
    shell = Shell(in_turn, options=PLAIN, deadline=1005.0).begin().fail("one").wake()
    assert (shell.now, shell.failure.matches(TimeoutError)) == (1005.0, True)
    assert shell.execution.next_wake() is None


def test_pausing_for_a_problem_says_which() -> None:
    shell = Shell(in_turn).begin()
    problem = failure("the module is gone")
    shell.execution.pause_for(problem, 1001.0)
    work = shell.execution.take()
    assert (work.status, work.reason) == (ExecutionStatus.PAUSED, problem)
    assert work.entries[0].event == Paused(1001.0, "ValueError: the module is gone")
    other = failure("still gone")
    shell.execution.pause_for(other, 1002.0)
    work = shell.execution.take()
    assert (work.entries, work.reason) == ([], other)


# --- the inbox -------------------------------------------------------------------------------------------------
def test_rows_that_are_known_are_passed_over() -> None:
    shell = Shell(in_turn).begin().pause()
    shell.execution.inbox(1, Resumed(1000.0), 1000.0)
    assert shell.execution.paused
    assert shell.execution.inbox_seen == 1


def test_results_for_steps_that_nobody_waits_for_are_late() -> None:
    shell = Shell(in_turn).begin().deliver(StepCompleted(1000.0, 7, "gone", 1, b""))
    assert shell.counts["late_results"] == 1
    assert len(shell.journal) == 1


# --- checkpoints -----------------------------------------------------------------------------------------------
def test_without_checkpoints_only_start_and_end_are_recorded() -> None:
    async def flow() -> list[Any]:
        answers = list(await asyncio.gather(one(1), two(2)))
        await asyncio.sleep(5)
        return answers

    off = PLAIN.replace(checkpoints="off")
    shell = Shell(flow, options=off).begin().complete("one", 1).fail("two")
    assert [event.__class__.__name__ for event in shell.events] == ["Started"]
    again = shell.restored()
    assert sorted(again.started) == [("one", 1), ("two", 1)]
    ended = again.pause().resume().finish(lambda attempt: attempt.seq)
    assert ended.result == [1, 2]
    assert [event.__class__.__name__ for event in ended.events] == ["Started", "Paused", "Resumed", "Ended"]
    assert [entry.seq for entry in ended.journal] == [1, 2, 3, 4]


def test_without_checkpoints_a_cancellation_stays_in_the_inbox_until_the_end() -> None:
    async def flow() -> None:
        try:
            await one()
        finally:
            await undo()

    shell = Shell(flow, options=NO_RETRY.replace(checkpoints="off")).begin().cancel().pause()
    assert shell.inbox_done == 0
    again = shell.restored()
    assert again.execution.paused
    again.resume()
    assert [attempt.call.name for attempt in again.running.values()] == ["undo"]
    again.complete("undo")
    assert (again.execution.take().status, again.inbox_done) == (ExecutionStatus.CANCELLED, 3)


def test_async_checkpoints_record_everything() -> None:
    assert run(in_turn, options=NO_RETRY.replace(checkpoints="async")).journal == run(in_turn).journal


# --- restoring -------------------------------------------------------------------------------------------------
def test_a_restored_execution_goes_on_where_it_was() -> None:
    shell = Shell(in_turn).begin().complete("one", "a").restored()
    assert shell.started == [("two", 1)]
    assert shell.complete("two", "b").result == ["a", "b"]


def test_retries_that_wait_still_wait_when_restored() -> None:
    shell = Shell(in_turn, options=PLAIN).begin().fail("one")
    soon = shell.restored()
    assert (soon.running, soon.execution.next_wake()) == ({}, 1010.0)
    soon.pass_time(10)
    assert soon.started == [("one", 2)]
    shell.now = 1010.0
    late = shell.restored()
    assert late.started == [("one", 2)]
    late.fail("one").wake()
    assert (late.now, late.started[-1]) == (1030.0, ("one", 3))
    assert late.fail("one").failure.step == 1


def test_restored_while_paused() -> None:
    shell = Shell(at_once).begin().send("two").pause().complete("two", 2)
    again = shell.restored()
    assert again.execution.paused
    assert again.execution.take().reason is not None
    assert again.running == {}
    again.resume()
    assert again.started == [("one", 1), ("one", 1)]
    assert again.restored().finish(lambda attempt: attempt.seq).result == [1, 2, 3]


def test_restored_with_rows_that_were_not_applied() -> None:
    shell = Shell(in_turn).begin()
    shell.rows += [Paused(1000.0), Resumed(1000.0), CancelRequested(1000.0, "late")]
    again = shell.restored()
    assert again.execution.take().status is ExecutionStatus.CANCELLED
    assert again.execution.inbox_seen == 3
    assert (again.running, again.stopped) == ({}, [(1, 1)])


def test_restored_between_its_last_event_and_its_end() -> None:
    shell = Shell(in_turn).begin().complete("one").complete("two")
    again = shell.restored(entries=3)
    assert again.journal == shell.journal


def test_a_deadline_that_passed_does_not_pass_again() -> None:
    async def flow() -> None:
        try:
            await one()
        finally:
            await undo()

    shell = Shell(flow, deadline=1005.0).begin().wake()
    again = shell.restored()
    assert again.execution.next_wake() is None
    assert again.complete("undo").failure.matches(TimeoutError)


def test_a_deadline_that_passed_meanwhile_passes_at_once() -> None:
    shell = Shell(in_turn, deadline=1005.0).begin()
    shell.now = 2000.0
    assert shell.restored().failure.matches(TimeoutError)


def test_timers_that_were_due_meanwhile_fire_at_once() -> None:
    async def flow() -> float:
        await asyncio.sleep(60)
        return rf.now()

    shell = Shell(flow).begin()
    shell.now = 1059.0
    assert shell.restored().execution.next_wake() == 1060.0
    shell.now = 5000.0
    assert shell.restored().result == 5000.0


async def other() -> None:
    await two()


@pytest.mark.parametrize(
    ("flow", "message"),
    [
        (other, "expected step 'one' (number 1 of this entry), saw 'two'"),
        (at_once, "expected no further step, saw 'two'"),
    ],
)
def test_code_that_changed_performs_nothing(flow: Flow, message: str) -> None:
    shell = Shell(in_turn).begin().complete("one")
    changed = Shell(flow, journal=shell.journal)
    with pytest.raises(NonDeterminismError) as caught:
        changed.execution.restore(shell.journal, [], 1000.0)
    assert message in str(caught.value)
    assert not changed.execution.take()
    changed.execution.evict()
    assert shell.restored(in_turn).started == [("two", 1)]


def test_a_carried_result_for_another_step_is_found_too() -> None:
    shell = Shell(in_turn).begin()
    shell.rows.append(StepCompleted(1000.0, 1, "two", 1, b""))
    with pytest.raises(NonDeterminismError, match="expected step 1 'two', saw step 1 'one'"):
        shell.restored()


def test_the_journal_is_numbered_on() -> None:
    shell = Shell(in_turn).begin().pause().restored().resume()
    assert [entry.seq for entry in shell.journal] == [1, 2, 3]
    assert isinstance(shell.journal[2], Entry)
