"""A worker that has reached its task limit: the pool is notified, and new batches are refused."""

from __future__ import annotations

import queue

import pytest

from rayflow.runtime.messages import BatchReply
from rayflow.runtime.worker import actor as worker_module
from tests.runtime.worker import worker_steps as steps
from tests.runtime.worker.worker_harness import bench, reach, value
from tests.runtime.worker.worker_steps import PATIENCE, STAGE


def test_the_pool_is_told_once_and_what_is_here_goes_on() -> None:
    with bench(1, max_tasks=2, name="rayflow:worker:default:env-1-abc") as one:
        tasks = [one.task(steps.double, 1), one.task(steps.wait_at, "a"), one.task(steps.double, 2)]
        pending = one.send(*tasks)
        reach("a")
        assert one.worn.get(timeout=PATIENCE) == "env-1-abc"
        STAGE.gate("a").opened.set()
        assert [value(outcome) for outcome in pending.reply().outcomes] == [2, "a", 4]
        one.system.find("pool").call("worn", "nobody")
        assert one.worn.get(timeout=PATIENCE) == "nobody", "nothing was said in between"


def test_a_pool_that_sends_more_is_told_again() -> None:
    with bench(2, max_tasks=1) as two:
        assert two.result(steps.double, 1) == 2
        assert two.worn.get(timeout=PATIENCE) == "w1"
        assert two.run(two.task(steps.double, 2)) == BatchReply(refused="busy")
        assert two.worn.get(timeout=PATIENCE) == "w1"
        assert STAGE.ran == [1]


def test_a_pool_that_is_away_costs_no_task(monkeypatch: pytest.MonkeyPatch) -> None:
    said: queue.SimpleQueue[str] = queue.SimpleQueue()
    monkeypatch.setattr(worker_module.log, "info", lambda words, *args: said.put(words % args))
    with bench(1, max_tasks=1) as one:
        one.system.kill("pool")
        assert one.result(steps.double, 1) == 2
        assert said.get(timeout=PATIENCE).startswith(
            "worker w1 cannot report that it has to be replaced: actor 'pool' is dead"
        )
