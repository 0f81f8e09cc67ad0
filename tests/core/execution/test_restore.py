"""An execution is taken up where its journal ends."""

from __future__ import annotations

import asyncio

import pytest

import rayflow as rf
from rayflow.core.events import (
    CancelRequested,
    Entry,
    Paused,
    Resumed,
    StepCompleted,
)
from rayflow.errors import NonDeterminismError
from rayflow.ids import ExecutionStatus
from tests.core.execution.flows import PLAIN, at_once, in_turn, one, two, undo
from tests.core.fake import Flow, Shell


def test_a_restored_execution_goes_on_where_it_was() -> None:
    shell = Shell(in_turn).begin().complete("one", "a").restored()
    assert shell.started == [("two", 1)]
    assert shell.complete("two", "b").result == ["a", "b"]


def test_retries_that_wait_still_wait_when_restored() -> None:
    shell = Shell(in_turn, options=PLAIN).begin().fail("one")
    soon = shell.restored()
    assert (soon.running, soon.execution.next_wake()) == ({}, 1010.0)
    soon.pass_time(10)
    assert soon.started == [("one", 2)]
    shell.now = 1010.0
    late = shell.restored()
    assert late.started == [("one", 2)]
    late.fail("one").wake()
    assert (late.now, late.started[-1]) == (1030.0, ("one", 3))
    assert late.fail("one").failure.step == 1


def test_restored_while_paused() -> None:
    shell = Shell(at_once).begin().send("two").pause().complete("two", 2)
    again = shell.restored()
    assert again.execution.paused
    assert again.execution.take().reason is not None
    assert again.running == {}
    again.resume()
    assert again.started == [("one", 1), ("one", 1)]
    assert again.restored().finish(lambda attempt: attempt.seq).result == [1, 2, 3]


def test_restored_with_rows_that_were_not_applied() -> None:
    shell = Shell(in_turn).begin()
    shell.rows += [Paused(1000.0), Resumed(1000.0), CancelRequested(1000.0, "late")]
    again = shell.restored()
    assert again.execution.take().status is ExecutionStatus.CANCELLED
    assert again.execution.inbox_seen == 3
    assert (again.running, again.stopped) == ({}, [])  # nothing had begun yet


def test_restored_between_its_last_event_and_its_end() -> None:
    shell = Shell(in_turn).begin().complete("one").complete("two")
    again = shell.restored(entries=3)
    assert again.journal == shell.journal


def test_a_deadline_that_passed_does_not_pass_again() -> None:
    async def flow() -> None:
        try:
            await one()
        finally:
            await undo()

    shell = Shell(flow, deadline=1005.0).begin().wake()
    again = shell.restored()
    assert again.execution.next_wake() is None
    assert again.complete("undo").failure.matches(TimeoutError)


def test_a_deadline_that_passed_meanwhile_passes_at_once() -> None:
    shell = Shell(in_turn, deadline=1005.0).begin()
    shell.now = 2000.0
    assert shell.restored().failure.matches(TimeoutError)


def test_timers_that_were_due_meanwhile_fire_at_once() -> None:
    async def flow() -> float:
        await asyncio.sleep(60)
        return rf.now()

    shell = Shell(flow).begin()
    shell.now = 1059.0
    assert shell.restored().execution.next_wake() == 1060.0
    shell.now = 5000.0
    assert shell.restored().result == 5000.0


async def other() -> None:
    await two()


@pytest.mark.parametrize(
    ("flow", "message"),
    [
        (other, "expected step 'one' (number 1 of this entry), saw step 'two'"),
        (at_once, "expected no further step, saw step 'two'"),
    ],
)
def test_code_that_changed_performs_nothing(flow: Flow, message: str) -> None:
    shell = Shell(in_turn).begin().complete("one")
    changed = Shell(flow, journal=shell.journal)
    with pytest.raises(NonDeterminismError) as caught:
        changed.execution.restore(shell.journal, [], 1000.0)
    assert message in str(caught.value)
    work = changed.execution.take()
    assert (work.entries, work.actions, work.deferred) == ([], [], [])
    changed.execution.evict()
    assert shell.restored(in_turn).started == [("two", 1)]


def test_a_carried_result_for_another_step_is_found_too() -> None:
    shell = Shell(in_turn).begin()
    shell.rows.append(StepCompleted(1000.0, 1, "two", 1, b""))
    with pytest.raises(NonDeterminismError, match="expected step 1 'two', saw step 1 'one'"):
        shell.restored()


def test_the_journal_is_numbered_on() -> None:
    shell = Shell(in_turn).begin().pause().restored().resume()
    assert [entry.seq for entry in shell.journal] == [1, 2, 3]
    assert isinstance(shell.journal[2], Entry)
