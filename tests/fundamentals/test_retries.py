"""A step that fails is tried again; one that failed for good is an exception that the workflow may catch."""

from __future__ import annotations

import pytest

import rayflow as rf
from tests.fundamentals.tools import Ledger, note

QUICK = rf.RetryPolicy(max_retries=2, initial_delay=0.01)


@rf.step(retry=QUICK)
async def shaky(ledger: str, succeeds_at: int) -> int:
    context = rf.step_context()
    await note(ledger, context.idempotency_key)
    if context.attempt < succeeds_at:
        raise ConnectionError(f"attempt {context.attempt}")
    return context.attempt


@rf.step
async def hopeless(ledger: str) -> None:
    await note(ledger, "hopeless")
    raise rf.TerminalError("no use")


@rf.workflow
async def insists(ledger: str, succeeds_at: int) -> int:
    return await shaky(ledger, succeeds_at)


@rf.workflow
async def copes(ledger: str) -> list[object]:
    try:
        await shaky(ledger, 99)
    except rf.StepFailed as error:
        return [error.step, error.attempts, error.seq, error.failure.matches(ConnectionError), await shaky(ledger, 1)]
    return []


@rf.workflow
async def gives_up(ledger: str) -> None:
    await hopeless(ledger)


@rf.step
async def counted(ledger: str) -> None:
    await note(ledger, "counted")
    raise ValueError("bad")


@rf.workflow
async def unpolicied(ledger: str) -> None:
    await counted(ledger)


@pytest.mark.parametrize("succeeds_at", [1, 3])
def test_it_is_called_until_it_succeeds(engine: rf.LocalEngine, ledger: Ledger, succeeds_at: int) -> None:
    assert engine.start(insists.options(id="one"), ledger.path, succeeds_at).result(20) == succeeds_at
    assert len(ledger.lines()) == succeeds_at
    [step] = engine.status("one").steps
    assert (step.status, step.attempts, step.result) == ("completed", succeeds_at, succeeds_at)


def test_the_idempotency_key_is_the_same_on_each_try(engine: rf.LocalEngine, ledger: Ledger) -> None:
    engine.start(insists, ledger.path, 3).result(20)
    engine.start(insists, ledger.path, 1).result(20)
    first, second, third, other = ledger.lines()
    assert first == second == third != other


def test_after_the_last_retry_the_execution_fails_and_names_the_cause(engine: rf.LocalEngine, ledger: Ledger) -> None:
    handle = engine.start(insists.options(id="one"), ledger.path, 99)
    with pytest.raises(rf.ExecutionFailed, match="'shaky' failed after 3 attempts: ConnectionError: attempt 3") as info:
        handle.result(timeout=20)
    assert info.value.failure.step == 1
    assert len(ledger.lines()) == 3
    snapshot = engine.status("one")
    assert snapshot.status is rf.ExecutionStatus.FAILED
    failure = snapshot.steps[0].error
    assert failure is not None
    assert failure.matches(ConnectionError)
    assert "attempt 3" in failure.traceback


def test_a_workflow_may_catch_the_failure_and_go_on(engine: rf.LocalEngine, ledger: Ledger) -> None:
    assert engine.start(copes.options(id="one"), ledger.path).result(20) == ["shaky", 3, 1, True, 1]
    assert [step.status for step in engine.status("one").steps] == ["failed", "completed"]


def test_a_terminal_error_is_not_retried(engine: rf.LocalEngine, ledger: Ledger) -> None:
    with pytest.raises(rf.ExecutionFailed, match="no use"):
        engine.start(gives_up, ledger.path).result(20)
    assert ledger.lines() == ["hopeless"]


@pytest.mark.parametrize(
    ("policy", "calls"),
    [
        (rf.RetryPolicy(max_retries=0), 1),
        (rf.RetryPolicy(max_retries=1, initial_delay=0.01), 2),
        (rf.RetryPolicy(max_retries=3, initial_delay=0.01, multiplier=100, max_delay=0.02), 4),
        (rf.RetryPolicy(max_retries=3, initial_delay=0.01, give_up_on=(ValueError,)), 1),
        (rf.RetryPolicy(max_retries=3, initial_delay=0.01, retry_on=(OSError,)), 1),
    ],
)
def test_a_step_without_a_policy_takes_the_executions(
    engine: rf.LocalEngine, ledger: Ledger, policy: rf.RetryPolicy, calls: int
) -> None:
    with pytest.raises(rf.ExecutionFailed, match="ValueError: bad"):
        engine.start(unpolicied.options(retry=policy), ledger.path).result(20)
    assert ledger.count("counted") == calls
