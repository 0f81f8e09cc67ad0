"""Events, the inbox and checkpoints of one execution, without a cluster."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import rayflow as rf
from rayflow.core.events import (
    CancelRequested,
    Ended,
    Resumed,
    Started,
    StepCompleted,
    TimerFired,
)
from rayflow.definition.options import ExecutionOptions
from rayflow.ids import ExecutionStatus
from tests.core.execution.flows import PLAIN, in_turn, one, two, undo
from tests.core.fake import NO_RETRY, Shell, failure, run, stub
from tests.core.others import CODEC

here = stub("here", local=True)
there = stub("there", local=False)


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
    execution.lost(1, 2, failure(), exclusive=True, worker="w", now=1000.0)
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
    assert shell.deliver(CancelRequested(1.0)).execution.inbox_seen == 0  # it stays, for those who look
    assert shell.inbox_done == 0
    assert isinstance(shell.events[-1], Ended)


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
