"""The body of a Ray task that runs one step: its answer, how it is cancelled, and that nothing of it stays."""

from __future__ import annotations

import _thread
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rayflow.runtime.actors.base import as_envelope
from rayflow.runtime.code.environment import Environment
from rayflow.runtime.messages import BatchReply, TaskMessage, TaskOutcome, pack, unpack
from rayflow.runtime.worker.actor import WorkerSettings
from rayflow.runtime.worker.ray_task import run_ray_task
from tests.runtime.worker import worker_steps as steps
from tests.runtime.worker.worker_harness import Bench, bench, keys, reach, value
from tests.runtime.worker.worker_steps import PATIENCE, STAGE

SETTINGS = WorkerSettings(4, "gpu", "store", setup="tests.runtime.worker.worker_setups:prepare", max_tasks=1)
NAME = "own task"


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    """A store and a coordinator."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    with bench(1) as made:
        yield made


def run(cluster: Bench, task: TaskMessage, *, environment: Environment | None = None, **given: Any) -> BatchReply:
    cancelled = given.pop("cancelled", None)
    data = pack(cluster.batch(task, **given))
    answer = run_ray_task(cluster.system, environment or Environment(), SETTINGS, NAME, data, cancelled=cancelled)
    reply = unpack(as_envelope(answer).data)
    for thread in [thread for thread in threading.enumerate() if thread.name.startswith(NAME)]:
        thread.join(PATIENCE)
        assert not thread.is_alive(), f"{thread.name} was left behind"
    assert isinstance(reply, BatchReply)
    return reply


def result(cluster: Bench, owner: Any, *args: Any) -> Any:
    [outcome] = run(cluster, cluster.task(owner, *args)).outcomes
    assert outcome.failure is None, outcome.failure
    return value(outcome)


# --- running ------------------------------------------------------------------------------------------------
def test_a_step_runs_and_its_begin_is_told(cluster: Bench) -> None:
    before = time.time()
    task = cluster.task(steps.double, 4, epoch=3)
    [outcome] = run(cluster, task).outcomes
    assert value(outcome) == 8
    assert before <= outcome.began <= outcome.ended
    cluster.system.find("coordinator").call("begun", "the last", 0, 0, 0, 0.0)
    assert cluster.begun[:-1] == [("e1", task.seq, 1, 3, outcome.began)]


def test_one_process_runs_one_after_another(cluster: Bench) -> None:
    assert [result(cluster, steps.double, 1), result(cluster, steps.double_slowly, 2)] == [2, 4]
    assert result(cluster, steps.context)["worker"] == NAME


def test_each_finds_the_code_of_its_own_environment(cluster: Bench, tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / name).mkdir()
        environment = Environment(paths=(str(tmp_path / name),))
        [outcome] = run(cluster, cluster.task(steps.first_path), environment=environment).outcomes
        assert value(outcome) == str(tmp_path / name)


def test_it_is_answered_at_its_end_whatever_the_patience(cluster: Bench) -> None:
    reply = run(cluster, cluster.task(steps.double, 1), patience=0.0, tell_begin=True)
    assert [value(outcome) for outcome in reply.outcomes] == [2]


def test_one_that_comes_too_late_is_given_back_and_has_not_begun(cluster: Bench) -> None:
    task = cluster.task(steps.double, 1, start_by=time.time() - 1)
    assert run(cluster, task) == BatchReply(not_begun=(keys(task)[0],))
    cluster.system.find("coordinator").call("begun", "the last", 0, 0, 0, 0.0)
    assert [begun[0] for begun in cluster.begun] == ["the last"]
    assert STAGE.ran == []


def test_its_output_and_its_beats_reach_the_coordinator(cluster: Bench) -> None:
    seen: list[object] = []

    def watch() -> None:
        seen.append(cluster.heartbeat())
        STAGE.gate("a").opened.set()
        STAGE.gate("b").opened.set()

    watcher = threading.Thread(target=watch)
    watcher.start()
    assert result(cluster, steps.beat_and_wait, ["half"], "a", [], "b") is None
    watcher.join(PATIENCE)
    assert seen == ["half"]
    assert run(cluster, cluster.task(steps.say, "hello")).outcomes[0].output == ("hello",)


def test_the_pools_setup_is_that_of_its_workers(cluster: Bench) -> None:
    failure = run(cluster, cluster.task(steps.what_was_prepared)).outcomes[0].failure
    assert failure is not None
    assert "a step with its own resources or runtime_env in its own process" in failure.message
    assert STAGE.ran == []


def test_what_the_worker_raises_is_raised(cluster: Bench) -> None:
    with pytest.raises(TypeError, match="NoneType"):
        run(cluster, cluster.task(steps.double, 1), environment=Environment(paths=(None,)))  # type: ignore[arg-type]


# --- cancelling ---------------------------------------------------------------------------------------------
def interrupted_at(*gates: str) -> threading.Thread:
    """Interrupts the main thread, as Ray does, at each gate that a step reaches, and opens it."""

    def interrupt() -> None:
        for gate in gates:
            reach(gate)
            _thread.interrupt_main()
            STAGE.gate(gate).opened.set()

    thread = threading.Thread(target=interrupt)
    thread.start()
    return thread


@pytest.mark.parametrize("gates", [("a",), ("a", "cleaning")])
def test_an_interrupt_cancels_an_async_step_which_cleans_up(cluster: Bench, gates: tuple[str, ...]) -> None:
    if "cleaning" not in gates:
        STAGE.gate("cleaning").opened.set()
    thread = interrupted_at(*gates)
    [outcome] = run(cluster, cluster.task(steps.clean_up_at, "a", "cleaning")).outcomes
    thread.join(PATIENCE)
    assert outcome.failure is not None
    assert outcome.failure.message == "the attempt was cancelled: its result is no longer wanted"
    assert STAGE.ran == ["a cleaned up"]


def test_an_interrupt_is_seen_by_a_sync_step(cluster: Bench) -> None:
    thread = interrupted_at("a")
    assert result(cluster, steps.until_cancelled, "a") == "stopped"
    thread.join(PATIENCE)


def test_an_interrupt_arrives_also_where_the_cluster_ignores_them(cluster: Bench) -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        thread = interrupted_at("a")
        assert result(cluster, steps.until_cancelled, "a") == "stopped"
        thread.join(PATIENCE)
    finally:
        signal.signal(signal.SIGINT, before)


def test_what_was_cancelled_before_it_began_ends_as_well(cluster: Bench) -> None:
    cancelled = threading.Event()
    cancelled.set()
    [outcome] = run(cluster, cluster.task(steps.wait_for_ever, "a"), cancelled=cancelled).outcomes
    assert outcome.failure is not None
    assert outcome.failure.type == "asyncio.exceptions.CancelledError"


def test_on_a_thread_it_is_cancelled_by_an_event(cluster: Bench) -> None:
    cancelled = threading.Event()
    outcomes: list[TaskOutcome] = []

    def body() -> None:
        outcomes.extend(run(cluster, cluster.task(steps.until_cancelled, "a"), cancelled=cancelled).outcomes)

    thread = threading.Thread(target=body)
    thread.start()
    reach("a")
    cancelled.set()
    thread.join(PATIENCE)
    assert [value(outcome) for outcome in outcomes] == ["stopped"]
