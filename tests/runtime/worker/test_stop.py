"""A worker stops: waiting tasks are returned, running ones may finish, and the rest is lost with it."""

from __future__ import annotations

import threading

import pytest

from rayflow.runtime.messages import BatchReply
from rayflow.runtime.worker import actor as worker_module
from tests.runtime.worker import worker_steps as steps
from tests.runtime.worker.worker_harness import ENOUGH, Bench, ended, keys, reach, value
from tests.runtime.worker.worker_steps import PATIENCE, STAGE


def stop(bench: Bench, drain_timeout: float = 0.0) -> bool:
    return bool(bench.worker.call("stop", drain_timeout, group="control"))


def test_stopping_gives_back_what_waits_and_waits_for_what_runs(two: Bench) -> None:
    tasks = [two.task(steps.wait_at, "a"), two.task(steps.double, 1)]
    pending = two.send(*tasks)
    reach("a")
    watched, drained = threading.Event(), threading.Event()
    two.worker.send("watch", then=lambda reply: watched.set(), group="watch")
    answers: list[object] = []

    def stopped(reply: object) -> None:
        answers.append(reply)
        drained.set()

    two.worker.send("stop", PATIENCE, then=stopped, group="control")
    while two.run(two.task(steps.thread_name)).refused != "busy":  # there is a free slot until it stops
        pass
    assert not watched.is_set()
    STAGE.gate("a").opened.set()
    reply = pending.reply()
    assert (ended(reply), list(reply.not_begun)) == (keys(tasks[0]), keys(tasks[1]))
    assert drained.wait(PATIENCE)
    assert watched.wait(PATIENCE)
    assert getattr(answers[0], "value", None) is True
    assert two.run(two.task(steps.double, 2)) == BatchReply(refused="busy")


@pytest.mark.parametrize("step", [steps.wait_for_ever, steps.until_cancelled, steps.fail_when_told])
def test_what_was_told_to_stop_has_neither_failed_nor_ended(one: Bench, step: object) -> None:
    task = one.task(step, "a")
    pending = one.send(task)
    reach("a")
    assert stop(one) is False
    assert pending.reply() == BatchReply(stopped=(keys(task)[0],))


def test_a_step_cleans_up_before_the_worker_has_stopped(one: Bench) -> None:
    one.send(one.task(steps.wait_for_ever, "a"))
    reach("a")
    stop(one)
    assert STAGE.ran == ["a cleaned up"]


def test_what_does_not_stop_is_given_up(one: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_module, "STOP_GRACE", 0.05)
    task = one.task(steps.wait_at, "a")
    pending = one.send(task)
    reach("a")
    assert stop(one) is False
    assert pending.reply() == BatchReply(stopped=(keys(task)[0],))
    assert not STAGE.gate("a").opened.is_set(), "it was still there"


def test_who_waits_for_the_rest_of_a_batch_is_told_as_well(one: Bench) -> None:
    tasks = [one.task(steps.double, 1), one.task(steps.wait_for_ever, "a")]
    early = one.run(*tasks, patience=ENOUGH, id="b")
    assert (ended(early), early.running) == (keys(tasks[0]), keys(tasks[1])[0])
    waiting = one.collecting("b")
    stop(one)
    lost = BatchReply(stopped=(keys(tasks[1])[0],))
    assert waiting.reply() == lost
    assert one.collect("b") == lost, "the answer may have been lost"


def test_what_ended_before_keeps_its_outcome(one: Bench) -> None:
    tasks = [one.task(steps.double, 1), one.task(steps.wait_for_ever, "a")]
    pending = one.send(*tasks)
    reach("a")
    stop(one)
    reply = pending.reply()
    assert [value(outcome) for outcome in reply.outcomes] == [2]
    assert (reply.running, reply.not_begun, list(reply.stopped)) == (None, (), keys(tasks[1]))


def test_it_can_be_stopped_again(one: Bench) -> None:
    assert stop(one) is True
    assert stop(one, PATIENCE) is True


def test_its_threads_end(one: Bench) -> None:
    assert (one.result(steps.double, 1), one.result(steps.double_slowly, 1)) == (2, 2)
    names = {"w1/slot-0", "w1/async", "w1/reporter"}
    threads = [thread for thread in threading.enumerate() if thread.name in names]
    assert {thread.name for thread in threads} == names
    stop(one)
    for thread in threads:
        thread.join(PATIENCE)
        assert not thread.is_alive(), thread.name
