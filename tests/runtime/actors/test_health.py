"""Hung actors are found and reported."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from rayflow.runtime.actors.base import ActorSpec, ActorSystem, ActorUnavailable, call_all
from rayflow.runtime.actors.health import HealthMonitor, restarting_monitor
from rayflow.runtime.actors.thread_system import ThreadSystem
from tests.runtime.actors.actors import PATIENCE, threads

SHORT = 0.05


class Pinged:
    """Answers, keeps still, or says that something is wrong."""

    made = 0

    def __init__(self, system: ActorSystem, how: str, gate: threading.Event) -> None:
        type(self).made += 1
        self._how = how
        self._gate = gate

    def ping(self) -> bool:
        if self._how == "hangs":
            self._gate.wait(PATIENCE)
        if self._how == "broken":
            raise ValueError("my thread has ended")
        if self._how == "away":
            raise ActorUnavailable("it")
        return True


class Bench:
    """An actor system, and the one thread on which pings are handled: the test's."""

    def __init__(self, system: ThreadSystem) -> None:
        self.system = system
        self.gate = threading.Event()
        self.posted: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self.failed: list[tuple[str, str]] = []
        self.gone: list[str] = []

    def spawn(self, how: str) -> str:
        self.system.spawn(ActorSpec(Pinged, how, (how, self.gate), groups={"control": 2}, restart=how == "hangs"))
        return how

    def pings(self, patience: float = PATIENCE) -> HealthMonitor:
        return HealthMonitor(
            self.system, patience, self.posted.put, lambda *about: self.failed.append(about), self.gone.append
        )

    def take(self) -> None:
        self.posted.get(timeout=PATIENCE)()


@pytest.fixture
def bench() -> Iterator[Bench]:
    with threads() as system:
        bench = Bench(system)
        yield bench
        bench.gate.set()


def test_who_answers_is_asked_again_and_nothing_is_said(bench: Bench) -> None:
    pings, name = bench.pings(), bench.spawn("fine")
    for _ in range(3):
        pings.ping(name)
        bench.take()
    assert (bench.failed, bench.gone, pings.silent()) == ([], [], {})


def test_who_does_not_answer_fails_once_and_finds_one_question_when_it_goes_on(bench: Bench) -> None:
    pings, name = bench.pings(SHORT), bench.spawn("hangs")
    give_up = time.monotonic() + PATIENCE
    while not bench.failed and time.monotonic() < give_up:
        pings.ping(name)
    [(who, why)] = bench.failed
    assert (who, why.startswith("no reply to a ping for 0.")) == (name, True)
    pings.check()
    assert len(bench.failed) == 1
    bench.gate.set()
    bench.take()  # the reply to a ping that is no longer expected
    assert len(bench.failed) == 1


def test_who_knows_that_it_is_broken_fails_at_once(bench: Bench) -> None:
    bench.pings().ping(bench.spawn("broken"))
    bench.take()
    assert bench.failed == [("broken", "it is broken: my thread has ended")]


def test_who_is_gone_is_said_to_be(bench: Bench) -> None:
    bench.pings().ping("nobody")
    bench.take()
    assert (bench.gone, bench.failed) == (["nobody"], [])


def test_who_cannot_be_reached_is_silent_though_each_question_is_answered_at_once(bench: Bench) -> None:
    pings, name = bench.pings(SHORT), bench.spawn("away")
    give_up = time.monotonic() + PATIENCE
    while not bench.failed and time.monotonic() < give_up:
        pings.ping(name)
        bench.take()
    assert [who for who, _ in bench.failed] == [name]


def test_an_answer_counts_from_its_arrival_though_its_owner_is_busy(bench: Bench) -> None:
    pings, name = bench.pings(SHORT), bench.spawn("fine")
    pings.ping(name)
    bench.posted.get(timeout=PATIENCE)  # it has arrived, and its turn does not come
    began = time.monotonic()
    while time.monotonic() < began + 3 * SHORT:
        pings.check()
    assert (bench.failed, pings.silent()) == ([], {})


def test_an_owner_that_did_not_listen_takes_nobody_for_hung_at_once(bench: Bench) -> None:
    pings, name = bench.pings(SHORT), bench.spawn("hangs")
    pings.ping(name)
    time.sleep(3 * SHORT)  # it is stopped itself
    pings.check()
    assert bench.failed == []
    give_up = time.monotonic() + PATIENCE
    while not bench.failed and time.monotonic() < give_up:
        pings.check()
    assert [who for who, _ in bench.failed] == [name]


def test_one_that_is_made_anew_is_killed_when_it_hangs_and_left_alone_while_it_cannot_be_reached(bench: Bench) -> None:
    pings = restarting_monitor(bench.system, SHORT, bench.posted.put)
    away = bench.spawn("away")
    began = time.monotonic()
    while time.monotonic() < began + 3 * SHORT:
        pings.ping(away)
        bench.take()
    assert pings.silent() == {}
    hangs = bench.spawn("hangs")
    made = Pinged.made
    give_up = time.monotonic() + PATIENCE
    while Pinged.made == made and time.monotonic() < give_up:
        pings.ping(hangs)
    assert Pinged.made > made


def test_many_are_asked_at_once_and_those_that_answer_in_time_are_told(bench: Bench) -> None:
    names = [bench.spawn(how) for how in ("fine", "hangs", "broken")]
    found = call_all(bench.system, [*names, "nobody"], "ping", timeout=0.3, group="control")
    assert found["fine"].value is True
    assert isinstance(found["broken"].error, ValueError)
    assert "nobody" in found
    assert "hangs" not in found
