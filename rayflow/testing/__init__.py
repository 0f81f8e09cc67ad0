"""Helpers for those who test their own workflows: virtual time, scripted steps, replay of recorded journals.

    with TestEngine(paranoid=True) as env:
        env.script(ask, returns="42")
        assert env.execute(research, "rivers") == "42"

**What runs.** A test does not run on the threads of :class:`rayflow.LocalEngine` under a faster clock, but on one
thread, deterministically: the real coordinator (:class:`~rayflow.runtime.coordinator.coordinator.Coordinator`), its
drivers and machines, the real persistence actor with its stores, the real timekeeper for schedules, locks and
deadlocks, the real worker for steps. What is replaced is only what gives them order and time: the actor system
(:mod:`rayflow.testing.actors`), the turns of the coordinator's thread, and the supervisor.

**Why.** To skip time one has to know that nothing is under way. With pools, workers, pings, heartbeats and a dozen
threads that wait for each other, that can only be guessed (by waiting a little), and a guess makes tests that fail once
in a thousand runs. On one thread it is known: the queue is empty. Temporal's test server skips time while somebody
waits for a result, and runs it at its real pace while an activity runs; trio's MockClock jumps when all tasks are
blocked; both are taken over here. Restate's always-replay mode is ``paranoid``.

The seam in the production code is ``ActorSystem.clock`` (:mod:`rayflow.runtime.actors.clock`): what is recorded, or
compared with what is recorded, reads the time there.
"""

from __future__ import annotations

from rayflow.testing.engine import BEGINNING, TestEngine
from rayflow.testing.errors import UnscriptedStep, WorkflowStuck
from rayflow.testing.histories import History, replay
from rayflow.testing.scripts import Call, Script

__all__ = ["BEGINNING", "Call", "History", "Script", "TestEngine", "UnscriptedStep", "WorkflowStuck", "replay"]
