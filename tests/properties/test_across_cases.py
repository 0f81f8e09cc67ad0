"""Cases across executions that were wrong once, or that :mod:`tests.properties.test_across` meets only rarely."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

import rayflow as rf
from rayflow.core.events import StepCompleted
from rayflow.errors import ExecutionAlreadyExists, InvalidTransition, WriterFenced
from rayflow.ids import ExecutionStatus
from rayflow.storage.codec.journal import decode_entry, decode_failure
from tests.properties import across_flows as flows
from tests.properties.across_world import CODEC, World

COMPLETED, FAILED, CANCELLED = ExecutionStatus.COMPLETED, ExecutionStatus.FAILED, ExecutionStatus.CANCELLED


@pytest.fixture
def world() -> Iterator[World]:
    made = World()
    yield made
    made.close()


def begin(world: World, flow: Any, *args: Any, name: str = "p") -> World:
    """Start an execution, and let it and all that it asks for go on as far as they go without any step."""
    world.start(flow, *args, name=name)
    return until_quiet(world)


def until_quiet(world: World) -> World:
    for _ in range(4):
        world.drive_all()
    return world


def fail(world: World, name: str, step: int) -> World:
    world.answer((name, step), fails=True)
    return until_quiet(world)


def succeed(world: World, name: str, step: int) -> World:
    world.answer((name, step))
    return until_quiet(world)


def status(world: World, name: str) -> ExecutionStatus:
    return world.data.executions[name].status


def steps_of(world: World, name: str) -> list[int]:
    """The steps that were recorded, in that order."""
    events = [decode_entry(name, row.seq, row.body).event for row in world.data.journals[name]]
    return [event.step for event in events if isinstance(event, StepCompleted)]


# --- runs -------------------------------------------------------------------------------------------------------
def test_a_lock_that_an_earlier_run_was_granted_is_not_the_next_ones(world: World) -> None:
    """The grant is in the inbox when the run continues as new, under the number that the next run's claim has."""
    begin(world, flows.leaf, 1, name="first")
    begin(world, flows.hasty, 1, 2)
    begin(world, flows.leaf, 2, name="third")
    world.answer(("first", 2))
    world.clock.time += 1  # now it continues as new, and does not wait for its lock any more
    world.drive(["p"], meanwhile=lambda: world.drive(["first"]))
    until_quiet(world)
    assert [(claim.execution_id, claim.token) for claim in world.data.locks["l"].claims] == [("third", 3), ("p", 0)]
    assert list(world.attempts) == [("first", 3), ("third", 2)]
    world.settle()
    assert CODEC.decode(world.data.executions["p"].result or b"") == 20


def test_the_end_of_a_child_of_an_earlier_run_is_not_the_next_ones(world: World) -> None:
    begin(world, flows.looping, 1, 3)
    world.clock.time += 5
    until_quiet(world)  # it has given the child up, which cleans up
    assert world.data.executions["p"].run == 1
    world.clock.time += 3
    until_quiet(world)
    world.settle()
    assert CODEC.decode(world.data.executions["p"].result or b"")[1:] == [20, 30]


# --- lives ------------------------------------------------------------------------------------------------------
def test_a_child_of_a_deleted_execution_is_not_that_of_another_with_its_id(world: World) -> None:
    begin(world, flows.family, 1)
    world.settle()
    world.delete(["p"])
    begin(world, flows.family, 2)
    assert status(world, "p") is FAILED
    failure = decode_failure(world.data.executions["p"].failure or b"")
    assert str(ExecutionAlreadyExists("p.1", reason="")).split(":", maxsplit=1)[0][:20] in failure.message
    world.delete(world.records(lambda record: record.status.terminal))
    begin(world, flows.family, 2).settle()
    assert status(world, "p") is COMPLETED


def test_the_end_of_a_child_is_not_told_to_another_with_its_parents_id(world: World) -> None:
    begin(world, flows.family, 1)
    succeed(world, "p.1", 2)
    succeed(world, "p.1", 3)
    fail(world, "p", 5)
    assert status(world, "p.4") is ExecutionStatus.RUNNING  # it is not to be given up
    world.delete(["p"])
    begin(world, flows.chatting, 1, "q")
    world.settle()
    assert (status(world, "p"), status(world, "p.4")) == (COMPLETED, COMPLETED)
    assert [row.kind for row in world.data.inboxes["p"]] == ["answer"]  # to its own signal


