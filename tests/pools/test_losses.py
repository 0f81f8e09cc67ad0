"""Workers and the pool's actor are killed under a load; nothing is lost, and only what was under way runs again."""

from __future__ import annotations

import os
import random
import signal
from collections import Counter, defaultdict
from pathlib import Path

import pytest

import rayflow as rf
from rayflow.client.engine import backend_of
from rayflow.errors import ExecutionFailed
from rayflow.runtime.actors import actor_names
from tests.faults.processes.tools import kill, ledger_lines, until, until_longer
from tests.pools.conftest import Open
from tests.pools.flows import lateness, many, poisoned

pytestmark = pytest.mark.ray

TASKS, KILLS, SLOTS = 2000, 20, 4


def pid_of_some_worker(engine: rf.DistributedEngine, rng: random.Random) -> int:
    """The process of a worker that is up."""
    found: list[int] = []

    def look() -> bool:
        try:
            worker = rng.choice(engine._system.find(actor_names.pool("default")).call("workers"))
            found.append(backend_of(engine).pid_of(actor_names.worker("default", worker)))
        except (rf.ClusterError, IndexError):  # it died since, or the pool restarts, or there is none at the moment
            return False
        return True

    until(look, "a worker is up")
    return found[-1]


@pytest.mark.system
@pytest.mark.timeout(240)
def test_workers_are_killed_again_and_again_and_every_task_is_recorded_once(open_engine: Open, tmp_path: Path) -> None:
    engine, ledger = open_engine(workers=4, concurrency=SLOTS), tmp_path / "ledger"
    rng = random.Random(20)
    handles = [engine.start(many, str(ledger), half * TASKS // 2, TASKS // 2, 0.1) for half in range(2)]
    killed: set[int] = set()
    for number in range(KILLS):
        until_longer(ledger, len(ledger_lines(ledger)) + 80)
        victim = pid_of_some_worker(engine, rng)
        kill(victim)
        killed.add(victim)
        if number == KILLS // 2:
            kill(backend_of(engine).pid_of(actor_names.pool("default")))
    assert sum(handle.result(timeout=120) for handle in handles) == sum(range(TASKS))
    begun: dict[int, list[int]] = defaultdict(list)
    for what, task, pid in ledger_lines(ledger):
        if what == "begin":
            begun[int(task)].append(int(pid))
    assert set(begun) == set(range(TASKS))
    again = {task: pids for task, pids in begun.items() if len(pids) > 1}
    # Only what was under way on a worker that was killed, and not more than it had slots.
    assert {pid for pids in again.values() for pid in pids[:-1]} <= killed
    assert max(Counter(pid for pids in again.values() for pid in pids[:-1]).values(), default=0) <= SLOTS
    for handle in handles:
        steps = handle.status().steps
        assert [step.status for step in steps] == ["completed"] * (TASKS // 2)
        recorded = [task for task in engine.tasks(handle.id) if task.status == "completed"]
        assert len(recorded) == len({task.step for task in recorded}) == TASKS // 2


def test_the_late_answer_of_a_worker_that_was_stopped_and_continued_is_dropped_and_counted(
    open_engine: Open, tmp_path: Path
) -> None:
    engine = open_engine(workers=2, concurrency=1, ping_timeout=60, stop_grace=60)
    ledger, stopped, release = tmp_path / "ledger", tmp_path / "stopped", tmp_path / "release"
    handle = engine.start(lateness, str(ledger), str(stopped), str(release))
    until(lambda: ledger_lines(ledger), "the first attempt has begun")
    first = int(ledger_lines(ledger)[0][1])
    os.kill(first, signal.SIGSTOP)
    stopped.touch()
    try:
        until(lambda: handle.status().steps[0].status == "completed", "the second attempt is recorded")
        until(lambda: engine.pools.get().status().busy == 2, "both workers have a step")
    finally:
        os.kill(first, signal.SIGCONT)
    until(lambda: len(ledger_lines(ledger)) == 3, "the first attempt has ended after all")
    # What is counted of the late answer is written with the next entry, which is that of the step that is released.
    until(lambda: engine.pools.get().status().busy == 1, "the coordinator has the late answer")
    assert int(ledger_lines(ledger)[1][1]) != first
    release.touch()
    assert handle.result(timeout=30) == ["attempt 2", "released"]
    assert engine.metrics().late_results == 1
    assert handle.status().steps[0].attempts == 2


@pytest.mark.system
def test_a_poison_step_becomes_a_dead_letter_and_is_requeued_when_it_is_mended(
    open_engine: Open, tmp_path: Path
) -> None:
    engine, ledger, mended = open_engine(workers=2, concurrency=2), tmp_path / "ledger", tmp_path / "mended"
    neighbours = engine.start(many, str(tmp_path / "others"), 0, 200, 0.05)
    handle = engine.start(poisoned.options(id="poisoned"), str(ledger), str(mended))
    with pytest.raises(ExecutionFailed, match="died while it ran step 'poison'"):
        handle.result(timeout=100)
    # Twice in company, then alone: its first try and its two retries.
    assert len(ledger_lines(ledger)) == 5
    assert neighbours.result(timeout=60) == sum(range(200))
    [letter] = engine.dead_letters.list()
    assert (letter.execution_id, letter.name, letter.step, letter.attempts, letter.handled) == (
        "poisoned", "poison", 2, 5, False,
    )  # fmt: skip
    shown = engine.dead_letters.show("poisoned", 2)
    assert [attempt.counts for attempt in shown.history] == [False, False, True, True, True]
    mended.touch()
    engine.dead_letters.requeue("poisoned", 2)
    assert handle.result(timeout=60) == [1, "mended"]
    assert engine.dead_letters.list() == []
    assert [step.attempts for step in handle.status().steps] == [1, 6]
