"""Retention on a cluster: what is over vanishes in the background while others run, whatever dies meanwhile."""

from __future__ import annotations

import pytest

import rayflow as rf
from rayflow.client.engine import backend_of
from rayflow.runtime.actors import actor_names
from tests.control.conftest import Open
from tests.control.flows import collecting, leaf
from tests.faults.processes.tools import kill, until

pytestmark = pytest.mark.ray


def test_what_is_over_vanishes_while_others_run_and_the_supervisor_dies(open_engine: Open) -> None:
    engine = open_engine(park_idle_after=0.2, retention=rf.Retention(completed=1.0))
    running = engine.start(collecting.options(id="running"), 1)
    for number in range(20):
        engine.start(leaf.options(id=f"before{number}"), number)
    until(lambda: engine.metrics().executions_completed >= 20, "all of them have ended")
    kill(backend_of(engine).pid_of(actor_names.SUPERVISOR))
    for number in range(20):
        engine.start(leaf.options(id=f"after{number}"), number)
    until(lambda: engine.metrics().executions_completed >= 40, "all of them have ended")
    until(lambda: [found.execution_id for found in engine.list()] == ["running"], "those that ended are deleted")
    assert engine.metrics().executions_completed == 40
    assert engine.metrics().executions_started == 41
    engine.signal("running", "item", [1])
    assert running.result(timeout=60) == [[1]]
    assert engine.purge(older_than=0, status="completed").executions <= 1  # or the supervisor was faster
    handle = engine.start(leaf.options(id="before7", retention=rf.Retention()), 8)
    assert handle.result(timeout=60) == 8  # the id is free again, and this one stays