def test_a_child_that_was_deleted_is_started_anew_and_heard_of(world: World) -> None:
    begin(world, flows.dynasty, 1)
    fail(succeed(world, "p.1.1", 2), "p.1.1", 3)
    assert (status(world, "p"), status(world, "p.1"), status(world, "p.1.1")) == (FAILED, FAILED, FAILED)
    world.delete(["p.1", "p.1.1"])
    world.hand.resume("p")
    fail(until_quiet(world), "p.1.1", 2)
    succeed(world, "p.1.1", 3)  # it ends with the same entry as the first time
    assert status(world, "p") is FAILED
    world.hand.resume("p")
    world.settle()
    assert status(world, "p") is COMPLETED


# --- others' ----------------------------------------------------------------------------------------------------
def test_whoever_gives_up_a_child_that_is_anothers_cancels_nobody(world: World) -> None:
    begin(world, flows.leaf, 1, name="wanted")
    begin(world, flows.fleeting, 1)
    assert status(world, "p") is COMPLETED
    world.settle()
    assert status(world, "wanted") is COMPLETED


def test_a_child_of_its_own_that_is_given_up_at_once_is_cancelled(world: World) -> None:
    begin(world, flows.fleeting, 1)
    world.settle()
    assert (status(world, "p"), status(world, "wanted")) == (COMPLETED, CANCELLED)


def test_resuming_whoever_found_an_id_taken_leaves_the_other_alone(world: World) -> None:
    fail(begin(world, flows.leaf, 1, name="wanted"), "wanted", 2)
    fail(world, "wanted", 3)
    begin(world, flows.sharing, 1)
    assert (status(world, "p"), status(world, "wanted")) == (FAILED, FAILED)
    world.hand.resume("p")
    assert status(world, "wanted") is FAILED
    world.delete(["wanted"])
    world.settle()
    assert status(world, "p") is COMPLETED


# --- rewinds ----------------------------------------------------------------------------------------------------
def test_a_child_that_forgot_its_cancellation_is_cancelled_once_more(world: World) -> None:
    fail(begin(world, flows.clumsy, 1), "p", 2)
    assert (status(world, "p"), status(world, "p.1")) == (FAILED, FAILED)
    world.hand.resume("p")  # its own step was the cause, and its child failed when it was given up
    until_quiet(world)
    assert {("p", 2), ("p.1", 1)} <= world.attempts.keys()
    world.hand.cancel("p")
    until_quiet(world)
    assert (status(world, "p"), status(world, "p.1")) == (CANCELLED, FAILED)


def test_a_child_that_was_given_up_goes_on_with_its_parent_and_so_do_its_children(world: World) -> None:
    """Two generations of them, each beside a step that fails."""
    begin(world, flows.dynasty, 1)
    succeed(succeed(world, "p.1.1", 2), "p.1.1", 3)  # the first leaf of the grandchild
    until_quiet(world)
    assert {"p.1.3", "p.1.4"} <= set(world.records(lambda record: record.parent == "p.1"))
    fail(world, "p.1", 5)
    assert (status(world, "p"), status(world, "p.1"), status(world, "p.1.3")) == (
        FAILED,
        FAILED,
        ExecutionStatus.RUNNING,
    )
    with pytest.raises(InvalidTransition, match=r"cancelled child 'p\.1\.3' has not ended yet"):
        world.hand.resume("p")
    succeed(world, "p.1.3", 3)  # its clean-up; it had no lock
    assert status(world, "p.1.3") is CANCELLED
    world.hand.resume("p")
    assert {status(world, name) for name in ("p", "p.1", "p.1.3")} == {ExecutionStatus.PENDING}
    until_quiet(world)
    assert ("p.1", 5) in world.attempts
    world.settle()
    assert {status(world, name) for name in ("p", "p.1", "p.1.3", "p.1.4")} == {COMPLETED}


def test_recorded_steps_of_a_child_that_was_given_up_are_not_run_again(world: World) -> None:
    fail(succeed(begin(world, flows.clumsy, 1), "p.1", 1), "p", 2)
    assert status(world, "p.1") is COMPLETED
    world.hand.resume("p")
    until_quiet(world)
    assert list(world.attempts) == [("p", 2)]
    succeed(world, "p", 2)
    assert (status(world, "p"), steps_of(world, "p.1")) == (COMPLETED, [1])


