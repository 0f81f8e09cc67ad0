"""Executions that only wait: they hold no process, and wake in time, whatever dies meanwhile."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

import rayflow as rf
from rayflow.runtime import naming
from tests.control.conftest import Open, until_parked
from tests.control.flows import idle, sleeping, waking_at
from tests.faults.tools import kill, until

pytestmark = pytest.mark.ray


def test_a_timer_of_a_parked_execution_wakes_it(engine: rf.DistributedEngine) -> None:
    handle = engine.start(sleeping, 4.0, id="sleeper")
    until_parked(engine, "sleeper")
    assert engine.record("sleeper").runnable_at is not None
    assert 0 <= handle.result(timeout=60) < 5


def test_supervisor_and_persistence_die_while_it_sleeps(engine: rf.DistributedEngine) -> None:
    handle = engine.start(sleeping, 6.0, id="sleeper")
    until_parked(engine, "sleeper")
    kill(engine.pid_of(naming.SUPERVISOR))
    kill(engine.pid_of(naming.PERSISTENCE))
    assert 0 <= handle.result(timeout=60) < 10


def test_a_deadline_passes_while_it_is_parked(engine: rf.DistributedEngine) -> None:
    handle = engine.start(idle, id="idle", options=rf.ExecutionOptions(timeout=4))
    until_parked(engine, "idle")
    with pytest.raises(rf.ExecutionTimeout):
        handle.result(timeout=60)


def test_a_parked_execution_is_paused_resumed_and_cancelled(engine: rf.DistributedEngine) -> None:
    handle = engine.start(idle, id="idle")
    until_parked(engine, "idle")
    handle.pause()
    assert handle.status().status == "paused"
    handle.resume()
    until(lambda: handle.status().status == "running", "it goes on")
    handle.cancel("enough")
    with pytest.raises(rf.ExecutionCancelled, match="enough"):
        handle.result(timeout=60)


def test_a_delayed_start_begins_at_its_time(engine: rf.DistributedEngine) -> None:
    at = time.time() + 2.5
    handle = engine.start(waking_at, at, options=rf.ExecutionOptions(start_at=at))
    handle.result(timeout=60)
    assert handle.status().steps == []
    assert engine.record(handle.id).updated_at >= at


@pytest.mark.system
@pytest.mark.timeout(400)
def test_ten_thousand_parked_ones_cost_no_more_memory_than_ten_and_a_hundred_wake_at_once(open_engine: Open) -> None:
    engine = open_engine(park_after=0.2)

    def all_parked() -> bool:
        return bool(engine.ask("executions", _driven()) == [])

    engine.start_many(idle, [()] * 10)
    until(all_parked, "ten are parked")
    few = _memory(engine)
    for _ in range(20):
        engine.start_many(idle, [()] * 500)
    _until_long(all_parked)
    many = _memory(engine)
    # What the allocators keep of the rush is not what parked executions cost.
    assert many < few + 150, f"{few:.0f} MB with ten, {many:.0f} MB with ten thousand"
    moment = time.time() + 15
    handles = engine.start_many(waking_at, [(moment,)] * 100)
    late = [handle.result(timeout=120) for handle in handles]
    assert min(late) >= 0
    assert max(late) < 10


def _driven() -> object:
    from rayflow.storage.base import Filter

    return Filter(driven=True, limit=1)


def _until_long(condition: object) -> None:
    give_up = time.monotonic() + 240
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < give_up
        time.sleep(0.5)


def _memory(engine: rf.DistributedEngine) -> float:
    """Megabytes of the actors that belong to no single execution, and of the coordinators."""
    names = [name for name in engine._system.names() if not name.startswith("rayflow:worker")]
    total = 0
    for name in names:
        try:
            pid = engine.pid_of(name)
        except rf.ClusterError:  # a spare coordinator that was dropped
            continue
        resident, shared = Path(f"/proc/{pid}/statm").read_text().split()[1:3]
        total += (int(resident) - int(shared)) * os.sysconf("SC_PAGE_SIZE")
    return total / 1e6
