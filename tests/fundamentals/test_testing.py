"""Testing workflows: a clock that skips to whatever is due next, and everything that an engine does under it."""

from __future__ import annotations

import asyncio
import datetime as dt
import re
import time
from pathlib import Path
from typing import Any

import pytest

import rayflow as rf
from rayflow.testing import BEGINNING, TestEngine, WorkflowStuck
from tests.fundamentals.virtual import DAY, ONCE, article, ask, asking, double, month

#: Seconds of real time that no virtual month takes, however busy the machine is.
SOON = 60.0


# --- time ---------------------------------------------------------------------------------------------------
def test_a_month_passes_in_no_time_and_steps_run_really(env: TestEngine) -> None:
    began = time.monotonic()
    assert env.execute(month, 3) == (12, 30 * DAY)
    assert time.monotonic() - began < SOON
    assert env.now() == BEGINNING + 30 * DAY


def test_its_clock_begins_at_the_same_moment_in_each_run_or_where_it_is_told() -> None:
    @rf.workflow
    async def when() -> float:
        return rf.now()

    with TestEngine() as env:
        assert env.execute(when) == BEGINNING
    with TestEngine(start=dt.datetime(2027, 3, 1, 12, tzinfo=dt.UTC)) as env:
        assert env.execute(when) == dt.datetime(2027, 3, 1, 12, tzinfo=dt.UTC).timestamp()
    with pytest.raises(rf.InvalidArgument, match="no time zone"):
        TestEngine(start=dt.datetime(2027, 3, 1))  # noqa: DTZ001 - that is what is wrong with it


def test_nothing_happens_until_somebody_looks_and_then_all_that_can_at_this_moment(env: TestEngine) -> None:
    handle = env.start(month, 3)
    assert env.calls() == []
    snapshot = handle.status()
    assert [call.step for call in env.calls()] == ["double"]
    assert (snapshot.status, [step.status for step in snapshot.steps]) == ("running", ["completed"])
    assert env.now() == BEGINNING
    assert not handle.done()


def test_time_is_moved_by_hand(env: TestEngine) -> None:
    handle = env.start(month, 3)
    env.advance(29 * DAY)
    assert not handle.done()
    env.advance(dt.timedelta(hours=23))
    assert not handle.done()
    env.advance(to=BEGINNING + 30 * DAY)
    assert handle.done()
    assert handle.result() == (12, 30 * DAY)
    with pytest.raises(rf.InvalidArgument, match="cannot be moved back"):
        env.advance(-1)


def test_it_is_moved_from_one_due_moment_to_the_next(env: TestEngine) -> None:
    @rf.workflow
    async def ticks() -> list[float]:
        seen = []
        for seconds in (1, 10, 100):
            await asyncio.sleep(seconds)
            seen.append(rf.now() - BEGINNING)
        return seen

    handle = env.start(ticks)
    env.advance(DAY)
    assert handle.result() == [1, 11, 111]
    assert env.now() == BEGINNING + DAY
    assert env.skip() is None


def test_retries_wait_as_long_as_they_would(env: TestEngine) -> None:
    script = env.script(ask, side_effect=[TimeoutError("busy"), ConnectionError("lost"), "42"])
    assert env.execute(asking, "why") == ("42", 3.0)
    assert [(call.attempt, (call.at - BEGINNING) / 3600) for call in script.calls] == [(1, 0), (2, 1), (3, 3)]


def test_limits_of_an_execution_pass_and_starts_are_delayed(env: TestEngine) -> None:
    late = env.start(month.options(delay=DAY), 1)
    hasty = env.start(month.options(timeout=7 * DAY), 1)
    with pytest.raises(rf.ExecutionTimeout):
        hasty.result()
    assert env.now() == BEGINNING + 7 * DAY
    assert late.result() == (4, 30 * DAY)
    assert env.now() == BEGINNING + 31 * DAY


def test_a_schedule_runs_for_a_week(env: TestEngine) -> None:
    @rf.workflow(id="report")
    async def report() -> float:
        return rf.now()

    env.schedules.create("nightly", report, rf.Schedule(cron="0 2 * * *"))
    env.advance(7 * DAY)
    moments = sorted(env.handle(found.execution_id).result() for found in env.list(workflow="report"))
    assert [moment - BEGINNING for moment in moments] == [day * DAY + 2 * 3600 for day in range(7)]
    env.schedules.pause("nightly")
    env.advance(DAY)
    assert len(env.list(workflow="report")) == 7


def test_a_signal_comes_in_time_or_too_late(env: TestEngine) -> None:
    env.script(ask, returns="a draft")
    reviewed = env.start(article, "tides")
    forgotten = env.start(article, "winds")
    env.advance(2 * DAY)
    assert reviewed.status().state == {"phase": "in review"}
    assert reviewed.status().waiting_for == ["signal review"]
    reviewed.signal("review", "accepted")
    assert reviewed.result() == "a draft, accepted"
    assert forgotten.result() == "a draft, never reviewed"