@pytest.mark.parametrize("when", ["before", "during", "too late"])
def test_a_child_that_a_person_has_cancelled_too_stays_cancelled(world: World, when: str) -> None:
    """Before it was given up, while it cleans up, or so late that nobody reads it."""
    begin(world, flows.family, 1)
    succeed(succeed(world, "p.1", 2), "p.1", 3)
    if when == "before":
        world.hand.cancel("p.3")
    fail(world, "p", 5)
    if when == "during":
        world.hand.cancel("p.3")
        until_quiet(world)  # which cancels its clean-up
    elif when == "too late":
        world.answer(("p.3", 3))
        world.drive(["p.3"], meanwhile=lambda: world.hand.cancel("p.3"))
    assert (status(world, "p"), status(world, "p.3")) == (FAILED, CANCELLED)
    world.hand.resume("p")
    until_quiet(world)
    assert (status(world, "p"), status(world, "p.3")) == (FAILED, CANCELLED)  # it hears of that, and it is the cause
    with pytest.raises(InvalidTransition, match=r"execution 'p': it is failed, and its child 'p\.3' was cancelled, so"):
        world.hand.resume("p")


def test_what_a_child_has_undone_stays_undone(world: World) -> None:
    succeed(begin(world, flows.saga, 1), "p.1", 1)
    fail(world, "p", 2)
    world.settle()
    assert (status(world, "p"), status(world, "p.1")) == (FAILED, CANCELLED)
    before = world.photograph()
    with pytest.raises(InvalidTransition, match=r"its child 'p\.1' has run its compensations.*Fork 'p' before"):
        world.hand.resume("p")
    assert world.photograph() == before
    world.hand.fork("p", before=1, id="fork", allow_reacquire=True)
    world.settle()
    assert status(world, "fork") is COMPLETED


def test_a_child_that_was_given_up_and_dealt_with_stays_cancelled(world: World) -> None:
    """It took too long; the failure came later."""
    begin(world, flows.looping, 1, 1)
    world.clock.time += 5
    until_quiet(world)
    succeed(world, "p.1", 3)
    assert status(world, "p.1") is CANCELLED
    fail(world, "p", 3)
    assert status(world, "p") is FAILED
    world.hand.resume("p")
    world.settle()
    assert (status(world, "p"), status(world, "p.1")) == (COMPLETED, CANCELLED)


def test_the_call_of_a_number_that_another_call_had_is_another_call(world: World) -> None:
    """Its clean-up was a child by the number that the next thing to do has, once its work does not fail."""
    begin(world, flows.keeping, 1)
    fail(world, "p", 2)
    succeed(succeed(world, "p.3", 2), "p.3", 3)
    succeed(world, "p.1", 1)
    assert (status(world, "p"), status(world, "p.3")) == (FAILED, COMPLETED)
    world.hand.resume("p")
    until_quiet(world)
    succeed(world, "p", 2)
    assert status(world, "p.w1.3") is ExecutionStatus.RUNNING
    world.settle()
    assert CODEC.decode(world.data.executions["p"].result or b"") == ["p.1", 10, 30]


def test_a_clean_up_that_is_the_same_again_is_done_once(world: World) -> None:
    begin(world, flows.keeping, 1)
    fail(world, "p", 2)
    succeed(succeed(world, "p.3", 2), "p.3", 3)
    succeed(world, "p.1", 1)
    world.hand.resume("p")
    until_quiet(world)
    fail(world, "p", 2)
    assert status(world, "p") is FAILED
    assert world.records(lambda record: record.parent == "p") == ["p.1", "p.3"]


def test_results_that_came_after_the_failure_are_kept_and_their_children_not_asked_again(world: World) -> None:
    begin(world, flows.thorough, 1)
    fail(world, "p", 1)
    succeed(world, "p", 4)
    for name in ("p.2", "p.3"):
        succeed(succeed(world, name, 2), name, 3)
    assert (status(world, "p"), steps_of(world, "p")) == (FAILED, [4])
    world.delete(["p.2", "p.3"])
    world.hand.resume("p")
    until_quiet(world)
    assert list(world.attempts) == [("p", 1)]
    succeed(world, "p", 1)
    assert (status(world, "p"), steps_of(world, "p")) == (COMPLETED, [4, 4, 1])
    assert world.records(lambda record: record.parent == "p") == []


