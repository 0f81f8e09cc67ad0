"""Tasks of the system of one process: they end once, can be told to stop, and die with the actor that owns them."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator

import pytest

from rayflow.errors import ClusterError
from rayflow.runtime.actors.base import ActorLost, ActorSpec, ActorSystem, Reply, TaskCrashed, TaskSpec
from rayflow.runtime.actors.thread_system import ThreadSystem

SOON = 10.0


@pytest.fixture
def system() -> Iterator[ThreadSystem]:
    system = ThreadSystem()
    yield system
    system.close()


def double(system: ActorSystem, number: int, *, cancelled: threading.Event) -> int:
    return 2 * number


def fail(system: ActorSystem, *, cancelled: threading.Event) -> None:
    raise KeyError("no")


def leave(system: ActorSystem, *, cancelled: threading.Event) -> None:
    raise SystemExit(3)


def wait(system: ActorSystem, *, cancelled: threading.Event) -> str:
    assert cancelled.wait(SOON)
    return "stopped"


def hang(system: ActorSystem, release: threading.Event, *, cancelled: threading.Event) -> str:
    assert release.wait(SOON)
    return "at last"


class Owner:
    """An actor that runs a task."""

    def __init__(self, system: ActorSystem) -> None:
        self.system = system

    def own(self, replies: queue.Queue[Reply], release: threading.Event) -> None:
        self.system.run(TaskSpec(hang, "hang", (release,)), replies.put)
        self.system.run(TaskSpec(wait, "wait"), replies.put)


def outcome(system: ThreadSystem, spec: TaskSpec) -> Reply:
    replies: queue.Queue[Reply] = queue.Queue()
    system.run(spec, replies.put)
    return replies.get(timeout=SOON)


def test_a_task_answers_raises_or_crashes(system: ThreadSystem) -> None:
    assert outcome(system, TaskSpec(double, "double", (21,))) == Reply(42)
    assert isinstance(outcome(system, TaskSpec(fail, "fail")).error, KeyError)
    assert isinstance(outcome(system, TaskSpec(leave, "leave")).error, TaskCrashed)


def test_a_task_that_is_told_to_stop_does(system: ThreadSystem) -> None:
    replies: queue.Queue[Reply] = queue.Queue()
    system.run(TaskSpec(wait, "wait"), replies.put).cancel()
    assert replies.get(timeout=SOON) == Reply("stopped")


def test_a_task_that_is_killed_is_cut_off(system: ThreadSystem) -> None:
    replies: queue.Queue[Reply] = queue.Queue()
    release = threading.Event()
    system.run(TaskSpec(hang, "hang", (release,)), replies.put).cancel(force=True)
    assert isinstance(replies.get(timeout=SOON).error, ActorLost)
    release.set()
    system.close()
    assert replies.empty()


def test_tasks_die_with_the_actor_that_owns_them_which_hears_nothing_of_them(system: ThreadSystem) -> None:
    replies: queue.Queue[Reply] = queue.Queue()
    release = threading.Event()
    system.spawn(ActorSpec(Owner, "owner")).call("own", replies, release)
    system.kill("owner")
    release.set()
    system.close()
    assert replies.empty()


def test_a_system_that_is_closed_runs_nothing(system: ThreadSystem) -> None:
    system.close()
    with pytest.raises(ClusterError, match="the actor system is closed"):
        system.run(TaskSpec(double, "double", (1,)), print)


def test_nobody_counts_resources_here(system: ThreadSystem) -> None:
    assert system.nodes() == []
    assert outcome(system, TaskSpec(double, "double", (1,), {"num_gpus": 100})) == Reply(2)
