"""Delayed attempts, heartbeats, who is suspected of killing workers, and what is kept of a failed step."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from rayflow.core.events import AttemptFailed, StepFailed
from rayflow.core.execution.actions import LiveTask
from rayflow.core.execution.retry import SUSPICIONS_BEFORE_ISOLATION, WORKER_DIED, WORKER_STOPPED
from rayflow.definition.options import ExecutionOptions, RetryPolicy
from rayflow.errors import StepFailed as StepFailedError
from rayflow.errors import StepTimeout
from tests.core.fake import NO_RETRY, Shell, failure, stub
from tests.core.others import CODEC

one = stub("one")
two = stub("two")
later = stub("later", not_before=1060.0)
silent = stub("silent", heartbeat_timeout=10, timeout=100)
RETRY_ONCE = ExecutionOptions(retry=RetryPolicy(max_retries=1, initial_delay=5, jitter=0))


async def flow() -> Any:
    return await one("x", y=2)


# --- not before --------------------------------------------------------------------------------------------
async def delayed() -> Any:
    return await asyncio.gather(later(), one())


def test_a_step_does_not_begin_before_its_time() -> None:
    shell = Shell(delayed).begin()
    assert shell.started == [("one", 1)]
    shell.complete("one", 1).pass_time(59.9)
    assert shell.started == [("one", 1)]
    shell.pass_time(0.1)
    assert shell.started == [("one", 1), ("later", 1)]
    assert shell.complete("later", 2).result == [2, 1]


def test_its_time_is_the_same_for_another_coordinator() -> None:
    shell = Shell(delayed).begin().complete("one", 1).pass_time(30).restored()
    assert (shell.started, shell.execution.next_wake()) == ([], 1060.0)
    assert shell.wake().started == [("later", 1)]


def test_a_time_that_has_passed_delays_nothing() -> None:
    assert Shell(delayed, now=1060.0).begin().started == [("later", 1), ("one", 1)]


def test_a_step_that_nobody_waits_for_any_more_never_begins() -> None:
    async def impatient() -> str:
        try:
            await asyncio.wait_for(later(), 5)
        except TimeoutError:
            return "gave up"
        return "done"

    shell = Shell(impatient).begin().wake()
    assert (shell.result, shell.started, shell.stopped) == ("gave up", [], [])


def test_a_pause_does_not_make_it_earlier() -> None:
    shell = Shell(delayed).begin().complete("one").pause().resume()
    assert shell.started == [("one", 1)]
    assert shell.execution.next_wake() == 1060.0


def test_a_retry_comes_after_both() -> None:
    retried = stub("retried", not_before=1060.0)

    async def body() -> Any:
        return await retried()

    shell = Shell(body, options=RETRY_ONCE).begin().wake().fail("retried").restored()
    assert shell.execution.next_wake() == 1065.0


# --- heartbeats --------------------------------------------------------------------------------------------
async def watched() -> Any:
    return await silent()


def test_an_attempt_that_falls_silent_has_failed() -> None:
    shell = Shell(watched, options=NO_RETRY).begin().send("silent").pass_time(8).beat("silent").pass_time(8)
    shell.beat("silent")
    assert shell.execution.next_wake() == 1026.0
    shell.wake()
    assert shell.stopped == [(1, 1)]
    assert shell.failure.matches(StepTimeout)
    assert shell.failure.message.endswith(
        "attempt 1 of step 'silent' sent no heartbeat for its heartbeat_timeout of 10 s"
    )


def test_heartbeats_do_not_lengthen_the_timeout() -> None:
    shell = Shell(watched, options=NO_RETRY).begin().send("silent")
    for _ in range(19):
        shell.pass_time(5).beat("silent")
    assert shell.execution.next_wake() == 1100.0
    assert shell.wake().failure.message.endswith("took longer than its timeout of 100 s")


def test_a_heartbeat_of_an_attempt_that_is_nobodys_counts_for_nothing() -> None:
    shell = Shell(watched, options=RETRY_ONCE).begin().send("silent").wake()
    assert not shell.execution.beat(1, 1, shell.now)
    shell.wake()
    assert not shell.execution.beat(1, 1, shell.now)
    assert shell.execution.beat(1, 2, shell.now)
    assert shell.execution.next_wake() is None  # the second attempt has not gone to a worker yet


def test_heartbeats_of_a_step_without_such_a_timeout_change_nothing() -> None:
    shell = Shell(flow, options=NO_RETRY.replace(step_timeout=30)).begin().send("one").pass_time(5).beat("one")
    assert shell.execution.next_wake() == 1030.0


def test_an_attempt_whose_code_is_done_is_not_timed_out_and_the_next_one_is() -> None:
    shell = Shell(watched, options=RETRY_ONCE).begin().send("silent").pass_time(5)
    shell.execution.ran(1, 1)
    assert shell.execution.next_wake() is None
    shell.pass_time(500).beat("silent")
    assert shell.execution.next_wake() is None, "nor does a late heartbeat bring the timeout back"
    shell.fail("silent").wake().send("silent")
    shell.execution.ran(1, 1)
    assert shell.execution.next_wake() == shell.now + 10.0, "that was said of the first attempt"


# --- who is suspected --------------------------------------------------------------------------------------
def test_workers_that_were_stopped_are_nobodys_doing() -> None:
    shell = Shell(flow, options=NO_RETRY).begin()
    for _ in range(2 * SUSPICIONS_BEFORE_ISOLATION):
        shell.lose("one", how=WORKER_STOPPED)
    assert not shell.run_of("one").exclusive
    shell.lose("one", how=WORKER_DIED).lose("one", how=WORKER_STOPPED).lose("one", how=WORKER_DIED)
    assert shell.run_of("one").exclusive
    assert shell.restored().run_of("one").exclusive
    assert [event.counts for event in shell.events if isinstance(event, AttemptFailed)] == [False] * 7


# --- dead letters ------------------------------------------------------------------------------------------
@pytest.mark.parametrize("checkpoints", ["sync", "off"])
def test_a_step_that_failed_for_good_is_kept_with_what_it_was_given(checkpoints: Any) -> None:
    shell = Shell(flow, options=RETRY_ONCE.replace(checkpoints=checkpoints)).begin().fail("one")
    assert shell.letters == []
    shell.wake().fail("one", failure("again"))
    [letter] = shell.letters
    assert (letter.step, letter.name, letter.attempts, letter.at, letter.worker) == (1, "one", 2, 1005.0, "w1")
    assert (letter.began, letter.failure.message) == (1005.0, "again")
    assert CODEC.decode(letter.payload) == [["x"], {"y": 2}]
    if checkpoints == "sync":
        assert isinstance(shell.journal[letter.seq - 1].event, StepFailed)


def test_a_failure_that_the_workflow_catches_is_kept_too() -> None:
    async def careful() -> str:
        try:
            return str(await one())
        except StepFailedError:
            return str(await two())

    shell = Shell(careful, options=NO_RETRY).begin().fail("one").complete("two", "instead")
    assert (shell.result, [letter.name for letter in shell.letters]) == ("instead", ["one"])


def test_a_step_that_was_given_up_is_not_kept() -> None:
    shell = Shell(flow, options=NO_RETRY).begin().send("one").cancel()
    assert (shell.letters, shell.stopped) == ([], [(1, 1)])


# --- what is under way -------------------------------------------------------------------------------------
def test_what_is_under_way_can_be_looked_at() -> None:
    shell = Shell(delayed, options=RETRY_ONCE).begin().send("one").pass_time(3)
    assert shell.execution.live() == [
        LiveTask(1, "later", 1, began=None, failures=0, losses=0),
        LiveTask(2, "one", 1, began=1000.0, failures=0, losses=0, due=1300.0),
    ]
    shell.fail("one")
    assert shell.execution.live()[1] == LiveTask(2, "one", 2, began=None, failures=1, losses=0)
