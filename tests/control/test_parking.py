"""Executions that only wait: they hold no process, and wake in time, whatever dies meanwhile."""

from __future__ import annotations

import time

import pytest

import rayflow as rf
from benchmarks.waiting import actors_memory
from rayflow.client.engine import backend_of
from rayflow.runtime.actors import actor_names
from rayflow.storage.base import Filter
from tests.control.conftest import Open, until_parked
from tests.control.flows import idle, sleeping, waking_at
from tests.faults.processes.tools import kill, until

pytestmark = pytest.mark.ray


def test_a_timer_of_a_parked_execution_wakes_it(engine: rf.DistributedEngine) -> None:
    handle = engine.start(sleeping.options(id="sleeper"), 8.0)
    until_parked(engine, "sleeper")
    assert backend_of(engine).record("sleeper").runnable_at is not None
    assert handle.result(timeout=60) >= 0


@pytest.mark.system
def test_supervisor_and_persistence_die_while_it_sleeps(engine: rf.DistributedEngine) -> None:
    handle = engine.start(sleeping.options(id="long-sleeper"), 10.0)
    until_parked(engine, "long-sleeper")
    kill(backend_of(engine).pid_of(actor_names.SUPERVISOR))
    kill(backend_of(engine).pid_of(actor_names.STORE))
    assert handle.result(timeout=60) >= 0


@pytest.mark.system
def test_a_deadline_passes_while_it_is_parked(engine: rf.DistributedEngine) -> None:
    handle = engine.start(idle.options(id="idle", timeout=10))
    until_parked(engine, "idle")
    with pytest.raises(rf.ExecutionTimeout):
        handle.result(timeout=60)


@pytest.mark.system
def test_a_parked_execution_is_paused_resumed_and_cancelled(engine: rf.DistributedEngine) -> None:
    handle = engine.start(idle.options(id="another"))
    until_parked(engine, "another")
    handle.pause()
    assert handle.status().status == "paused"
    handle.resume()
    until(lambda: handle.status().status == "running", "it goes on")
    handle.cancel("enough")
    with pytest.raises(rf.ExecutionCancelled, match="enough"):
        handle.result(timeout=60)


@pytest.mark.system
def test_a_delayed_start_begins_at_its_time(engine: rf.DistributedEngine) -> None:
    at = time.time() + 2.5
    handle = engine.start(waking_at.options(start_at=at), at)
    handle.result(timeout=60)
    assert handle.status().steps == []
    assert backend_of(engine).record(handle.id).updated_at >= at


@pytest.mark.system
@pytest.mark.timeout(400)
def test_ten_thousand_parked_ones_cost_no_more_memory_than_ten_and_a_hundred_wake_at_once(open_engine: Open) -> None:
    parked(open_engine(park_idle_after=0.2), 10)
    few = memory_of_new_actors(open_engine)
    parked(open_engine(park_idle_after=0.2), 10_000)
    many = memory_of_new_actors(open_engine)
    assert many < few * 1.1, f"{few:.0f} MB with ten, {many:.0f} MB with ten thousand"
    engine = open_engine(park_idle_after=0.2)
    moment = time.time() + 15
    handles = engine.start_many([waking_at.call(moment)] * 100)
    late = [handle.result(timeout=120) for handle in handles]
    assert min(late) >= 0
    assert max(late) < 10


def parked(engine: rf.DistributedEngine, count: int) -> None:
    """Start so many that wait for ever, see that nobody drives them any more, and stop all actors."""
    for first in range(0, count, 500):
        engine.start_many([idle.call()] * min(500, count - first))
    give_up = time.monotonic() + 240
    while backend_of(engine).executions(Filter(driven=True, limit=1)):
        assert time.monotonic() < give_up
        time.sleep(0.2)
    engine.shutdown()


def memory_of_new_actors(open_engine: Open) -> float:
    """Megabytes that new actors have on their own: what allocators keep of a rush is not what parked ones cost."""
    engine = open_engine(park_idle_after=0.2)
    engine.start(waking_at, 0.0).result(60)
    used = sum(actors_memory(engine).values())
    engine.shutdown()
    return used
