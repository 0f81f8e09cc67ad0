"""A pause: nothing new begins, what runs may end, and everything is applied in its order on resume."""

from __future__ import annotations

import asyncio

import rayflow as rf
from rayflow.core.events import (
    DeadlinePassed,
    Paused,
    Resumed,
    Started,
)
from rayflow.ids import ExecutionStatus
from tests.core.execution.flows import PLAIN, at_once, in_turn, one, two, undo
from tests.core.fake import NO_RETRY, Shell


def test_a_pause_withdraws_what_was_not_sent_and_starts_nothing() -> None:
    shell = Shell(at_once).begin().send("two").pause()
    assert shell.execution.take().status is ExecutionStatus.PAUSED
    assert shell.execution.take().reason is not None
    assert shell.stopped == [(1, 1), (3, 1)]
    assert list(shell.running) == [2]
    assert not shell.execution.idle
    assert shell.pause().events == [Started(1000.0), Paused(1000.0, "lunch")]
    shell.resume()
    assert shell.started == [("one", 1), ("two", 1), ("one", 1), ("one", 2), ("one", 2)]
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