def test_tasks_that_had_permits_have_them_again_before_those_that_wait(world: World) -> None:
    fail(begin(world, flows.bench, 1), "p", 5)
    assert status(world, "p") is FAILED
    begin(world, flows.bench, 2, name="q")
    world.hand.resume("p")
    until_quiet(world)
    assert [claim.step for claim in world.data.locks["s"].claims if claim.execution_id == "p"] == [1, 2, 3, 4]
    world.settle()
    assert (status(world, "p"), status(world, "q")) == (COMPLETED, COMPLETED)


# --- those that end with their parents ------------------------------------------------------------------------
@pytest.mark.parametrize("how", ["failed", "cancelled", "completed"])
def test_a_child_that_is_to_end_with_its_parent_is_cancelled_then(world: World, how: str) -> None:
    begin(world, flows.keeping, 1)
    if how == "cancelled":
        world.hand.cancel("p")
        until_quiet(world)
    else:
        fail(world, "p", 2) if how == "failed" else succeed(world, "p", 2)
        assert status(world, "p.1") is ExecutionStatus.RUNNING
        succeed(succeed(world, "p.3", 2), "p.3", 3)
    assert status(world, "p") == how
    assert status(world, "p.1") is ExecutionStatus.RUNNING  # it cleans up
    succeed(world, "p.1", 1)
    assert status(world, "p.1") is CANCELLED


def test_and_it_goes_on_with_its_parent(world: World) -> None:
    begin(world, flows.keeping, 1)
    fail(world, "p", 2)
    succeed(succeed(world, "p.3", 2), "p.3", 3)
    with pytest.raises(InvalidTransition, match=r"its cancelled child 'p\.1' has not ended yet"):
        world.hand.resume("p")
    succeed(world, "p.1", 1)
    world.hand.resume("p")
    until_quiet(world)
    succeed(world, "p", 2)
    assert status(world, "p.1") is ExecutionStatus.RUNNING
    world.settle()
    assert (status(world, "p"), status(world, "p.1")) == (COMPLETED, CANCELLED)


def test_one_that_a_former_execution_with_its_parents_id_has_started_is_not_cancelled(world: World) -> None:
    begin(world, flows.keeping, 1)
    world.hand.cancel("p")
    until_quiet(world)
    succeed(world, "p.1", 1)
    world.hand.fork("p.1", before=1, id="other")  # nobody's child
    world.delete(["p", "p.1"])
    begin(world, flows.keeping, 2)
    world.hand.cancel("p")
    until_quiet(world)
    assert status(world, "other") is not CANCELLED


# --- schedules --------------------------------------------------------------------------------------------------
def test_a_timekeeper_that_comes_too_late_does_not_start_again_what_is_deleted(world: World) -> None:
    world.hand.schedules.create("s", flows.leaf.call(1), rf.Schedule(every=4, max_runs=1))
    read = world.ask("schedules")
    world.clock.time += 5
    world.look(schedules=read)
    world.settle()
    [started] = world.records(lambda record: record.schedule == "s")
    world.delete([started])
    world.look(schedules=read)
    assert world.records(lambda record: record.schedule == "s") == []


def test_a_coordinator_that_was_overtaken_asks_nothing_any_more(world: World) -> None:
    begin(world, flows.family, 1)
    succeed(succeed(world, "p.1", 2), "p.1", 3)
    late = world.overtake(world.drivers["p"])  # its step fails, and it would give up its child
    before = world.photograph()
    [answer] = world.commit(late)
    assert isinstance(getattr(answer, "error", None), WriterFenced)
    assert world.photograph() == before
    world.settle()
    assert status(world, "p") is COMPLETED


@pytest.mark.parametrize("flow", flows.FLOWS, ids=lambda flow: flow.id)
def test_each_workflow_comes_to_its_end_if_all_goes_well(world: World, flow: Any) -> None:
    arguments = {"looping": (1, 3), "hasty": (1, 3), "chatting": (1, "nobody")}.get(flow.id, (1,))
    begin(world, flow, *arguments)
    world.settle()
    assert status(world, "p") is (FAILED if flow is flows.nested else COMPLETED)
    if flow is flows.nested:  # a deadlock, until the child comes first
        world.hand.resume("p")
        world.drive(["p.3"])
        world.settle()
        assert status(world, "p") is COMPLETED
