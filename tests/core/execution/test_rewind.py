"""A failed execution goes on from the failure that ended it, and nothing that is recorded runs again."""

from __future__ import annotations

import asyncio
from typing import Any

import rayflow as rf
from rayflow.core.events import Ended, Rewound, Started, StepFailed
from rayflow.definition.options import ExecutionOptions, RetryPolicy
from rayflow.errors import StepFailed as StepFailedError
from tests.core.fake import Shell, stub

one = stub("one")
two = stub("two")
three = stub("three")
undo = stub("undo")

RETRYING = ExecutionOptions(retry=RetryPolicy(max_retries=1, initial_delay=10, jitter=0))


def issued_by(shell: Shell) -> list[tuple[str, int]]:
    """What is under way: names and attempts."""
    return [(attempt.call.name, attempt.attempt) for attempt in shell.running.values()]


async def in_turn() -> list[Any]:
    return [await one(), await two(), await three()]


def test_the_failed_step_runs_again_with_fresh_attempts() -> None:
    shell = Shell(in_turn, options=RETRYING).begin().complete("one", 1).fail("two").wake().fail("two")
    assert shell.failure.step == 2
    again = shell.rewound()
    assert issued_by(again) == [("two", 3)]
    again.fail("two").wake()
    assert issued_by(again) == [("two", 4)]
    assert again.complete("two", 2).complete("three", 3).result == [1, 2, 3]


def test_it_can_fail_and_go_on_again() -> None:
    shell = Shell(in_turn).begin().complete("one", 1).fail("two").rewound().fail("two").rewound()
    assert issued_by(shell) == [("two", 3)]
    assert sum(isinstance(event, Rewound) for event in shell.events) == 2
    again = shell.restored()
    assert issued_by(again) == [("two", 3)]
    assert again.complete("two", 2).complete("three", 3).result == [1, 2, 3]


def test_steps_issued_before_that_completed_later_are_not_run_again() -> None:
    async def flow() -> Any:
        answers = await asyncio.gather(one(), two(), three(), return_exceptions=True)
        for answer in answers:
            if isinstance(answer, BaseException):
                raise answer
        return answers

    shell = Shell(flow).begin().fail("two").complete("three", 3).complete("one", 1)
    again = shell.rewound()
    assert issued_by(again) == [("two", 2)]
    assert [event.__class__.__name__ for event in again.events[-2:]] == ["StepCompleted", "StepCompleted"]
    assert again.inbox_done == 2
    assert again.complete("two", 2).result == [1, 2, 3]


def test_carried_results_are_applied_again_after_a_crash_in_between() -> None:
    async def strict() -> Any:
        answers = await asyncio.gather(one(), two(), return_exceptions=True)
        if isinstance(answers[0], Exception):
            raise answers[0]
        return answers

    shell = Shell(strict).begin().fail("one").complete("two", 2)
    again = shell.rewound()
    rewound = next(entry.seq for entry in again.journal if isinstance(entry.event, Rewound))
    between = again.restored(entries=rewound)
    assert issued_by(between) == [("one", 2)]
    assert between.complete("one", 1).result == [1, 2]


def test_what_followed_from_the_failure_is_dropped() -> None:
    async def flow() -> Any:
        try:
            return await one()
        except StepFailedError:
            await undo()
            raise

    shell = Shell(flow).begin().fail("one").complete("undo")
    assert shell.failure.step == 1
    again = shell.rewound()
    assert issued_by(again) == [("one", 2)]
    assert again.complete("one", "fine").result == "fine"


def test_a_failure_of_the_code_goes_on_with_mended_code() -> None:
    async def broken() -> Any:
        first = await one()
        rf.state["seen"] = first
        raise ValueError("a mistake")

    async def mended() -> Any:
        first = await one()
        return [first, await two()]

    shell = Shell(broken).begin().complete("one", 1)
    assert shell.failure.message == "a mistake"
    again = shell.rewound(mended)
    assert issued_by(again) == [("two", 1)]
    assert again.complete("two", 2).result == [1, 2]


def test_a_failure_at_once_starts_anew() -> None:
    async def broken() -> Any:
        raise ValueError("a mistake")

    shell = Shell(broken).begin()
    again = shell.rewound(in_turn)
    assert isinstance(again.events[-1], Started)
    assert again.complete("one", 1).complete("two", 2).complete("three", 3).result == [1, 2, 3]
    unmended = Shell(broken).begin().rewound()
    assert unmended.failure.message == "a mistake"
    assert isinstance(unmended.events[-1], Ended)


def test_a_deadline_that_passed_goes_on_where_it_was() -> None:
    async def flow() -> Any:
        try:
            return [await one(), await two()]
        finally:
            await undo()

    shell = Shell(flow, deadline=1060.0).begin().complete("one", 1).wake().complete("undo")
    assert shell.failure.matches(TimeoutError)
    shell.deadline = 2000.0
    again = shell.rewound()
    assert issued_by(again) == [("two", 1)]
    assert again.execution.next_wake() == 2000.0
    assert again.complete("two", 2).complete("undo").result == [1, 2]


def test_a_failure_in_a_task_group() -> None:
    async def flow() -> Any:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(step()) for step in (one, two, three)]
        return [task.result() for task in tasks]

    shell = Shell(flow).begin().complete("one", 1).fail("two")
    assert shell.failure.type == "ExceptionGroup"
    assert shell.failure.step == 2
    again = shell.rewound()
    assert issued_by(again) == [("two", 2), ("three", 1)]
    assert again.complete("three", 3).complete("two", 2).result == [1, 2, 3]


def test_of_several_failures_in_a_group_all_run_again() -> None:
    async def flow() -> Any:
        answers = await asyncio.gather(one(), two(), three(), return_exceptions=True)
        errors = [answer for answer in answers if isinstance(answer, Exception)]
        if errors:
            raise ExceptionGroup("several", errors)
        return answers

    shell = Shell(flow).begin().fail("three").fail("one").complete("two", 2)
    assert shell.failure.step == 3
    again = shell.rewound()
    assert issued_by(again) == [("one", 2), ("three", 2)]
    assert again.complete("one", 1).complete("three", 3).result == [1, 2, 3]
    assert sum(isinstance(event, StepFailed) for event in again.events) == 2


def test_a_failure_without_checkpoints_starts_anew() -> None:
    shell = Shell(in_turn, options=RETRYING.replace(checkpoints="off", retry=RetryPolicy(max_retries=0)))
    shell.begin().complete("one", 1).fail("two")
    again = shell.rewound()
    assert issued_by(again) == [("one", 1)]
    assert again.complete("one", 1).complete("two", 2).complete("three", 3).result == [1, 2, 3]
