"""Looking at what nobody drives and what is overdue, and having it go on."""

from __future__ import annotations

import time
from typing import Any

import pytest

import rayflow as rf
from rayflow.client.engine import backend_of
from rayflow.testing import TestEngine
from tests.fundamentals.chain import LENGTH, chain
from tests.fundamentals.tools import Gate, Ledger, eventually, hold, note
from tests.fundamentals.virtual import month

ONCE = rf.RetryPolicy(max_retries=0)


@rf.step(retry=ONCE)
def fails_until(ledger: str, times: int) -> int:
    """Fails so many times, over all of its executions' lives."""
    with open(ledger, "a+") as file:  # noqa: PTH123 - reads what it appends to
        file.write("try\n")
        file.seek(0)
        tries = len(file.readlines())
    if tries <= times:
        raise ValueError("not yet")
    return tries


@rf.workflow
async def brittle(ledger: str, times: int) -> int:
    return await fails_until(ledger, times)


@rf.workflow
async def held(ledger: str) -> list[str]:
    return [await note(ledger, "first"), await hold("gate")]


def interrupted(store: str, ledger: Ledger, gate: Gate, **options: Any) -> None:
    """Leave an execution "one" that was under way."""
    with rf.LocalEngine(store, pool=rf.PoolConfig(stop_grace=0)) as engine:
        engine.start(held.options(id="one", **options), ledger.path)
        gate.wait_until_reached()


def test_what_nobody_drives_is_seen_and_taken_up(store: str, ledger: Ledger, gate: Gate) -> None:
    interrupted(store, ledger, gate)
    gate.open()
    with rf.LocalEngine(store, recover=False) as engine:
        assert (engine.recovery.status().stale, engine.recovery.status().driven) == (("one",), 0)
        assert engine.recovery.recover_stale(older_than=3600) == []
        assert engine.recovery.status().stale == ("one",)
        assert engine.recovery.recover_stale() == ["one"]
        assert engine.recovery.recover_stale() == [], "it has a coordinator now"
        assert engine.handle("one").result(timeout=20) == ["first", "through"]
        status = engine.recovery.status()
        assert (status.stale, status.waiting, status.quarantined, dict(status.takeovers)) == ((), (), (), {})
        [coordinator] = status.coordinators
        assert (coordinator.ready, coordinator.silent, coordinator.reserved) == (True, 0.0, False)
    assert ledger.lines() == ["first"]


def test_a_failed_execution_is_recovered_and_no_other(engine: rf.LocalEngine, ledger: Ledger, gate: Gate) -> None:
    with pytest.raises(rf.ExecutionFailed):
        engine.start(brittle.options(id="one"), ledger.path, 1).result(20)
    engine.recovery.recover("one")
    assert engine.handle("one").result(timeout=20) == 2
    with pytest.raises(rf.InvalidTransition, match=r"cannot recover execution 'one': it is completed. It is not"):
        engine.recovery.recover("one")
    engine.start(held.options(id="two"), ledger.path)
    gate.wait_until_reached()
    with pytest.raises(rf.InvalidTransition, match=r"it is running. It is not in failed state. Interrupted"):
        engine.recovery.recover("two")
    with pytest.raises(rf.ExecutionNotFound):
        engine.recovery.recover("three")


def test_nothing_is_overdue_while_somebody_sees_to_it(engine: rf.LocalEngine, ledger: Ledger, gate: Gate) -> None:
    handle = engine.start(held.options(id="one", timeout=0.3), ledger.path)
    with pytest.raises(rf.ExecutionFailed):
        handle.result(timeout=20)
    assert engine.recovery.monitor_timeouts(grace=0.0) == []


def test_a_step_that_runs_is_known_with_the_moment_when_its_time_is_up(
    engine: rf.LocalEngine, ledger: Ledger, gate: Gate
) -> None:
    began = time.time()
    handle = engine.start(held.options(id="one"), ledger.path)
    gate.wait_until_reached()
    coordinator = handle.status().coordinator
    actor = backend_of(engine).system.find(coordinator)
    assert actor.call("overdue", 0.0) == []
    limit = rf.ExecutionOptions().step_timeout
    assert limit is not None
    [found] = actor.call("overdue", -2 * limit)
    assert (found.execution_id, found.kind, found.what, found.coordinator) == ("one", "step", "hold", coordinator)
    assert began + limit <= found.due <= time.time() + limit


def test_what_is_overdue_with_nobody_driving_it_is_told_and_ended(store: str, ledger: Ledger, gate: Gate) -> None:
    interrupted(store, ledger, gate, timeout=3.0)  # time enough to be interrupted first
    with rf.LocalEngine(store, recover=False) as engine:
        deadline = backend_of(engine).record("one").deadline
        assert deadline is not None
        eventually(lambda: time.time() > deadline, "its time is up")
        assert engine.recovery.monitor_timeouts(grace=3600) == []
        [found] = engine.recovery.monitor_timeouts(grace=0.0)
        assert (found.execution_id, found.kind, found.due, found.coordinator != "") == (
            "one",
            "deadline",
            deadline,
            True,
        )
        assert found.late > 0
        with pytest.raises(rf.ExecutionFailed, match="time"):
            engine.handle("one").result(timeout=20)
        assert engine.recovery.monitor_timeouts(grace=0.0) == []


def test_times_that_are_none_are_refused(engine: rf.LocalEngine) -> None:
    with pytest.raises(rf.InvalidArgument, match="older_than must be a number of seconds, 0 or more, not -1"):
        engine.recovery.recover_stale(older_than=-1)
    with pytest.raises(rf.InvalidArgument, match=r"grace must be .*, not nan"):
        engine.recovery.monitor_timeouts(grace=float("nan"))


def test_it_is_there_in_tests_as_well(env: TestEngine) -> None:
    assert env.execute(month, 1)[0] == 4
    assert env.recovery.recover_stale() == []
    assert env.recovery.monitor_timeouts() == []
    assert (env.recovery.status().stale, env.recovery.status().driven) == ((), 0)


def test_many_interruptions_are_all_found(store: str, ledger: Ledger) -> None:
    with rf.LocalEngine(store) as engine:
        engine.start_many([chain.call(ledger.path, LENGTH)] * 20)
        eventually(lambda: len(ledger.lines()) >= 20, "they are under way")
    with rf.LocalEngine(store, recover=False) as engine:
        stale = engine.recovery.status().stale
        assert sorted(engine.recovery.recover_stale()) == sorted(stale)
        assert len(stale) >= 1
        for name in stale:
            assert engine.handle(name).result(timeout=60) == sum(range(LENGTH))
