"""Plain asyncio is durable: each primitive, run to its end, and again from a crash after each entry."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from typing import Any

import pytest

import rayflow as rf
from rayflow.core.execution.actions import RunAttempt
from rayflow.errors import StepFailed, StepTimeout
from tests.core.fake import Flow, Shell, failure, run, stub, sweep

one = stub("one")
two = stub("two")
undo = stub("undo")


def echo(attempt: RunAttempt) -> Any:
    if attempt.call.name == "two":
        return failure("two fails")
    return attempt.call.args[0] if attempt.call.args else None


def outcome(flow: Flow) -> Any:
    ended = run(flow, echo)
    sweep(ended, echo)
    assert ended.told.messages == []
    return ended.result


def test_gather_answers_in_the_order_of_its_arguments() -> None:
    async def flow() -> Any:
        return await asyncio.gather(one(1), one(2), one(3))

    shell = Shell(flow).begin()
    for value in (3, 1, 2):
        run_of = next(attempt for attempt in shell.running.values() if attempt.call.args == (value,))
        del shell.running[run_of.seq]
        shell.running = {run_of.seq: run_of, **shell.running}
        shell.complete("one", value)
    assert shell.result == [1, 2, 3]


def test_gather_with_exceptions_as_results() -> None:
    async def flow() -> list[str]:
        answers = await asyncio.gather(one(1), two(), one(3), return_exceptions=True)
        return [repr(type(answer).__name__) for answer in answers]

    assert outcome(flow) == ["'int'", "'StepFailed'", "'int'"]


def test_a_failure_in_gather_leaves_the_others_running_until_the_end() -> None:
    async def flow() -> str:
        try:
            await asyncio.gather(two(), one(1))
        except StepFailed as error:
            return str(error)
        return "not reached"

    ended = run(flow, echo)
    assert ended.result == "step 'two' failed after 1 attempt: ValueError: two fails"
    assert ended.stopped == [(2, 1)]
    sweep(ended, echo)


def test_task_group() -> None:
    async def flow() -> Any:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one(number)) for number in range(3)]
        return [task.result() for task in tasks]

    assert outcome(flow) == [0, 1, 2]


def test_task_group_failure_gives_up_the_others() -> None:
    async def flow() -> str:
        failed: list[str] = []
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(two())
                group.create_task(one(1))
        except* StepFailed as several:
            failed.extend(str(error) for error in several.exceptions)
        return " and ".join(failed)

    ended = run(flow, echo)
    assert ended.result == "step 'two' failed after 1 attempt: ValueError: two fails"
    assert ended.journal[1].dropped == (2,)
    assert ended.stopped == [(2, 1)]
    sweep(ended, echo)


def test_timeout_gives_the_step_up() -> None:
    async def flow() -> str:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(30):
                await one(1)
        return "gave up"

    shell = Shell(flow).begin().wake()
    assert shell.now == 1030.0
    assert shell.result == "gave up"
    assert shell.stopped == [(1, 1)]


def test_timeout_in_time_and_rescheduled() -> None:
    async def flow() -> Any:
        async with asyncio.timeout(30) as scope:
            first = await one(1)
            scope.reschedule(asyncio.get_running_loop().time() + 100)
            await asyncio.sleep(60)
            return [first, await one(2), rf.now()]

    assert outcome(flow) == [1, 2, 1060.0]


def test_wait_for_in_time_late_and_at_once() -> None:
    async def flow() -> list[Any]:
        seen: list[Any] = [await asyncio.wait_for(one(1), 10)]
        for limit in (5, 0, -1):
            try:
                await asyncio.wait_for(asyncio.sleep(10), limit)
            except TimeoutError:
                seen.append(rf.now())
        try:
            seen.append(await asyncio.wait_for(one(2), 0))
        except TimeoutError:
            seen.append("step not awaited")
        return seen

    assert outcome(flow) == [1, 1005.0, 1005.0, 1005.0, "step not awaited"]


def test_sleep_is_durable_and_exact() -> None:
    async def flow() -> list[float]:
        seen = []
        for seconds in (86_400, 0.25, 0, -1):
            await asyncio.sleep(seconds)
            seen.append(rf.now())
        return seen

    assert outcome(flow) == [87_400.0, 87_400.25, 87_400.25, 87_400.25]


def test_queue() -> None:
    async def flow() -> list[int]:
        queue: asyncio.Queue[int | None] = asyncio.Queue(maxsize=2)
        found = []

        async def produce() -> None:
            for number in range(6):
                await queue.put(await one(number))
            await queue.put(None)

        async def consume() -> None:
            while (number := await queue.get()) is not None:
                found.append(await one(number * 10))
                queue.task_done()

        await asyncio.gather(produce(), consume())
        return found

    assert outcome(flow) == [0, 10, 20, 30, 40, 50]


def test_semaphore_bounds_what_is_under_way() -> None:
    async def flow() -> Any:
        limit = asyncio.Semaphore(2)

        async def bounded(number: int) -> Any:
            async with limit:
                return await one(number)

        return await asyncio.gather(*(bounded(number) for number in range(5)))

    assert len(Shell(flow).begin().running) == 2
    assert outcome(flow) == [0, 1, 2, 3, 4]


def test_event_condition_lock_and_barrier() -> None:
    async def flow() -> list[str]:
        event, condition, lock, barrier = asyncio.Event(), asyncio.Condition(), asyncio.Lock(), asyncio.Barrier(2)
        seen: list[str] = []

        async def waits() -> None:
            await event.wait()
            seen.append("event")
            async with condition:
                await condition.wait_for(lambda: len(seen) > 1)
            seen.append("condition")
            async with lock:
                seen.append("lock")
            await barrier.wait()

        waiting = asyncio.create_task(waits())
        async with lock:
            await one(1)
            event.set()
            await one(2)
            async with condition:
                seen.append("notified")
                condition.notify_all()
            await one(3)
            seen.append("unlocking")
        await barrier.wait()
        await waiting
        return seen

    assert outcome(flow) == ["event", "notified", "condition", "unlocking", "lock"]


def test_wait_for_the_first_and_cancel_the_rest() -> None:
    async def flow() -> Any:
        tasks = [asyncio.create_task(one(number)) for number in range(3)]
        done, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in pending:
            task.cancel()
        await asyncio.wait(pending)
        return [task.result() for task in done]

    ended = run(flow, echo)
    assert ended.result == [0]
    assert ended.stopped == [(2, 1), (3, 1)]
    sweep(ended, echo)


def test_shielded_clean_up_survives_its_cancellation() -> None:
    async def clean() -> str:
        await undo()
        await undo()
        return "clean"

    async def guarded() -> None:
        try:
            await one(1)
        finally:
            cleaning = asyncio.ensure_future(clean())
            while not cleaning.done():  # as anyio's shielded scopes do, cancelled again or not
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.shield(cleaning)

    async def flow() -> str:
        task = asyncio.create_task(guarded())
        await asyncio.sleep(1)
        task.cancel()
        await asyncio.sleep(1)
        task.cancel()
        await asyncio.wait([task])
        return "done"

    shell = Shell(flow).begin().wake().wake()
    assert [attempt.call.name for attempt in shell.running.values()] == ["undo"]
    shell.finish()
    assert shell.result == "done"
    assert [name for name, _ in shell.started] == ["one", "undo", "undo"]


def test_what_the_workflow_leaves_running_is_cancelled_and_cleans_up() -> None:
    async def left() -> None:
        try:
            await one(1)
        finally:
            follow = asyncio.create_task(left_by_the_left())
            await undo("first")
            assert not follow.done()

    async def left_by_the_left() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await undo("second")

    tasks = []

    async def flow() -> str:
        tasks.append(asyncio.create_task(left()))
        await asyncio.sleep(1)
        return "done"

    shell = Shell(flow).begin().wake()
    assert [attempt.call.args for attempt in shell.running.values()] == [("first",), ("second",)]
    shell.finish()
    assert shell.result == "done"
    assert shell.stopped == [(1, 1)]


def test_what_is_left_running_is_cancelled_in_the_order_of_its_creation() -> None:
    async def left(number: int) -> None:
        try:
            await one(number)
        finally:
            await undo(number)

    tasks: list[asyncio.Task[None]] = []

    async def flow() -> str:
        tasks.extend(asyncio.create_task(left(number)) for number in range(5))
        await asyncio.sleep(1)
        return "done"

    shell = Shell(flow).begin().wake()
    assert [attempt.call.args for attempt in shell.running.values()] == [(number,) for number in range(5)]
    assert shell.finish().result == "done"


@pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks came with 3.12")
@pytest.mark.parametrize("factory", [True, False])
def test_eager_tasks(factory: bool) -> None:  # noqa: FBT001 - a parameter of the test
    order: list[str] = []

    async def child(name: str) -> Any:
        order.append(name)
        return await one(name)

    async def flow() -> Any:
        del order[:]
        running = asyncio.get_running_loop()
        if factory:
            running.set_task_factory(getattr(asyncio, "eager_task_factory"))  # noqa: B009 - 3.11 does not have it
            assert running.get_task_factory() is not None
            made = [asyncio.create_task(child(name)) for name in "ab"]
        else:
            made = [asyncio.create_task(child("a")), asyncio.create_task(child("b"))]
        order.append("made")
        done = asyncio.create_task(asyncio.sleep(0, "at once"))
        running.set_task_factory(None)
        return [*await asyncio.gather(*made), await done, *order]

    expected = ["a", "b", "made"] if factory else ["made", "a", "b"]
    assert outcome(flow) == ["a", "b", "at once", *expected]


def test_a_step_that_timed_out_raises_a_timeout() -> None:
    async def flow() -> list[str]:
        try:
            await one(1)
        except TimeoutError as error:
            return [type(error).__name__, error.failure.message, str(error.attempts), str(error.seq)]  # type: ignore[attr-defined]
        return []

    late = failure("too slow", cls=StepTimeout)
    assert run(flow, lambda attempt: late).result == ["StepTimeout", "too slow", "1", "1"]


def test_random_numbers_uuids_and_the_time_are_the_executions_own() -> None:
    async def flow() -> list[Any]:
        numbers = [rf.random().random(), str(rf.uuid4()), rf.now()]
        await asyncio.sleep(1.5)
        return [*numbers, rf.random().randint(0, 1000), str(rf.uuid4()), rf.now()]

    first = outcome(flow)
    assert first == run(flow).result
    assert (first[2], first[5]) == (1000.0, 1001.5)
    assert first[1] != first[4]
