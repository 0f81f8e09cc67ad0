"""The deterministic loop, trap by trap, as the protocol's table lists them; and all of asyncio that works as it is."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import gc
import subprocess
import sys
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from rayflow.core import loop as loop_module
from rayflow.core.actions import RunAttempt
from rayflow.core.loop import CLOSINGS, DurableLoop, Evicted
from rayflow.definition import api as rf
from rayflow.definition.context import current_execution
from rayflow.errors import WorkflowSideEffect
from rayflow.ids import ExecutionStatus
from tests.core.fake import Shell, Told, failure, run, stub, sweep

ROOT = Path(__file__).parents[2]

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
        with pytest.raises(RuntimeError, match="give it a thread of its own"):
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


def test_as_completed_over_bare_coroutines_is_refused() -> None:
    async def flow() -> None:
        coroutines = [one(number) for number in range(3)]
        try:
            for next_one in asyncio.as_completed(coroutines):
                await next_one
        finally:
            for coroutine in coroutines:
                coroutine.close()

    ended = Shell(flow).begin()
    assert ended.started == []
    assert ended.failure.matches(WorkflowSideEffect)
    assert "asyncio.create_task(c) for c in coros" in ended.failure.message


def test_as_completed_over_tasks_works() -> None:
    async def flow() -> list[int]:
        made = [asyncio.create_task(one(number)) for number in range(3)]
        return [await next_one for next_one in asyncio.as_completed(made)]

    ended = run(flow, first_argument)
    assert ended.result == [0, 1, 2]
    sweep(ended, first_argument)


def test_a_function_of_ones_own_may_be_called_as_completed() -> None:
    async def as_completed() -> Any:
        return await asyncio.create_task(one(1))

    assert run(as_completed, first_argument).result == 1


# --- async generators ------------------------------------------------------------------------------------------
async def numbers() -> AsyncGenerator[int, None]:
    try:
        yield 1
        yield 2
    finally:
        await undo()


def test_an_async_generator_that_issues_a_step_after_the_end_fails_the_workflow_and_names_aclosing() -> None:
    async def flow() -> str:
        async for number in numbers():
            await one(number)
            break
        return "done"

    ended = run(flow)
    assert [name for name, _ in ended.started] == ["one"]
    assert ended.execution.outcome is not None
    assert ended.execution.outcome.status is ExecutionStatus.FAILED
    assert "contextlib.aclosing" in ended.failure.message
    assert len(ended.told.messages) == 1
    assert "numbers" in ended.told.messages[0]
    sweep(ended)


def test_a_workflow_that_failed_anyway_keeps_its_own_failure() -> None:
    async def flow() -> None:
        async for _ in numbers():
            raise ValueError("its own")

    ended = run(flow)
    assert ended.failure.message == "its own"
    assert "contextlib.aclosing" in ended.told.messages[0]


def test_with_aclosing_the_clean_up_of_a_generator_is_durable() -> None:
    async def flow() -> str:
        async with contextlib.aclosing(numbers()) as found:
            async for number in found:
                await one(number)
                break
        return "done"

    ended = run(flow)
    assert ended.started == [("one", 1), ("undo", 1)]
    assert ended.result == "done"
    assert ended.told.messages == []
    sweep(ended)


def test_a_generator_that_waits_in_its_clean_up_after_the_end_is_told_of() -> None:
    async def waiting() -> AsyncIterator[int]:
        try:
            yield 1
        finally:
            await asyncio.sleep(1)

    async def flow() -> str:
        async for _ in waiting():
            break
        return "done"

    ended = run(flow)
    assert ended.result == "done"
    assert len(ended.told.messages) == 1
    assert "waits for something in its clean-up" in ended.told.messages[0]
    assert "contextlib.aclosing" in ended.told.messages[0]


def test_a_generator_that_swallows_its_end_is_kept_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    unending: list[object] = []
    monkeypatch.setattr(loop_module, "_unending", unending)
    free: list[int] = []

    async def stubborn() -> AsyncIterator[int]:
        try:
            yield 1
        finally:
            while not free:
                with contextlib.suppress(Evicted):
                    await asyncio.sleep(1)

    async def flow() -> str:
        async for _ in stubborn():
            break
        return "done"

    ended = run(flow)
    assert ended.result == "done"
    assert [getattr(kept, "__name__", "") for kept in unending] == ["stubborn"]
    free.append(1)  # the garbage collector may have it


def test_the_garbage_collector_does_not_decide_when_a_generator_is_closed() -> None:
    closed = []

    async def generator() -> AsyncIterator[int]:
        try:
            yield 1
        finally:
            closed.append(rf.now())

    async def flow() -> str:
        async for _ in generator():
            break
        gc.collect()
        await one()
        gc.collect()
        assert closed == []
        await asyncio.sleep(5)
        return "done"

    ended = run(flow)
    assert ended.result == "done"
    assert closed == [1005.0]


def test_finished_generators_are_let_go() -> None:
    async def short() -> AsyncIterator[int]:
        yield 1

    async def flow() -> int:
        total = 0
        for _ in range(500):
            async for number in short():
                total += number
        return total + len(loop_of(flow)._generators)

    def loop_of(_: object) -> DurableLoop:
        running = asyncio.get_running_loop()
        assert isinstance(running, DurableLoop)
        return running

    assert 500 < run(flow).result < 500 + 100


# --- eviction --------------------------------------------------------------------------------------------------
def test_eviction_runs_clean_up_and_issues_nothing() -> None:
    seen: list[str] = []

    async def member(number: int) -> None:
        try:
            await one(number)
        finally:
            seen.append(f"finally {number}")
            await undo(number)
            seen.append("never")

    async def flow() -> None:
        try:
            async with asyncio.TaskGroup() as group:
                for number in range(3):
                    group.create_task(member(number))
        finally:
            seen.append("finally flow")
            rf.publish("state", "gone")

    shell = Shell(flow).begin()
    shell.execution.evict()
    assert sorted(seen) == ["finally 0", "finally 1", "finally 2", "finally flow"]
    work = shell.execution.take()
    assert (work.entries, work.actions) == ([], [])
    shell.execution.evict()
    assert len(seen) == 4
    sweep(shell.restored().finish())


async def call_directly() -> Any:
    return await one(1)


async def call_in_tasks() -> Any:
    return await asyncio.gather(one(1), one(1))


async def call_in_group() -> Any:
    async with asyncio.TaskGroup() as group:
        task = group.create_task(one(1))
    return task.result()


@pytest.mark.parametrize("retry", [call_directly, call_in_tasks, call_in_group])
def test_eviction_ends_although_the_code_swallows_it_and_tries_again(
    retry: Callable[[], Coroutine[Any, Any, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    unending: list[object] = []
    monkeypatch.setattr(loop_module, "_unending", unending)
    free: list[int] = []

    async def flow() -> Any:
        execution = current_execution()
        assert execution is not None
        while not free:
            try:
                rf.publish("tries", 1)
                execution.stage(0, "tries", "running")
                return await retry()
            except BaseException:  # noqa: BLE001, S112 - what a careless retry loop does
                continue
        return None

    shell = Shell(flow).begin()
    entries = len(shell.journal)
    shell.execution.evict()
    work = shell.execution.take()
    assert (work.entries, work.actions) == ([], [])
    assert [getattr(kept, "__name__", "") for kept in unending] == ["flow"]
    assert "swallows every attempt to end it" in shell.told.messages[-1]
    assert len(shell.journal) == entries
    assert shell.restored().finish(first_argument).result in (1, [1, 1])
    free.append(1)  # the garbage collector may have it


def test_eviction_closes_again_what_swallows_its_end_a_few_times() -> None:
    swallowed = []

    async def flow() -> None:
        for _ in range(CLOSINGS // 2):
            try:
                await asyncio.sleep(1)
            except Evicted:
                swallowed.append(1)

    shell = Shell(flow).begin()
    shell.execution.evict()
    assert len(swallowed) == CLOSINGS // 2
    assert shell.told.messages == []


def test_eviction_closes_generators_too() -> None:
    seen = []

    async def generator() -> AsyncIterator[int]:
        try:
            yield 1
        finally:
            seen.append("closed")
            await undo()

    async def flow() -> None:
        found = generator()
        await anext(found)
        await one()

    shell = Shell(flow).begin()
    shell.execution.evict()
    assert seen == ["closed"]
    assert shell.told.messages == []
    assert shell.execution.take().actions == []


def test_dropping_an_execution_does_nothing_after_it_was_evicted() -> None:
    seen = []

    async def flow() -> None:
        try:
            await one()
        finally:
            seen.append(current_execution() is not None)

    shell = Shell(flow).begin()
    shell.execution.evict()
    del shell
    gc.collect()
    assert seen == [True]


DROPPED = """
import gc
from rayflow.core.machine import Machine
from rayflow.core.events import Started
from rayflow.definition.step import step
from rayflow.storage.codec import MsgpackCodec

