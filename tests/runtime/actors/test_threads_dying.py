"""Calls of actors that are killed, or that end with their system."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest

from rayflow.errors import ClusterError
from rayflow.runtime.actors.base import ActorLost, ActorSpec, ActorSystem, ActorUnavailable
from rayflow.runtime.actors.thread_system import ThreadSystem
from tests.runtime.actors.actors import PATIENCE, Answers, Counter, counter, threads


@pytest.fixture
def system() -> Iterator[ThreadSystem]:
    with threads() as made:
        yield made


# --- dying --------------------------------------------------------------------------------------------------
def test_a_killed_actors_calls_are_answered_at_once_and_their_results_dropped(system: ThreadSystem) -> None:
    handle, actor = counter(system, threads=1)
    answers = Answers()
    handle.send("hold", then=answers)
    handle.send("add", 1, then=answers)
    assert actor.reached.wait(PATIENCE)
    system.kill("a")
    assert [type(reply.error) for reply in answers.wait(2)] == [ActorLost, ActorLost]
    handle.send("add", 1, then=answers)
    assert type(answers.wait(3)[2].error) is ActorLost
    with pytest.raises(ActorLost, match="actor 'a' is dead: it was killed"):
        handle.call("add", 1)
    assert threading.current_thread() not in answers.threads
    actor.gate.set()
    counter(system, "b")[0].call("add", 1)
    assert (len(answers.replies), actor.count) == (3, 0)


def test_a_caller_that_waits_for_a_killed_actor_is_told(system: ThreadSystem) -> None:
    _, held = counter(system, "a")
    asking, _ = counter(system, "b")
    held.system.find("a").send("hold")
    assert held.reached.wait(PATIENCE)
    waiting: list[BaseException] = []
    begun = threading.Event()

    def call() -> None:
        begun.set()
        try:
            system.find("a").call("hold")
        except ActorLost as error:
            waiting.append(error)

    thread = threading.Thread(target=call)
    thread.start()
    assert begun.wait(PATIENCE)
    system.kill("a")
    thread.join(PATIENCE)
    assert [type(error) for error in waiting] == [ActorLost]
    with pytest.raises(ActorLost):
        asking.call("ask", "a", 1)


def test_a_new_actor_of_that_name_is_another_one(system: ThreadSystem) -> None:
    old, _ = counter(system)
    old.call("add", 5)
    system.kill("a")
    new, _ = counter(system)
    assert new.call("add", 1) == 1
    with pytest.raises(ActorLost):
        old.call("add", 1)


def test_an_actor_that_may_be_made_anew_is_and_its_handles_stay_good(system: ThreadSystem) -> None:
    handle, actor = counter(system, args=(10,), restart=True)
    handle.call("add", 5)
    answers = Answers()
    handle.send("hold", then=answers)
    assert actor.reached.wait(PATIENCE)
    system.kill("a", restart=True)
    [reply] = answers.wait()
    assert isinstance(reply.error, ActorUnavailable)
    assert handle.call("add", 1) == 11
    assert system.names() == ["a"]
    system.kill("a")
    with pytest.raises(ActorLost):
        handle.call("add", 1)


def test_one_that_may_not_be_made_anew_stays_dead(system: ThreadSystem) -> None:
    handle, _ = counter(system)
    system.kill("a", restart=True)
    with pytest.raises(ActorLost):
        handle.call("add", 1)


def test_a_killed_actor_reaches_nobody_any_more(system: ThreadSystem) -> None:
    handle, dead = counter(system, "dead")
    other, _ = counter(system, "other")
    handle.send("hold_then_call", "other")
    assert dead.reached.wait(PATIENCE)
    system.kill("dead")
    dead.gate.set()
    assert dead.left.wait(PATIENCE)
    assert dead.after == [], "it ended where it tried to call"
    assert other.call("add", 1) == 1


def test_a_killed_actor_is_told_nothing_any_more(system: ThreadSystem) -> None:
    _, caller = counter(system, "caller")
    callee, actor = counter(system, "callee")
    answers = Answers()
    caller.system.find("callee").send("hold", then=answers)
    assert actor.reached.wait(PATIENCE)
    system.kill("caller")
    actor.gate.set()
    callee.call("add", 1)
    done = Answers()
    callee.send("add", 1, then=done)
    done.wait()
    assert answers.replies == []


# --- closing ------------------------------------------------------------------------------------------------
def test_closing_stops_the_newest_first_and_ends_all_threads() -> None:
    Counter.made = []
    before = set(threading.enumerate())
    system = ThreadSystem()
    order: list[str] = []

    class Noting(Counter):
        def __init__(self, system: ActorSystem, name: str) -> None:
            super().__init__(system)
            self.name = name

        def stop(self) -> None:
            order.append(self.name)
            super().stop()

    for name in "abc":
        system.spawn(ActorSpec(Noting, name, (name,))).send("hold")
    assert all(made.reached.wait(PATIENCE) for made in Counter.made)
    system.close()
    assert order == ["c", "b", "a"]
    assert system.names() == []
    assert set(threading.enumerate()) <= before
    with pytest.raises(ClusterError, match="cannot create actor 'd': the actor system is closed"):
        system.spawn(ActorSpec(Counter, "d"))


def test_an_actor_that_does_not_stop_cleanly_does_not_keep_the_others_from_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    Counter.made = []
    system = ThreadSystem()

    class Clumsy(Counter):
        def stop(self) -> None:
            raise ValueError("tripped")

    system.spawn(ActorSpec(Counter, "a"))
    system.spawn(ActorSpec(Clumsy, "b"))
    system.close()
    assert Counter.made[0].stopped.is_set()
    assert "actor b failed while it was stopped" in caplog.text
    assert "tripped" in caplog.text


# --- faults, by subclass ------------------------------------------------------------------------------------
def test_a_subclass_can_repeat_lose_and_fail_calls() -> None:
    Counter.made = []

    class Twice(ThreadSystem):
        def perform(self, name: str, target: Any, method: str, args: tuple[Any, ...]) -> Any:
            first = super().perform(name, target, method, args)
            if method == "add":
                super().perform(name, target, method, args)
            return first

    system = Twice()
    handle = system.spawn(ActorSpec(Counter, "a"))
    assert [handle.call("add", 1), handle.call("add", 1)] == [1, 3]
    system.close()
