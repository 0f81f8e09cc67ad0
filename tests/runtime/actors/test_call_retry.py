"""An engine's calls outlast the restart of an actor, and fail if the actor stays dead."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from rayflow.runtime.actors import base
from rayflow.runtime.actors.base import ActorLost, Reply, RetryingActor
from rayflow.runtime.actors.thread_system import ThreadSystem
from tests.runtime.actors.actors import PATIENCE, Answers, counter, threads


@pytest.fixture
def system() -> Iterator[ThreadSystem]:
    with threads() as made:
        yield made


def test_a_call_that_was_under_way_is_sent_again(system: ThreadSystem) -> None:
    _, actor = counter(system, restart=True)
    found: list[object] = []
    thread = threading.Thread(target=lambda: found.append(RetryingActor(system, "a").call("hold")))
    thread.start()
    assert actor.reached.wait(PATIENCE)
    system.kill("a", restart=True)
    successor = type(actor).made[-1]
    assert successor is not actor
    successor.gate.set()
    thread.join(PATIENCE)
    assert found == ["held"]


def test_an_actor_that_is_found_a_moment_later(system: ThreadSystem, monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []

    def sleep(seconds: float) -> None:
        waited.append(seconds)
        if len(waited) == 3:
            counter(system)

    monkeypatch.setattr(base, "sleep", sleep)
    assert RetryingActor(system, "a").call("add", 2) == 2
    assert waited == [base.RETRY_DELAY] * 3


def test_patience_begins_with_the_first_failure(system: ThreadSystem, monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([100.0, 100.5, 101.0])  # of the first failure, and of each look whether it lasts too long
    monkeypatch.setattr(base, "monotonic", lambda: next(times))
    monkeypatch.setattr(base, "sleep", lambda seconds: counter(system))
    assert RetryingActor(system, "a").call("add", 2) == 2
    assert list(times) == [101.0], "what came before the failure is not counted"


def test_who_is_not_waited_for_any_more_waits_for_nobody(system: ThreadSystem) -> None:
    began = time.monotonic()
    with pytest.raises(ActorLost):
        RetryingActor(system, "a", lambda: True).call("add", 2)
    assert time.monotonic() - began < base.RETRY_FOR / 2


def test_patience_ends(system: ThreadSystem, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "RETRY_FOR", 0.2)
    with pytest.raises(ActorLost, match="no actor has that name"):
        RetryingActor(system, "a").call("add", 2)


def test_an_error_of_the_method_is_no_reason_to_call_it_again(system: ThreadSystem) -> None:
    _, actor = counter(system)
    with pytest.raises(ValueError, match="no"):
        RetryingActor(system, "a").call("fail", ValueError("no"))
    with pytest.raises(ActorLost, match="another"):
        RetryingActor(system, "a").call("fail", ActorLost("another"))
    assert RetryingActor(system, "a").call("add", 1) == actor.count == 1


def test_what_is_sent_is_sent_once(system: ThreadSystem) -> None:
    answers = Answers()
    RetryingActor(system, "a").send("add", 2, then=answers)
    assert [type(reply.error) for reply in answers.wait()] == [ActorLost]
    RetryingActor(system, "a").send("add", 2)  # the error is dropped
    counter(system)
    RetryingActor(system, "a").send("add", 2, then=answers)
    assert answers.wait(2)[1] == Reply(value=2)
