"""Attempts, their retries and their timeouts: what a step's failure leads to, and when."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from rayflow.core.events import AttemptFailed, StepFailed
from rayflow.core.execution.retry import MAX_LOST_ATTEMPTS, SUSPICIONS_BEFORE_ISOLATION
from rayflow.definition.options import ExecutionOptions, RetryPolicy
from rayflow.errors import Failure, StepTimeout, TerminalError
from rayflow.errors import StepFailed as StepFailedError
from tests.core.fake import NO_RETRY, Shell, failure, run, stub

one = stub("one")
two = stub("two")


async def flow() -> Any:
    return await one()


def retrying(retries: int = 3, **changes: Any) -> ExecutionOptions:
    return ExecutionOptions(retry=RetryPolicy(max_retries=retries, **{"initial_delay": 1, "jitter": 0, **changes}))


def waits(shell: Shell) -> list[float]:
    """Seconds from each failed attempt to the next."""
    return [event.retry_at - event.at for event in shell.events if isinstance(event, AttemptFailed)]


def calls(shell: Shell) -> int:
    return len(shell.started)


def failing(times: int) -> Any:
    """An answer: so many failures, then success."""
    left = [failure(f"failure {number}") for number in range(times, 0, -1)]
    return lambda attempt: left.pop() if left else "done"


# --- retries ---------------------------------------------------------------------------------------------------
def test_success_at_the_first_try_is_one_call() -> None:
    ended = run(flow, failing(0), options=retrying())
    assert (calls(ended), ended.result) == (1, "done")


def test_two_failures_and_success_are_three_calls() -> None:
    ended = run(flow, failing(2), options=retrying())
    assert (calls(ended), ended.result, waits(ended)) == (3, "done", [1.0, 2.0])
    assert [event.failure.message for event in ended.events if isinstance(event, AttemptFailed)] == [
        "failure 1",
        "failure 2",
    ]


def test_after_the_last_retry_the_step_fails_and_the_cause_can_be_reached() -> None:
    seen: list[StepFailedError] = []

    async def watching() -> None:
        try:
            await one()
        except StepFailedError as error:
            seen.append(error)
            raise

    ended = run(watching, failing(9), options=retrying(2))
    assert calls(ended) == 3
    assert str(seen[0]) == "step 'one' failed after 3 attempts: ValueError: failure 3"
    assert (seen[0].attempts, seen[0].seq, seen[0].failure.matches(ValueError)) == (3, 1, True)
    assert ended.failure.step == 1
    (failed,) = [event for event in ended.events if isinstance(event, StepFailed)]
    assert (failed.step, failed.attempt, failed.failure.message, failed.issued) == (1, 3, "failure 3", 1)
    assert ended.counts["steps_failed"] == 1
    assert ended.counts["attempts_failed"] == 3


def test_cancelled_while_it_waits_for_a_retry_it_does_not_hang() -> None:
    shell = Shell(flow, options=retrying(initial_delay=1000, max_delay=1000)).begin().fail("one").cancel()
    assert shell.execution.outcome is not None
    assert shell.execution.next_wake() is None
    assert calls(shell) == 1


def test_without_retries_there_is_one_call() -> None:
    ended = run(flow, failing(9), options=retrying(0))
    assert (calls(ended), waits(ended)) == (1, [])
    assert ended.failure.message == "step 'one' failed after 1 attempt: ValueError: failure 1"


def test_a_large_multiplier_is_clamped_by_max_delay() -> None:
    ended = run(flow, failing(3), options=retrying(3, multiplier=100, max_delay=5))
    assert (calls(ended), waits(ended)) == (4, [1.0, 5.0, 5.0])


def test_the_steps_own_policy_goes_first() -> None:
    own = stub("own", retry=RetryPolicy(max_retries=1, initial_delay=7, jitter=0))

    async def both() -> None:
        await own()

    ended = run(both, failing(9), options=retrying(5))
    assert (calls(ended), waits(ended)) == (2, [7.0])


def test_jitter_is_seeded_by_the_execution_the_step_and_the_attempt() -> None:
    def waits_of() -> list[float]:
        async def both() -> None:
            await asyncio.gather(one(), two(), return_exceptions=True)

        return waits(run(both, lambda attempt: failure(), options=retrying(3, jitter=0.5)))

    first = waits_of()
    assert first == waits_of()
    assert len({wait / base for wait, base in zip(first, (1, 1, 2, 2, 4, 4), strict=True)}) == 6
    assert all(0.5 * base <= wait <= 1.5 * base for wait, base in zip(first, (1, 1, 2, 2, 4, 4), strict=True))


def test_terminal_errors_are_not_retried() -> None:
    terminal = failure("no use", cls=TerminalError, retryable=False)
    ended = run(flow, lambda attempt: terminal, options=retrying())
    assert calls(ended) == 1
    assert ended.failure.message.endswith("TerminalError: no use")


@pytest.mark.parametrize(
    ("policy", "kind", "expected"),
    [
        ({"retry_on": (ValueError,)}, ValueError, 3),
        ({"retry_on": (ValueError,)}, UnicodeError, 3),
        ({"retry_on": (ValueError,)}, KeyError, 1),
        ({"give_up_on": (LookupError,)}, KeyError, 1),
        ({"give_up_on": (LookupError,)}, ValueError, 3),
        ({"retry_on": (LookupError,), "give_up_on": (KeyError,)}, KeyError, 1),
        ({"retry_on": (LookupError,), "give_up_on": (KeyError,)}, IndexError, 3),
    ],
)
def test_which_failures_are_retried(policy: dict[str, Any], kind: type[Exception], expected: int) -> None:
    how = failure(cls=kind)
    assert calls(run(flow, lambda attempt: how, options=retrying(2, **policy))) == expected


# --- lost attempts ---------------------------------------------------------------------------------------------
def test_attempts_lost_in_company_cost_no_retries_and_raise_suspicion() -> None:
    shell = Shell(flow, options=NO_RETRY).begin()
    exclusive = [shell.run_of("one").exclusive]
    for _ in range(SUSPICIONS_BEFORE_ISOLATION):
        shell.lose("one")
        exclusive.append(shell.run_of("one").exclusive)
    assert exclusive == [False] * SUSPICIONS_BEFORE_ISOLATION + [True]
    assert waits(shell) == [0.0] * SUSPICIONS_BEFORE_ISOLATION
    assert [event.counts for event in shell.events if isinstance(event, AttemptFailed)] == [False, False]
    assert shell.complete("one", "done").result == "done"
    assert shell.counts["attempts_lost"] == 2
    assert "attempts_failed" not in shell.counts


def test_a_death_alone_is_the_tasks_own_failure() -> None:
    shell = Shell(flow, options=retrying(1)).begin().lose("one").lose("one").lose("one", exclusive=True)
    assert waits(shell) == [0.0, 0.0, 1.0]
    shell.wake()
    assert shell.run_of("one").exclusive
    shell.lose("one", exclusive=True)
    assert shell.failure.message == "step 'one' failed after 4 attempts: rayflow.errors.WorkerDied: died"


def test_losses_have_a_limit_of_their_own() -> None:
    shell = Shell(flow, options=retrying()).begin()
    for _ in range(MAX_LOST_ATTEMPTS):
        shell.lose("one")
    assert shell.execution.outcome is None
    shell.lose("one")
    assert shell.failure.step == 1
    assert shell.counts["attempts_lost"] == MAX_LOST_ATTEMPTS + 1


def test_suspicion_survives_the_coordinator() -> None:
    shell = Shell(flow, options=retrying(1)).begin().lose("one").lose("one").restored()
    attempt = shell.run_of("one")
    assert (attempt.exclusive, attempt.attempt) == (True, 3)


def test_failures_survive_the_coordinator() -> None:
    shell = Shell(flow, options=retrying(1)).begin().fail("one").wake().restored()
    assert shell.run_of("one").attempt == 2
    assert shell.fail("one").failure.step == 1


def test_an_attempt_that_did_not_begin_costs_nothing() -> None:
    shell = Shell(flow, options=NO_RETRY).begin().send("one")
    shell.execution.not_begun(1, 1)
    shell.collect()
    assert shell.started == [("one", 1), ("one", 1)]
    assert len(shell.journal) == 1
    assert shell.complete("one", "done").result == "done"


# --- timeouts --------------------------------------------------------------------------------------------------
def test_a_timeout_begins_when_the_attempt_is_sent() -> None:
    shell = Shell(flow, options=NO_RETRY.replace(step_timeout=30)).begin()
    assert shell.run_of("one").timeout == 30
    assert shell.execution.next_wake() is None
    shell.pass_time(500).send("one")
    assert shell.execution.next_wake() == 1530.0
    shell.pass_time(29.5)
    assert shell.stopped == []
    shell.wake()
    assert shell.stopped == [(1, 1)]
    assert shell.failure.matches(StepTimeout)
    assert shell.failure.message == (
        "step 'one' failed after 1 attempt: rayflow.errors.StepTimeout: attempt 1 of step 'one' took longer than its "
        "timeout of 30 s (the execution's step_timeout; set another with @rf.step(timeout=…), float('inf') for none)"
    )


def test_a_timeout_of_the_steps_own_needs_no_advice() -> None:
    own = stub("own", timeout=2.5)

    async def timed() -> None:
        await own()

    shell = Shell(timed).begin().send("own").wake()
    assert shell.now == 1002.5
    assert shell.failure.message.endswith("attempt 1 of step 'own' took longer than its timeout of 2.5 s")


def test_no_timeout() -> None:
    endless = stub("endless", timeout=float("inf"))

    async def timed() -> None:
        await asyncio.gather(endless(), one())

    shell = Shell(timed, options=NO_RETRY.replace(step_timeout=None)).begin().send("endless").send("one")
    assert [attempt.timeout for attempt in shell.running.values()] == [None, None]
    assert shell.execution.next_wake() is None


def test_a_timeout_counts_as_a_failed_attempt_and_late_answers_do_not() -> None:
    options = retrying(1, initial_delay=10).replace(step_timeout=30)
    shell = Shell(flow, options=options).begin().send("one").wake()
    event = shell.events[-1]
    assert isinstance(event, AttemptFailed)
    assert (event.counts, event.began, event.retry_at) == (True, 1000.0, 1040.0)
    assert shell.counts["attempt_microseconds"] == 30_000_000
    assert not shell.execution.completed(1, 1, b"", began=1000.0, worker="w", now=1031.0)
    shell.wake().send("one")
    assert shell.complete("one", "done").result == "done"
    assert shell.execution.next_wake() is None


def test_the_watch_of_an_attempt_that_was_given_back_is_off() -> None:
    shell = Shell(flow, options=NO_RETRY.replace(step_timeout=30)).begin().send("one")
    shell.execution.not_begun(1, 1)
    shell.collect().pass_time(20)
    assert shell.execution.next_wake() is None
    shell.send("one")
    assert shell.execution.next_wake() == 1050.0
    shell.pass_time(15)
    assert shell.stopped == []


def test_an_attempt_that_was_given_back_and_sent_again_has_its_full_time() -> None:
    shell = Shell(flow, options=NO_RETRY.replace(step_timeout=30)).begin().send("one")
    shell.execution.not_begun(1, 1)
    shell.collect()
    shell.now += 20
    assert shell.send("one").execution.next_wake() == 1050.0


def test_the_earliest_of_several_timeouts_comes_first() -> None:
    quick = stub("quick", timeout=5)

    async def timed() -> None:
        await asyncio.gather(one(), quick(), return_exceptions=True)

    shell = Shell(timed, options=NO_RETRY.replace(step_timeout=30)).begin().send("one").send("quick")
    shell.wake()
    assert (shell.now, shell.stopped) == (1005.0, [(2, 1)])
    shell.wake()
    assert (shell.now, shell.stopped) == (1030.0, [(2, 1), (1, 1)])


def test_a_failure_keeps_its_data() -> None:
    how = Failure("x.Y", "message", "traceback", mro=("x.Y", "Exception"))
    shell = run(flow, lambda attempt: how)
    (failed,) = [event for event in shell.events if isinstance(event, StepFailed)]
    assert (failed.failure, failed.worker, failed.began) == (how, "w1", 1000.0)
