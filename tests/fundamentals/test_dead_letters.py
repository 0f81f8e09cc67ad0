"""A step that used up its attempts is kept with all that is known of it, until it is requeued or discarded."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

import rayflow as rf
from rayflow.client.dead_letters import DeadLetterInfo
from rayflow.definition.options import Checkpoints
from rayflow.errors import DeadLetterNotFound
from tests.fundamentals.tools import Gate, Ledger, hold, note


@rf.step(retry=rf.RetryPolicy(max_retries=2, initial_delay=0.01))
def charge(ledger: str, cents: int, *, currency: str = "EUR") -> str:
    note.fn(ledger, f"charge-{currency}")
    if not Path(f"{ledger}-mended").exists():
        raise ConnectionError(f"the bank does not answer for {cents}")
    return f"{cents} {currency}"


@rf.workflow
async def order(ledger: str, cents: int) -> list[str]:
    return [await note(ledger, "first"), await charge(ledger, cents, currency="USD"), await note(ledger, "last")]


@rf.workflow
async def careful(ledger: str, cents: int) -> str:
    try:
        return await charge(ledger, cents)
    except rf.StepFailed:
        return "unpaid"


@rf.workflow
async def held(ledger: str, gate: str) -> str:
    try:
        await charge(ledger, 1)
    except rf.StepFailed:
        await hold(gate)
    return "released"


@rf.workflow
async def several(ledger: str) -> list[str]:
    return await asyncio.gather(*(charge(ledger, cents) for cents in (1, 2)))


def mend(ledger: Ledger) -> None:
    Path(f"{ledger.path}-mended").touch()


def fail(engine: rf.LocalEngine, ledger: Ledger, name: str = "one") -> None:
    with pytest.raises(rf.ExecutionFailed, match="the bank does not answer"):
        engine.start(order.options(id=name), ledger.path, 500).result(20)


def keys(letters: list[DeadLetterInfo]) -> list[tuple[str, int]]:
    return [(letter.execution_id, letter.step) for letter in letters]


def test_it_tells_input_errors_times_and_worker(engine: rf.LocalEngine, ledger: Ledger) -> None:
    began = time.time()
    fail(engine, ledger)
    ended = time.time()
    [listed] = engine.dead_letters.list()
    letter = engine.dead_letters.show("one", 2)
    assert (letter.name, letter.workflow_id, letter.attempts) == (charge.name, "order", 3)
    assert (list(letter.args), letter.kwargs) == ([ledger.path, 500], {"currency": "USD"})
    assert (letter.error.type, letter.error.message) == ("ConnectionError", "the bank does not answer for 500")
    assert "in charge" in letter.error.traceback
    assert letter.worker
    assert not letter.handled
    assert [attempt.attempt for attempt in letter.history] == [1, 2, 3]
    assert all(attempt.counts and attempt.error.type == "ConnectionError" for attempt in letter.history)
    moments = [moment for attempt in letter.history for moment in (attempt.began or 0.0, attempt.at)]
    assert moments == sorted(moments)
    assert began <= moments[0]
    assert (letter.began, letter.at) == (moments[-2], moments[-1])
    assert moments[-1] <= ended
    assert listed.history == ()
    assert (listed.input, listed.error, listed.handled) == (letter.input, letter.error, False)


def test_a_requeued_step_gets_fresh_attempts_and_its_execution_goes_on(engine: rf.LocalEngine, ledger: Ledger) -> None:
    fail(engine, ledger)
    mend(ledger)
    engine.dead_letters.requeue("one", 2)
    assert engine.dead_letters.list() == []
    assert engine.handle("one").result(timeout=20) == ["first", "500 USD", "last"]
    assert ledger.lines() == ["first", *["charge-USD"] * 4, "last"]
    with pytest.raises(DeadLetterNotFound, match="no dead letter of step 2 of execution 'one'"):
        engine.dead_letters.requeue("one", 2)


def test_one_that_fails_again_is_kept_again_with_all_its_attempts(engine: rf.LocalEngine, ledger: Ledger) -> None:
    fail(engine, ledger)
    engine.dead_letters.requeue("one", 2)
    with pytest.raises(rf.ExecutionFailed):
        engine.handle("one").result(timeout=20)
    assert ledger.count("charge-USD") == 6
    letter = engine.dead_letters.show("one", 2)
    assert [attempt.attempt for attempt in letter.history] == [1, 2, 3, 4, 5, 6]
    assert (letter.attempts, letter.handled) == (6, False)


def test_resuming_the_execution_is_the_same(engine: rf.LocalEngine, ledger: Ledger) -> None:
    fail(engine, ledger)
    mend(ledger)
    engine.resume("one")
    assert engine.handle("one").result(timeout=20) == ["first", "500 USD", "last"]
    assert engine.dead_letters.list() == []


def test_a_failure_that_the_workflow_caught_can_only_be_discarded(engine: rf.LocalEngine, ledger: Ledger) -> None:
    assert engine.start(careful.options(id="one"), ledger.path, 7).result(20) == "unpaid"
    [letter] = engine.dead_letters.list()
    assert letter.handled
    with pytest.raises(rf.InvalidTransition, match=r"cannot requeue step 1 of.*it is completed.*only be discarded"):
        engine.dead_letters.requeue("one", 1)
    assert keys(engine.dead_letters.list()) == [("one", 1)]
    engine.dead_letters.discard("one", 1)
    assert engine.dead_letters.list() == []
    assert engine.handle("one").result(timeout=20) == "unpaid"
    assert ledger.count("charge-EUR") == 3


def test_what_still_runs_has_not_failed_by_it(engine: rf.LocalEngine, ledger: Ledger, gate: Gate) -> None:
    handle = engine.start(held.options(id="one"), ledger.path, "gate")
    gate.wait_until_reached()
    assert engine.dead_letters.show("one", 1).handled
    with pytest.raises(rf.InvalidTransition, match=r"cannot requeue step 1 of.*it is running.*may fail.*yet"):
        engine.dead_letters.requeue("one", 1)
    gate.open()
    assert handle.result(timeout=20) == "released"


def test_of_several_that_failed_the_one_that_ended_the_execution_is_requeued(
    engine: rf.LocalEngine, ledger: Ledger
) -> None:
    with pytest.raises(rf.ExecutionFailed):
        engine.start(several.options(id="one"), ledger.path).result(20)
    failure = engine.status("one").error
    assert failure is not None
    cause = failure.step
    assert {letter.step: letter.handled for letter in engine.dead_letters.list()}.get(cause or 0) is False
    mend(ledger)
    assert cause is not None
    engine.dead_letters.requeue("one", cause)
    assert engine.handle("one").result(timeout=20) == ["1 EUR", "2 EUR"]
    assert engine.dead_letters.list() == []


def test_a_discarded_one_leaves_its_execution_as_it_is(engine: rf.LocalEngine, ledger: Ledger) -> None:
    fail(engine, ledger)
    engine.dead_letters.discard("one", 2)
    assert engine.dead_letters.list() == []
    assert engine.status("one").status is rf.ExecutionStatus.FAILED
    for ask in (engine.dead_letters.show, engine.dead_letters.discard):
        with pytest.raises(DeadLetterNotFound) as caught:
            ask("one", 2)
        assert (caught.value.execution_id, caught.value.step) == ("one", 2)
    mend(ledger)
    engine.resume("one")
    assert engine.handle("one").result(timeout=20) == ["first", "500 USD", "last"]


def test_they_are_listed_newest_first_by_workflow_and_by_execution(engine: rf.LocalEngine, ledger: Ledger) -> None:
    fail(engine, ledger, "a")
    engine.start(careful.options(id="b"), ledger.path, 7).result(20)
    fail(engine, ledger, "c")
    letters = engine.dead_letters
    assert keys(letters.list()) == [("c", 2), ("b", 1), ("a", 2)]
    assert keys(letters.list(limit=1)) == [("c", 2)]
    assert keys(letters.list(workflow="order")) == [("c", 2), ("a", 2)]
    assert keys(letters.list(execution="b")) == [("b", 1)]
    assert keys(letters.list(execution="b", workflow="order")) == []


def test_they_outlive_the_engine(store: str, ledger: Ledger) -> None:
    with rf.LocalEngine(store) as engine:
        fail(engine, ledger)
    mend(ledger)
    with rf.LocalEngine(store) as engine:
        assert keys(engine.dead_letters.list()) == [("one", 2)]
        engine.dead_letters.requeue("one", 2)
        assert engine.handle("one").result(timeout=20) == ["first", "500 USD", "last"]
    assert ledger.count("first") == 1


def test_nothing_is_kept_of_a_step_that_succeeds_in_the_end(engine: rf.LocalEngine, ledger: Ledger) -> None:
    mend(ledger)
    engine.start(order, ledger.path, 500).result(20)
    assert engine.dead_letters.list() == []


@pytest.mark.parametrize("checkpoints", ["async", "off"])
def test_other_checkpoints_keep_them_too(engine: rf.LocalEngine, ledger: Ledger, checkpoints: Checkpoints) -> None:
    with pytest.raises(rf.ExecutionFailed):
        engine.start(order.options(id="one", checkpoints=checkpoints), ledger.path, 500).result(20)
    assert keys(engine.dead_letters.list()) == [("one", 2)]
    assert engine.dead_letters.show("one", 2).history[-1].attempt == 3
    mend(ledger)
    engine.dead_letters.requeue("one", 2)
    assert engine.handle("one").result(timeout=20) == ["first", "500 USD", "last"]
