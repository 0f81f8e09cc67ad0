"""Heartbeats: the first one at once, then one now and then, always with the newest progress."""

from __future__ import annotations

import math
import queue
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from rayflow.runtime.actors.thread_system import ThreadSystem
from rayflow.runtime.worker import reporter as reporter_module
from rayflow.runtime.worker.heartbeat import Heartbeat, HeartbeatRecorder
from tests.runtime.worker import worker_steps as steps
from tests.runtime.worker.worker_harness import CODEC, Bench, bench, reach
from tests.runtime.worker.worker_steps import PATIENCE, STAGE


@pytest.fixture
def one(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    """A worker with one slot, which brings no lines: beats do not wait for that."""
    monkeypatch.setattr(reporter_module, "LINES_AFTER", 3600.0)
    with bench(1) as made:
        yield made


# --- how many go out ----------------------------------------------------------------------------------------
def text(value: Any) -> bytes:
    return str(value).encode()


def test_at_most_one_goes_out_in_a_time_with_the_newest_progress() -> None:
    woken: list[None] = []
    beats = HeartbeatRecorder(10.0, text, lambda: woken.append(None))
    assert (beats.due, beats.take(0.0)) == (math.inf, None)
    beats.beat(1)
    assert beats.due < 0.0, "the first one goes out at once"
    assert beats.take(100.0) == Heartbeat(b"1")
    for value in (2, 3, None):
        beats.beat(value)
    assert (beats.due, beats.take(109.9)) == (110.0, None)
    assert beats.take(110.0) == Heartbeat(b"3"), "to be alive takes nothing back of the progress"
    assert (beats.due, beats.take(999.0)) == (math.inf, None)
    beats.beat()
    assert beats.take(999.0) == Heartbeat(None)
    assert len(woken) == 3, "throttled ones wake nobody"


def test_that_the_code_is_done_goes_out_at_once_with_the_newest_progress() -> None:
    beats = HeartbeatRecorder(10.0, text, lambda: None)
    beats.beat(1)
    assert beats.take(0.0) == Heartbeat(b"1")
    beats.beat(2)
    assert beats.take(1.0) is None
    beats.ran()
    assert beats.take(1.0) == Heartbeat(b"2", ran=True)
    beats.ran()
    assert beats.take(1.0) is None, "it is said once"
    beats.beat(3)  # from a thread of the step that still runs
    assert beats.take(11.0) == Heartbeat(b"3", ran=True)
    beats = HeartbeatRecorder(10.0, text, lambda: None)
    beats.ran()
    beats.beat(1)
    assert beats.take(0.0) == Heartbeat(b"1", ran=True)


# --- from a step to its coordinator -------------------------------------------------------------------------
def test_the_first_beat_is_heard_while_the_step_runs(one: Bench) -> None:
    task = one.task(steps.beat_and_wait, [{"done": 1}], "a", [], "b", attempt=2, epoch=5, beat_every=3600.0)
    pending = one.send(task)
    assert one.beats.get(timeout=PATIENCE) == (("e1", task.seq, 2), 5, Heartbeat(CODEC.encode({"done": 1})))
    assert not pending.answered
    for gate in "ab":
        STAGE.gate(gate).opened.set()
    assert pending.reply().outcomes[0].failure is None


def test_what_was_held_back_is_heard_although_nothing_follows(one: Bench) -> None:
    pending = one.send(one.task(steps.beat_and_wait, [0], "a", [*range(1, 100), None], "b", beat_every=0.02))
    assert one.heartbeat() == 0
    STAGE.gate("a").opened.set()
    reach("b")
    heard = [0]
    while heard[-1] != 99:
        heard.append(one.heartbeat())
    assert heard == sorted(heard)
    assert len(heard) < 50
    STAGE.gate("b").opened.set()
    pending.reply()


def test_an_async_step_beats_without_progress(one: Bench) -> None:
    pending = one.send(one.task(steps.beat_on_the_loop, "a"))
    assert one.heartbeat() is None
    STAGE.gate("a").opened.set()
    pending.reply()


def test_each_of_two_steps_is_heard() -> None:
    with bench(2) as two:
        tasks = [two.task(steps.beat_and_wait, [gate], gate, [], "end", beat_every=3600.0) for gate in "ab"]
        pending = [two.send(task) for task in tasks]
        assert {two.heartbeat(), two.heartbeat()} == {"a", "b"}
        for gate in ("a", "b", "end"):
            STAGE.gate(gate).opened.set()
        for sent in pending:
            sent.reply()


def test_a_progress_that_cannot_be_written_is_the_steps_own_error(one: Bench) -> None:
    said = one.result(steps.beat_a_lock)
    assert said.startswith("CodecError: cannot write ")
    assert '["held"]' in said


# --- nobody there -------------------------------------------------------------------------------------------
def test_a_coordinator_that_is_gone_is_logged(one: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    said: queue.SimpleQueue[str] = queue.SimpleQueue()
    monkeypatch.setattr(reporter_module.log, "info", lambda words, *args: said.put(words % args))
    one.system.kill("coordinator")
    pending = one.send(one.task(steps.beat_on_the_loop, "a"))
    assert said.get(timeout=PATIENCE).startswith("step beat_on_the_loop of e1 has no coordinator to report to: ")
    STAGE.gate("a").opened.set()
    assert pending.reply().outcomes[0].failure is None


def test_trouble_with_one_beat_does_not_silence_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    said: queue.SimpleQueue[str] = queue.SimpleQueue()
    monkeypatch.setattr(reporter_module.log, "exception", lambda words, *args: said.put(words % args))
    trouble = threading.Event()

    class Troubled(ThreadSystem):
        def known(self, name: str) -> Any:
            if name == "coordinator" and not trouble.is_set():
                trouble.set()
                raise OSError("no route")
            return super().known(name)

    with bench(1, system=Troubled()) as one:
        pending = one.send(one.task(steps.beat_and_wait, [1], "a", [2], "b", beat_every=0.02))
        assert said.get(timeout=PATIENCE) == "cannot report step beat_and_wait of e1 to coordinator"
        STAGE.gate("a").opened.set()
        assert one.heartbeat() == 2
        STAGE.gate("b").opened.set()
        pending.reply()
