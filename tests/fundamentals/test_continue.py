"""A failed execution goes on, and what it had called on goes on with it."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import pytest

import rayflow as rf
from rayflow.testing import TestEngine

ONCE = rf.RetryPolicy(max_retries=0)


@rf.step(retry=ONCE)
def check(name: str) -> str:
    """Something that a test lets fail, or not."""
    return name


@rf.step
def spend(name: str) -> str:
    """Something that is paid for."""
    return name


@rf.workflow
async def page(name: str) -> str:
    """Two steps, and a long time between them."""
    first = await spend(f"{name}-1")
    await asyncio.sleep(3_600)
    return first + await spend(f"{name}-2")


@rf.workflow
async def chapter(name: str) -> str:
    """Has a page."""
    return await page(name)


@rf.workflow
async def book() -> list[str]:
    """A check beside chapters."""

    async def checked() -> str:
        await asyncio.sleep(60)
        return await check("proofs")

    return list(await asyncio.gather(checked(), chapter("a"), chapter("b")))


@rf.workflow
async def guarded() -> list[Any]:
    """Works under a lock; a clean-up after a failure says so."""
    async with rf.lock("press") as lock:
        try:
            await check("plates")
        except rf.StepFailed:
            await rf.send_signal("editor", "news", "trouble")
            raise
        await rf.send_signal("editor", "news", "printed")
        return [lock.token, await spend(str(lock.token))]


@rf.workflow
async def editor() -> list[str]:
    """Hears of it."""
    return [await rf.wait_for_signal("news"), await rf.wait_for_signal("news")]


@rf.workflow
async def other() -> int:
    """Has the lock for a moment."""
    async with rf.lock("press") as lock:
        return lock.token


@rf.workflow
async def numbers() -> list[int]:
    """Takes only numbers, after a while."""
    await spend("x")
    await asyncio.sleep(60)
    await spend("y")
    return [await rf.wait_for_signal("n", type=int) for _ in range(2)]


@rf.workflow
async def with_helper(*, fails: bool) -> str:
    """Starts one that is to end with it."""
    helper = await rf.start_child(editor.options(on_parent_end="cancel"))
    await rf.start_child(editor.options(id="alone"))
    if fails:
        raise ValueError("no")
    return helper


@pytest.mark.parametrize("fails", [False, True])
def test_one_that_is_only_started_may_end_with_its_parent(env: TestEngine, *, fails: bool) -> None:
    handle = env.start(with_helper.options(id="with-helper"), fails=fails)
    with pytest.raises(rf.ExecutionFailed) if fails else contextlib.nullcontext():
        handle.result()
    env.advance(1)
    children = [(child.step, child.execution_id, child.status) for child in handle.status().children]
    assert children == [(0, "with-helper.1", "cancelled"), (0, "alone", "running")]


def failing_once(env: TestEngine) -> None:
    env.script(check, side_effect=[ValueError("not yet"), "fine"])


def test_children_that_a_failure_has_cancelled_go_on_and_repeat_nothing(env: TestEngine) -> None:
    failing_once(env)
    handle = env.start(book.options(id="book"))
    with pytest.raises(rf.ExecutionFailed, match="not yet"):
        handle.result()
    env.advance(1)
    assert {child.status for child in handle.status().children} == {"cancelled"}
    handle.resume()
    assert handle.result() == ["fine", "a-1a-2", "b-1b-2"]
    assert [call.args[0] for call in env.calls(spend)] == ["a-1", "b-1", "a-2", "b-2"]
    assert {child.status for child in handle.status().children} == {"completed"}


def test_resume_waits_until_they_have_ended(env: TestEngine) -> None:
    """Nobody has looked meanwhile, so that they have not even begun to."""
    failing_once(env)
    handle = env.start(book.options(id="book"))
    with pytest.raises(rf.ExecutionFailed, match="not yet"):
        handle.result()
    handle.resume()
    assert handle.result() == ["fine", "a-1a-2", "b-1b-2"]


def test_a_signal_after_a_resume_is_another_signal(env: TestEngine) -> None:
    """It has the number of the one that was sent when the work had failed."""
    failing_once(env)
    hears, prints = env.start(editor.options(id="editor")), env.start(guarded.options(id="guarded"))
    with pytest.raises(rf.ExecutionFailed, match="not yet"):
        prints.result()
    prints.resume()
    assert prints.result() == [1, "1"]
    assert hears.result() == ["trouble", "printed"]


def test_a_lock_that_another_had_in_between_has_another_token(env: TestEngine) -> None:
    failing_once(env)
    env.start(editor.options(id="editor"))
    prints = env.start(guarded.options(id="guarded"))
    with pytest.raises(rf.ExecutionFailed, match="not yet"):
        prints.result()
    assert env.execute(other) == 2
    prints.resume()
    assert prints.result() == [3, "3"]


def test_dead_letters_of_a_forks_signals_have_numbers_of_their_own(env: TestEngine) -> None:
    """Also those that it has taken over: the first one, and the one that it is sent itself, fit nothing."""
    source = env.start(numbers.options(id="source"))
    source.signal("n", "taken over")
    env.advance(1)
    env.advance(60)
    fork = env.fork("source", before=2, id="fork")
    fork.signal("n", "its own")
    for number in (1, 2):
        fork.signal("n", number)
        source.signal("n", number)
    assert fork.result() == source.result() == [1, 2]
    told = {letter.args[0]: letter.step for letter in env.dead_letters.list(execution="fork")}
    assert set(told) == {"taken over", "its own"}
    assert len(env.dead_letters.list(execution="source")) == 1


def test_the_same_fork_under_the_same_id_is_the_same_execution(env: TestEngine) -> None:
    env.execute(page.options(id="page"), "a")
    first = env.fork("page", before=2, id="fork")
    assert env.fork("page", before=2, id="fork").result() == first.result() == "a-1a-2"
    assert env.fork("page", before=2, id="fork").id == "fork"
    for change in ({"before": 1}, {"state": {"by": "ada"}}, {"args": ("x",)}):
        with pytest.raises(rf.ExecutionAlreadyExists, match="a fork needs an id that no execution has"):
            env.fork("page", id="fork", **{"before": 2, **change})  # type: ignore[arg-type]
    assert len(env.calls(spend)) == 3


def test_a_due_time_that_a_singleton_refuses_is_no_run(env: TestEngine) -> None:
    env.start(editor.options(id="busy", singleton="desk"))
    env.schedules.create("s", other.options(singleton="desk"), rf.Schedule(every=60, max_runs=2))
    env.advance(150)
    info = env.schedules.get("s")
    assert (info.runs, info.skipped, info.running) == (0, 2, ())
    with pytest.raises(rf.SingletonConflict):
        env.schedules.trigger("s")
    for _ in range(2):
        env.signal("busy", "news", "x")
    env.advance(600)
    info = env.schedules.get("s")
    assert (info.runs, info.next_due) == (2, None)
    assert len(env.list(schedule="s")) == 2
