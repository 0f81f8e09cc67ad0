"""The deterministic loop, trap by trap, as the protocol's table lists them."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest

from rayflow.core.execution.actions import RunAttempt
from rayflow.core.interpreter.event_loop import DurableLoop
from tests.core.fake import Shell, Told, failure, run, stub, sweep

one = stub("one")
two = stub("two")
undo = stub("undo")


def first_argument(attempt: RunAttempt) -> Any:
    return attempt.call.args[0] if attempt.call.args else None


def bare_loop() -> DurableLoop:
    return DurableLoop(execution=None, name="e", on_unhandled=Told())  # type: ignore[abstract]


# --- the running loop -----------------------------------------------------------------------------------------
def test_it_does_not_run_inside_another_loop() -> None:
    async def flow() -> None: ...

    shell = Shell(flow)

    async def outside() -> None:
        with pytest.raises(RuntimeError, match="run it in a separate thread"):
            shell.begin()
        shell.execution.evict()

    asyncio.run(outside())


def test_it_runs_in_a_thread_while_another_loop_runs_in_this_one() -> None:
    async def flow() -> Any:
        return await asyncio.gather(one(1), one(2))

    async def outside() -> Any:
        return await asyncio.to_thread(lambda: run(flow, first_argument).result)

    assert asyncio.run(outside()) == [1, 2]


# --- sets ------------------------------------------------------------------------------------------------------
def test_a_task_group_aborts_in_the_order_of_creation() -> None:
    async def member(number: int) -> None:
        try:
            await one(number)
        finally:
            await undo(number)

    async def flow() -> None:
        with contextlib.suppress(BaseExceptionGroup):
            async with asyncio.TaskGroup() as group:
                for number in range(40):
                    group.create_task(member(number))
                await two()

    def answer(attempt: RunAttempt) -> Any:
        return failure() if attempt.call.name == "two" else None

    shell = Shell(flow).begin().fail("two")
    assert shell.journal[1].dropped == tuple(range(2, 42))
    assert [attempt.call.args[0] for attempt in shell.running.values()] == list(range(40))
    assert [attempt.call.name for attempt in shell.running.values()] == ["undo"] * 40
    sweep(shell.finish(), answer)


def futures_of_gather() -> set[asyncio.Future[Any]]:
    return {asyncio.gather(one(number)) for number in range(20)}


def tasks() -> set[asyncio.Task[Any]]:
    return {asyncio.create_task(one(number)) for number in range(20)}


@pytest.mark.parametrize("make", [tasks, futures_of_gather])
def test_sets_of_tasks_and_of_what_gather_answers_have_the_same_order_in_each_run(make: Callable[[], Any]) -> None:
    async def flow() -> list[Any]:
        done, _ = await asyncio.wait(make())
        return [future.result() for future in done]

    results = []
    kept = []
    for size in (1, 1000, 77):
        kept.append([object() for _ in range(size)])  # moves what is allocated next
        results.append(run(flow, first_argument).result)
    assert results[0] == results[1] == results[2]
    sweep(run(flow, first_argument), first_argument)


def test_what_gather_answers_hashes_as_ever_on_another_loop() -> None:
    bare_loop()

    async def outside() -> bool:
        gathered = asyncio.gather(asyncio.sleep(0), asyncio.sleep(0))
        same = hash(gathered) == hash(gathered) == object.__hash__(gathered)
        await gathered
        return same

    assert asyncio.run(outside())


# --- never settling --------------------------------------------------------------------------------------------
def test_polling_is_an_error() -> None:
    async def flow() -> None:
        await one()
        while True:  # noqa: ASYNC110 - which it should not
            await asyncio.sleep(0)

    ended = Shell(flow, budget=1000).begin().complete("one")
    assert ended.failure.matches("rayflow.errors.WorkflowStalled")
    assert "after 1,000 callbacks for one event: it polls" in ended.failure.message
    assert ended.restored(entries=2).execution.outcome == ended.execution.outcome


def test_a_cancellation_that_is_swallowed_again_and_again_is_an_error() -> None:
    async def flow() -> None:
        task = asyncio.current_task()
        assert task is not None

        def deliver() -> None:
            task.cancel()
            asyncio.get_running_loop().call_soon(deliver)

        deliver()
        while True:
            try:
                await one()
            except asyncio.CancelledError:
                continue

    ended = Shell(flow, budget=1000).begin()
    assert "swallows its cancellation" in ended.failure.message
    assert ended.running == {}


def test_the_budget_is_for_one_event() -> None:
    async def flow() -> int:
        for _ in range(50):
            await one()
        return 1

    assert run(flow, budget=20).result == 1


# --- exits -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("leave", [SystemExit, KeyboardInterrupt])
def test_leaving_the_process_is_a_failure_of_the_workflow(leave: type[BaseException]) -> None:
    async def flow() -> None:
        await one()
        raise leave

    ended = run(flow)
    assert ended.failure.type == leave.__name__
    assert ended.told.messages == []
    sweep(ended)


def test_leaving_the_process_in_a_task_reaches_who_waits_for_it() -> None:
    async def leaving() -> None:
        await one()
        sys.exit(4)

    async def flow() -> str:
        try:
            await asyncio.gather(leaving())
        except SystemExit as stop:
            return f"caught {stop.code}"
        return "not reached"

    assert run(flow).result == "caught 4"


def test_leaving_the_process_in_a_callback_is_told() -> None:
    async def flow() -> str:
        asyncio.get_running_loop().call_soon(sys.exit, 5)
        await one()
        return "goes on"

    ended = run(flow)
    assert ended.result == "goes on"
    assert ended.told.messages == ["SystemExit in a callback of a workflow: 5"]


def test_an_exception_in_a_callback_is_told() -> None:
    def broken() -> None:
        raise ValueError("broken")

    async def flow() -> None:
        asyncio.get_running_loop().call_soon(broken)

    ended = run(flow)
    assert len(ended.told.messages) == 1
    assert "broken" in ended.told.messages[0]


# --- contexts and names ----------------------------------------------------------------------------------------
def test_context_variables_of_the_coordinator_do_not_leak_in() -> None:
    variable = contextvars.ContextVar("variable", default="default")

    async def child() -> str:
        await one()
        return variable.get()

    async def flow() -> list[str]:
        seen = [variable.get(), await child(), *await asyncio.gather(child())]
        await asyncio.sleep(1)
        return [*seen, variable.get()]

    variable.set("coordinator")
    assert run(flow).result == ["default"] * 4


def test_context_variables_work_inside() -> None:
    variable = contextvars.ContextVar("variable", default="default")

    async def child() -> str:
        before = variable.get()
        variable.set("child")
        await one()
        return before

    async def flow() -> list[str]:
        variable.set("flow")
        return [await asyncio.create_task(child()), variable.get()]

    assert run(flow).result == ["flow", "flow"]


def test_tasks_have_names_of_their_execution() -> None:
    async def name() -> str:
        task = asyncio.current_task()
        assert task is not None
        return task.get_name()

    async def flow() -> list[str]:
        made = [asyncio.create_task(name()), asyncio.create_task(name(), name="mine")]
        return [await name(), *await asyncio.gather(*made)]

    names = run(flow).result
    assert names[0] == "e/1"
    assert names[1].startswith("e/")
    assert names[2] == "mine"
    assert run(flow).result == names


# --- the rest of a loop ----------------------------------------------------------------------------------------
def test_a_loop_answers_what_asyncio_asks() -> None:
    async def flow() -> list[Any]:
        running = asyncio.get_running_loop()
        running.set_debug(True)
        return [running.get_debug(), running.is_running(), running.is_closed(), running.get_task_factory()]

    assert run(flow).result == [False, True, False, None]


def test_the_default_exception_handler_tells() -> None:
    async def flow() -> None:
        asyncio.get_running_loop().default_exception_handler({"message": "odd"})
        asyncio.get_running_loop().call_exception_handler({})

    assert run(flow).told.messages == ["odd", "unhandled error in a workflow"]


def test_many_cancelled_timers_leave_nothing_behind() -> None:
    async def flow() -> list[int]:
        running = asyncio.get_running_loop()
        assert isinstance(running, DurableLoop)
        for _ in range(1000):
            await asyncio.wait_for(one(), 86_400)
        return [len(running._timers), len(running._heap), len(running._tasks)]

    timers, heap, kept = run(flow).result
    assert timers == 0
    assert heap < 200
    assert kept < 200


def test_timers_fire_by_time_and_ties_by_their_number() -> None:
    fired: list[str] = []

    async def flow() -> list[str]:
        running = asyncio.get_running_loop()
        for name, delay in (("late", 2.0), ("first", 1.0), ("second", 1.0)):
            running.call_later(delay, fired.append, name)
        cancelled = running.call_later(1.0, fired.append, "cancelled")
        cancelled.cancel()
        cancelled.cancel()
        await asyncio.sleep(3)
        return list(fired)

    ended = run(flow)
    assert ended.result == ["first", "second", "late"]
    assert [event.at for event in ended.events[1:-1]] == [1001.0, 1001.0, 1002.0, 1003.0]


def test_a_timer_that_is_cancelled_while_it_fires_does_not_run() -> None:
    async def flow() -> str:
        running = asyncio.get_running_loop()
        second = running.call_later(1, sys.exit)
        running.call_later(1, lambda: None)
        running.call_at(running.time() + 0.5, second.cancel)
        await asyncio.sleep(2)
        return "done"

    assert run(flow).result == "done"


def test_nothing_is_left_of_a_dead_loop() -> None:
    dead = bare_loop()
    dead.evict()
    assert dead.is_closed()
    dead.call_soon(sys.exit)
    dead.call_later(1, sys.exit)
    dead.drain()
    assert dead.next_timer() is None


def test_what_threads_do_meanwhile_is_none_of_its_business() -> None:
    done = []

    async def flow() -> str:
        await one()
        return "done"

    thread = threading.Thread(target=lambda: done.append(asyncio.run(asyncio.sleep(0, "other"))))
    shell = Shell(flow).begin()
    thread.start()
    shell.finish()
    thread.join()
    assert done == ["other"]