@step
def compensate():
    print("ran for real")

async def flow():
    try:
        await compensate()
    finally:
        await compensate()

for number in range(2):
    machine = Machine(flow, execution_id=str(number), workflow_id="w", payloads=MsgpackCodec())
    machine.apply(Started(1.0))
    if number == 0:
        del machine
        gc.collect()
print("at its end")
"""


def test_clean_up_of_a_dropped_execution_never_runs_for_real_not_even_when_the_process_ends() -> None:
    ended = subprocess.run([sys.executable, "-c", DROPPED], capture_output=True, text=True, check=True, cwd=ROOT)
    assert (ended.stdout, ended.stderr) == ("at its end\n", "")


def test_clean_up_code_sets_no_context_variables_of_the_thread() -> None:
    variable = contextvars.ContextVar("variable", default="outer")

    async def flow() -> None:
        try:
            await one()
        finally:
            variable.set("inner")

    shell = Shell(flow).begin()
    shell.execution.evict()
    assert variable.get() == "outer"


# --- never settling --------------------------------------------------------------------------------------------
def test_polling_is_an_error() -> None:
    async def flow() -> None:
        await one()
        while True:  # noqa: ASYNC110 - which it should not
            await asyncio.sleep(0)

    ended = Shell(flow, budget=1000).begin().complete("one")
    assert ended.failure.matches("rayflow.core.loop.NeverSettles")
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


@pytest.mark.parametrize(
    ("name", "arguments", "what"),
    [
        ("run_in_executor", (None, print), "running a function in a thread"),
        ("call_soon_threadsafe", (print,), "running a function in a thread"),
        ("create_connection", (None, "localhost", 1), "opening a connection"),
        ("create_server", (None,), "opening a connection"),
        ("add_reader", (0, print), "opening a connection"),
        ("subprocess_exec", (None, "true"), "starting a process"),
        ("add_signal_handler", (2, print), "handling a signal"),
        ("run_until_complete", (None,), "running or closing the loop"),
        ("stop", (), "running or closing the loop"),
        ("close", (), "running or closing the loop"),
    ],
)
def test_what_no_replay_could_repeat_is_refused(name: str, arguments: tuple[Any, ...], what: str) -> None:
    with pytest.raises(WorkflowSideEffect, match=f"{what}.* inside a workflow.*Put it into a step"):
        getattr(bare_loop(), name)(*arguments)


def test_a_task_factory_of_ones_own_is_refused() -> None:
    with pytest.raises(WorkflowSideEffect, match="task factory"):
        bare_loop().set_task_factory(lambda loop, coro: None)


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
