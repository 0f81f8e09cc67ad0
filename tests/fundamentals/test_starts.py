"""A start that returned is durable, and an id names one execution for ever."""

from __future__ import annotations

from typing import Any

import pytest

import rayflow as rf
from tests.fundamentals.tools import Ledger, note


@rf.step
def add(left: int, right: int) -> int:
    return left + right


@rf.workflow
async def total(*numbers: int) -> int:
    found = 0
    for number in numbers:
        found = await add(found, number)
    return found


@rf.workflow
async def written(ledger: str, line: str) -> str:
    return await note(ledger, line)


def test_start_answers_a_handle_and_the_handle_the_result(engine: rf.LocalEngine) -> None:
    handle = engine.start(total, 1, 2, 3)
    assert handle.id.startswith("total-")
    assert handle.result(timeout=20) == 6
    assert handle.done()
    snapshot = engine.status(handle.id)
    assert (snapshot.execution_id, snapshot.workflow_id) == (handle.id, "total")
    assert snapshot.status is rf.ExecutionStatus.COMPLETED
    assert [(step.name, step.result) for step in snapshot.steps] == [("add", 1), ("add", 3), ("add", 6)]


def test_execute_is_start_and_result_in_one(engine: rf.LocalEngine) -> None:
    assert engine.start(total, 20, 22).result(20) == 42


def test_a_workflow_without_steps_completes(engine: rf.LocalEngine) -> None:
    assert engine.start(total).result(20) == 0


def test_ids_are_never_made_twice(engine: rf.LocalEngine) -> None:
    assert len({engine.start(total).id for _ in range(50)}) == 50


def test_the_same_start_again_is_the_same_execution(engine: rf.LocalEngine, ledger: Ledger) -> None:
    first = engine.start(written.options(id="one"), ledger.path, "once")
    assert first.result(timeout=20) == "once"
    again = engine.start(written.options(id="one"), ledger.path, "once")
    assert again.result(timeout=20) == "once"
    assert ledger.lines() == ["once"]
    assert len(engine.list()) == 1


def test_another_input_or_workflow_under_a_known_id_is_refused(engine: rf.LocalEngine, ledger: Ledger) -> None:
    engine.start(total.options(id="one"), 1, 2).result(20)
    with pytest.raises(rf.ExecutionAlreadyExists, match="with another input"):
        engine.start(total.options(id="one"), 1, 3)
    with pytest.raises(rf.ExecutionAlreadyExists, match="of workflow 'total'"):
        engine.start(written.options(id="one"), ledger.path, "x")
    assert ledger.lines() == []
    assert engine.status("one").result == 3


def test_start_many_starts_one_for_each_input(engine: rf.LocalEngine) -> None:
    wanted = {"a": (1, 2), "b": (3, 4), "c": (5,)}
    handles = engine.start_many(total.options(id=name).call(*args) for name, args in wanted.items())
    assert [(handle.id, handle.result(timeout=20)) for handle in handles] == [("a", 3), ("b", 7), ("c", 5)]


def test_start_many_of_nothing_starts_nothing(engine: rf.LocalEngine) -> None:
    assert engine.start_many([]) == []
    assert engine.list() == []


def test_start_many_starts_the_others_where_one_id_is_taken(engine: rf.LocalEngine, ledger: Ledger) -> None:
    calls: list[rf.WorkflowCall[Any]] = [total.call(1, 2), written.options(priority=9).call(ledger.path, "x")]
    first, second = engine.start_many(calls)
    assert (first.result(timeout=20), second.result(timeout=20)) == (3, "x")
    with pytest.raises(rf.ExecutionAlreadyExists):
        engine.start_many([total.options(id="fresh").call(1), total.options(id=first.id).call(7)])
    assert {each.execution_id for each in engine.list()} == {first.id, second.id, "fresh"}
    assert engine.handle("fresh").result(timeout=20) == 1


def test_arguments_are_checked_before_anything_is_written(engine: rf.LocalEngine, ledger: Ledger) -> None:
    with pytest.raises(TypeError, match="written"):
        engine.start(written, ledger.path)  # type: ignore[call-overload]
    with pytest.raises(rf.InvalidArgument, match="is not valid"):
        engine.start(total.options(id="no spaces"), 1)
    with pytest.raises(rf.InvalidArgument, match="7 is not a workflow"):
        engine.start(7)  # type: ignore[call-overload]
    with pytest.raises(rf.InvalidArgument, match=r"rf.SavedWorkflow\('total'\) names a saved one"):
        engine.start("total", 1)  # type: ignore[call-overload]
    assert engine.list() == []


def test_a_registered_workflow_runs_by_its_id_alone(engine: rf.LocalEngine) -> None:
    record = engine.register(total)
    assert (record.workflow_id, record.version, record.name) == ("total", "1", "total")
    assert [saved.workflow_id for saved in engine.workflows()] == ["total"]
    assert engine.start(rf.SavedWorkflow("total"), 4, 5).result(20) == 9


def test_an_id_that_nobody_registered_is_refused_and_the_known_ones_are_named(engine: rf.LocalEngine) -> None:
    engine.register(total)
    with pytest.raises(rf.WorkflowNotRegistered, match=r"'nobody' is registered.*registered here: total"):
        engine.start(rf.SavedWorkflow("nobody"))
    with pytest.raises(rf.WorkflowNotRegistered):
        engine.execute(rf.SavedWorkflow("nobody"))
    assert engine.delete_workflow("total") is True
    assert engine.delete_workflow("total") is False
    with pytest.raises(rf.WorkflowNotRegistered, match="none is registered"):
        engine.start(rf.SavedWorkflow("total"), 1)


def test_an_execution_that_does_not_exist_is_not_found_whatever_is_asked(engine: rf.LocalEngine) -> None:
    for ask in (engine.status, engine.handle, engine.pause, engine.resume, engine.cancel, engine.output):
        with pytest.raises(rf.ExecutionNotFound, match="'nobody'"):
            ask("nobody")


def test_executions_are_listed_newest_first_and_by_status_and_workflow(engine: rf.LocalEngine, ledger: Ledger) -> None:
    for number in range(3):
        engine.start(total.options(id=f"t{number}"), number).result(20)
    engine.start(written.options(id="w"), ledger.path, "x").result(20)
    assert [found.execution_id for found in engine.list()] == ["w", "t2", "t1", "t0"]
    assert [found.execution_id for found in engine.list(workflow="total", limit=2)] == ["t2", "t1"]
    assert engine.list(status="failed") == []