def test_whoever_waits_for_what_never_comes_is_told_at_once(env: TestEngine) -> None:
    @rf.workflow
    async def patient() -> None:
        await rf.wait_for_signal("go")

    handle = env.start(patient.options(id="patient"))
    with pytest.raises(WorkflowStuck, match=r"'patient' cannot continue: it waits for signal go, and no timer is due"):
        handle.result()
    handle.pause("for lunch")
    with pytest.raises(WorkflowStuck, match=r"it is paused \(Paused: for lunch\).*Resume it"):
        handle.result()
    handle.resume()
    handle.signal("go")
    assert handle.result() is None


def test_time_can_be_kept_from_moving_by_itself() -> None:
    with TestEngine(auto_skip=False) as env:
        handle = env.start(month.options(id="month"), 1)
        with pytest.raises(WorkflowStuck, match=r"time stands still.*due at 2020-01-01T00:00:01.*env\.advance"):
            handle.result()
        env.advance(30 * DAY)
        assert handle.result() == (4, 30 * DAY)


# --- the rest of an engine ----------------------------------------------------------------------------------
def test_children_locks_undoing_and_runs_that_continue(env: TestEngine) -> None:
    @rf.step(retry=ONCE)
    def book(what: str) -> str:
        if what == "nothing":
            raise LookupError(what)
        return what

    @rf.workflow(id="guarded")
    async def guarded(number: int) -> float:
        async with rf.lock("ledger"):
            await asyncio.sleep(DAY)
            return (rf.now() - BEGINNING) / DAY

    @rf.workflow(id="parent")
    async def parent() -> list[float]:
        return await asyncio.gather(*(guarded(number) for number in range(3)))

    @rf.workflow(id="travel")
    async def travel() -> None:
        rf.compensate(book, await book("flight"))
        await asyncio.sleep(DAY)
        await book("nothing")

    @rf.workflow(id="loop")
    async def loop(number: int) -> int:
        await asyncio.sleep(DAY)
        if number < 5:
            rf.continue_as_new(number + 1)
        return number

    assert env.execute(parent) == [1, 2, 3]
    assert env.execute(loop, 0) == 5
    with pytest.raises(rf.ExecutionFailed):
        env.execute(travel)
    assert [call.args for call in env.calls(book)] == [("flight",), ("nothing",), ("flight",)]


def test_forks_cancels_singletons_and_leases(env: TestEngine) -> None:
    env.script(ask, returns="a draft")
    handle = env.start(article.options(id="one", singleton="tides"), "tides")
    with pytest.raises(rf.SingletonConflict):
        env.start(article.options(id="two", singleton="tides"), "tides")
    with env.lock("desk", timeout=0) as lease:
        env.advance(3 * DAY)  # it lasts as long as somebody has it
        assert not lease.lost
        with pytest.raises(rf.LockUnavailable), env.lock("desk", timeout=10):
            pass
    handle.cancel("never mind")
    with pytest.raises(rf.ExecutionCancelled, match="never mind"):
        handle.result()
    env.script(ask, returns="another draft")
    fork = env.fork("one", before="ask", id="fork")
    fork.signal("review", "accepted")
    assert fork.result() == "another draft, accepted"


def test_executions_that_wait_for_each_other_are_found(env: TestEngine) -> None:
    @rf.workflow
    async def both(first: str, second: str) -> str:
        async with rf.lock(first):
            await asyncio.sleep(10)
            try:
                async with rf.lock(second):
                    return "both"
            except rf.Deadlock:
                return "gave way"

    one, two = env.start(both, "a", "b"), env.start(both, "b", "a")
    assert sorted([one.result(), two.result()]) == ["both", "gave way"]


def test_handles_are_awaited_as_anywhere(env: TestEngine) -> None:
    async def both() -> tuple[tuple[int, float], tuple[int, float]]:
        return await asyncio.gather(env.start(month, 1), env.start(month, 2))

    assert [number for number, _ in asyncio.run(both())] == [4, 8]


def test_another_engine_goes_on_where_the_first_one_was_closed(store: str) -> None:
    with TestEngine(store) as env:
        handle = env.start(month.options(id="month"), 3)
        env.advance(10 * DAY)
        assert handle.status().steps[0].status == "completed"
    with TestEngine(store, start=BEGINNING + 20 * DAY) as env:
        assert env.handle("month").result() == (12, 30 * DAY)
        assert [call.args for call in env.calls(double)] == [(6,)]


# --- the page about it --------------------------------------------------------------------------------------
PAGE = Path(__file__).parents[2] / "docs" / "testing.md"
BLOCKS = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("block", BLOCKS, ids=range(len(BLOCKS)))
def test_the_examples_in_the_docs_do_what_they_show(block: str) -> None:
    names: dict[str, Any] = {"__name__": "testing_page"}
    exec(compile(block, str(PAGE), "exec"), names)  # noqa: S102 - our own page
    tests = [value for name, value in names.items() if name.startswith("test_")]
    assert tests or "fixture" in block
    for test in tests:
        test()
