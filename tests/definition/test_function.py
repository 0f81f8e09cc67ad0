from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

import rayflow as rf
from rayflow.definition.base import WorkflowDefinition
from rayflow.definition.context import ChildCall
from tests.definition.fake import FakeExecution, plainly


@rf.step
async def double(n: int) -> int:
    return n * 2


@rf.workflow
async def twice(n: int, *, extra: int = 0) -> int:
    """Doubles twice.

    And adds something.
    """
    return await double(await double(n)) + extra


@rf.workflow(id="twice:v2", version="2024-06", description="Again.")
async def renamed() -> list[int]:
    return []


def test_a_workflow_knows_its_id_version_and_result() -> None:
    assert (twice.id, twice.version, twice.description, twice.returns) == ("twice", "1", "Doubles twice.", int)
    assert (renamed.id, renamed.version, renamed.description) == ("twice:v2", "2024-06", "Again.")
    assert renamed.returns == list[int]
    assert str(twice.signature) == "(n: 'int', *, extra: 'int' = 0) -> 'int'"
    assert repr(renamed).startswith("<workflow 'twice:v2' version '2024-06' of <function renamed")
    both: list[WorkflowDefinition] = [twice, rf.Workflow("w")]
    assert [workflow.id for workflow in both] == ["twice", "w"]


def test_it_simply_runs_outside_an_execution() -> None:
    assert plainly(twice(3, extra=1)) == 13


def test_an_execution_begins_it() -> None:
    execution = FakeExecution()
    assert execution.run(lambda: twice.begin((3,), {"extra": 1})) == 13
    assert execution.names == ["double", "double"]


def test_bind_checks_and_normalises() -> None:
    assert twice.bind(n=3).args == twice.bind(3).args == (3,)
    with pytest.raises(TypeError, match=r"workflow 'twice': missing a required argument: 'n'; it takes \(n: 'int'"):
        twice.bind()
    with pytest.raises(TypeError, match="workflow 'twice': too many positional arguments"):
        _ = twice(1, 2)  # type: ignore[call-arg]


def test_inside_another_workflow_it_is_a_child_and_fn_runs_it_inline() -> None:
    execution = FakeExecution()

    async def child() -> int:
        return await twice(1, extra=5)

    async def inline() -> int:
        return int(await twice.fn(1))

    assert execution.run(child) == 9
    [call] = execution.others
    assert isinstance(call, ChildCall)
    assert (call.workflow, call.args, dict(call.kwargs)) == (twice, (1,), {"extra": 5})
    assert (call.id, call.changes, call.on_parent_end, call.waits) == (None, {}, "cancel", True)
    assert execution.run(inline) == 4
    assert len(execution.others) == 1


# --- what is refused ----------------------------------------------------------------------------------------
def plain(n: int) -> int:
    return n


async def stream(n: int) -> AsyncIterator[int]:
    yield n


async def _hidden(n: int) -> int:
    return n


class Holder:
    async def method(self, n: int) -> int:
        return n


REFUSED: list[tuple[Any, str]] = [
    (plain, "workflow 'plain' must be an `async def`; a plain function cannot wait for its steps"),
    (stream, "workflow stream is a generator; a workflow returns once"),
    (Holder.method, "workflow Holder.method is a method"),
    (_hidden, "workflow id '_hidden' is not valid"),
    (twice, "is defined already; use its .fn"),
    (lambda n: n, "a lambda has no name: say which with id="),
]


@pytest.mark.parametrize(("fn", "message"), REFUSED, ids=[message[:30] for _, message in REFUSED])
def test_what_cannot_be_a_workflow_is_refused(fn: Any, message: str) -> None:
    with pytest.raises(rf.DefinitionError, match=message):
        rf.workflow(fn)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "x"}, "@rf.workflow has no option 'name'; it has: description, id, retention, version"),
        ({"id": "a b"}, "workflow id 'a b' is not valid"),
        ({"retention": 60}, "workflow 'twice': retention= needs rf.Retention"),
        ({"version": 2}, "workflow version must be a string, not int"),
        ({"version": ""}, "workflow version must not be empty"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(rf.InvalidArgument, match=message):
        rf.workflow(**options)(twice.fn)
