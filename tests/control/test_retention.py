"""Retention on a cluster: what is over vanishes in the background while others run, whatever dies meanwhile."""

from __future__ import annotations

import pytest

import rayflow as rf
from rayflow.runtime.actors import actor_names
from tests.control.conftest import Open
from tests.control.flows import collecting, leaf
from tests.faults.processes.tools import kill, until

pytestmark = pytest.mark.ray


def test_what_is_over_vanishes_while_others_run_and_the_supervisor_dies(open_engine: Open) -> None:
    engine = open_engine(park_idle_after=0.2, retention=rf.Retention(completed=1.0))
    running = engine.start(collecting, 1, id="running")
    for number in range(20):
        engine.start(leaf, number, id=f"before{number}")
    until(lambda: engine.metrics().executions_completed >= 20, "all of them have ended")
    kill(engine.pid_of(actor_names.SUPERVISOR))
    for number in range(20):
        engine.start(leaf, number, id=f"after{number}")
    until(lambda: engine.metrics().executions_completed >= 40, "all of them have ended")
    until(lambda: [found.execution_id for found in engine.list()] == ["running"], "those that ended are deleted")
    assert engine.metrics().executions_completed == 40
    assert engine.metrics().executions_started == 41
    engine.signal("running", "item", [1])
    assert running.result(timeout=60) == [[1]]
    assert engine.purge(older_than=0, status="completed").executions <= 1  # or the supervisor was faster
    handle = engine.start(leaf, 8, id="before7", options=rf.ExecutionOptions(retention=rf.Retention()))
    assert handle.result(timeout=60) == 8  # the id is free again, and this one stays
