"""Every attempt, as the journal and the coordinator tell it."""

from __future__ import annotations

import asyncio
from typing import Any

from rayflow.core.execution.retry import WORKER_STOPPED
from rayflow.core.execution.snapshot import TaskStatus, tasks_of
from rayflow.definition.options import ExecutionOptions, RetryPolicy
from tests.core.fake import Shell, failure, stub

one = stub("one")
two = stub("two")
RETRY_ONCE = ExecutionOptions(retry=RetryPolicy(max_retries=1, initial_delay=5, jitter=0))


async def both() -> Any:
    return await asyncio.gather(one(), two())


def told(shell: Shell, *, live: bool = True) -> list[tuple[str, int, str, str]]:
    """Name, attempt, status and worker of each attempt."""
    known = {task.seq: (task, f"w{task.seq}" if task.began else "") for task in shell.execution.live()} if live else {}
    return [(task.name, task.attempt, task.status, task.worker) for task in tasks_of(shell.journal, known)]


def test_what_was_issued_waits_until_it_is_sent() -> None:
    shell = Shell(both).begin().send("two")
    assert told(shell) == [("one", 1, "waiting", ""), ("two", 1, "running", "w2")]
    assert told(shell, live=False) == [("one", 1, "waiting", ""), ("two", 1, "waiting", "")]


def test_ends_come_in_their_order_with_their_times_and_errors() -> None:
    shell = Shell(both, options=RETRY_ONCE).begin().complete("two", 2).pass_time(3).fail("one").wake().send("one")
    done, failed, runs = tasks_of(shell.journal, {1: (shell.execution.live()[0], "w7")})
    assert done == TaskStatus(2, "two", 1, done.status, "w1", 1000.0, 1000.0)
    assert failed == TaskStatus(1, "one", 1, failed.status, "w1", 1003.0, 1003.0, 0, failure())
    assert runs == TaskStatus(1, "one", 2, runs.status, "w7", 1008.0, None, 1, failure())
    assert [task.status for task in (done, failed, runs)] == ["completed", "failed", "running"]


def test_lost_attempts_are_no_retries() -> None:
    shell = Shell(both, options=RETRY_ONCE).begin().lose("one", how=WORKER_STOPPED).fail("one").wake().fail("one")
    tasks = [task for task in tasks_of(shell.journal, {}) if task.name == "one"]
    assert [(task.attempt, task.status, task.retries) for task in tasks] == [
        (1, "lost", 0),
        (2, "failed", 0),
        (3, "failed", 1),
    ]


def test_a_step_that_nobody_waits_for_any_more_was_dropped() -> None:
    shell = Shell(both).begin().complete("one", 1).cancel()
    assert told(shell) == [("one", 1, "completed", "w1"), ("two", 1, "dropped", "")]


def test_a_rewind_takes_back_what_followed_the_failure() -> None:
    shell = Shell(both, options=RETRY_ONCE).begin().fail("one").wake().fail("one").rewound()
    assert told(shell, live=False) == [("one", 1, "failed", "w1"), ("one", 2, "waiting", ""), ("two", 1, "waiting", "")]
    assert ("one", 3, "waiting", "") in told(shell)
