"""Tools for testing workflows: virtual time, scripted steps, replay of recorded journals.

    with TestEngine(paranoid=True) as env:
        env.script(ask, returns="42")
        assert env.execute(research, "rivers") == "42"

**What runs.** A test runs deterministically on one thread, not on the threads of :class:`rayflow.LocalEngine` with a
faster clock. Real are the coordinator (:class:`~rayflow.runtime.coordinator.coordinator.Coordinator`), its drivers and
machines, the store actor with its stores, the maintenance of schedules, locks and deadlocks, and the worker of steps.
Replaced are the components that decide order and time: the actor system (:mod:`rayflow.testing.actors`), the
coordinator's mailbox, and the supervisor.

**Why.** Skipping time is safe only when nothing is running. With pools, workers, heartbeats and a dozen threads, a test
could only guess that, and would fail once in a thousand runs. On one thread the queue is empty or not. Temporal's test
server skips time while a test waits for a result, and runs in real time while an activity runs; trio's MockClock jumps
when all tasks are blocked. Both ideas are used here. ``paranoid`` is Restate's always-replay mode.

Production code reads the time from ``ActorSystem.clock`` (:mod:`rayflow.runtime.actors.clock`), which a test replaces.
"""

from __future__ import annotations

from rayflow.testing.engine import BEGINNING, TestEngine
from rayflow.testing.errors import UnscriptedStep, WorkflowStuck
from rayflow.testing.histories import History, replay
from rayflow.testing.scripts import Call, Script

__all__ = ["BEGINNING", "Call", "History", "Script", "TestEngine", "UnscriptedStep", "WorkflowStuck", "replay"]
