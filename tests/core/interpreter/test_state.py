"""rf.state: set, read, deleted, recorded with the event that the code reacts to, and the same after a replay."""

from __future__ import annotations

import threading
from typing import Any

import rayflow as rf
from rayflow.core.execution.snapshot import ExecutionSnapshot, fold
from rayflow.core.interpreter.signals import ExecutionState
from rayflow.ids import ExecutionStatus
from tests.core.fake import Shell, stub, sweep
from tests.core.others import CODEC

one = stub("one")


def set_at(shell: Shell, seq: int) -> dict[str, Any]:
    """What an entry of the journal says was set and deleted."""
    changes = shell.journal[seq - 1].state
    return {key: None if value is None else CODEC.decode(value) for key, value in changes.items()}


def shown(shell: Shell) -> dict[str, Any]:
    """The state as the snapshot has it."""
    snapshot = ExecutionSnapshot("e", "w", "1", ExecutionStatus.RUNNING, created_at=1.0, updated_at=1.0)
    return fold(snapshot, shell.journal, CODEC.decode).state


async def counting() -> Any:
    rf.state["count"] = 0
    rf.state["scratch"] = "for now"
    while rf.state["count"] < 3:
        rf.state["count"] += 1
        rf.state[f"page {rf.state['count']}"] = await one(rf.state["count"])
    del rf.state["scratch"]
    return dict(rf.state)


def test_it_is_recorded_with_the_event_that_the_code_reacts_to() -> None:
    shell = Shell(counting).begin()
    assert set_at(shell, 1) == {"count": 1, "scratch": "for now"}
    assert shown(shell) == {"count": 1, "scratch": "for now"}
    shell.complete("one", "a")
    assert set_at(shell, 2) == {"count": 2, "page 1": "a"}
    shell.complete("one", "b").complete("one", "c")
    assert set_at(shell, 4) == {"page 3": "c", "scratch": None}
    assert shell.result == {"count": 3, "page 1": "a", "page 2": "b", "page 3": "c"} == shown(shell)
    sweep(shell, lambda attempt: "abc"[attempt.call.args[0] - 1])


def test_it_is_a_mapping() -> None:
    async def flow() -> Any:
        seen: list[Any] = [len(rf.state), "a" in rf.state, rf.state.get("a", "none")]
        rf.state.update(a=1, b=2)
        rf.state.setdefault("a", 5)
        seen += [list(rf.state), rf.state.pop("b"), len(rf.state), repr(rf.state)]
        try:
            del rf.state["b"]
        except KeyError as error:
            seen.append(str(error))
        try:
            _ = rf.state["b"]
        except KeyError as error:
            seen.append(str(error))
        return seen

    shell = Shell(flow).begin()
    assert shell.result == [0, False, "none", ["a", "b"], 2, 1, "<state {'a': 1}>", "'b'", "'b'"]
    assert set_at(shell, 1) == {"a": 1, "b": None}
    assert repr(rf.state) == "<the state of the running execution>"


def test_what_was_set_last_before_the_code_waits_is_recorded_once() -> None:
    async def flow() -> None:
        for number in range(5):
            rf.state["n"] = number
        rf.state["gone"] = 1
        del rf.state["gone"]
        rf.state["back"] = 1
        del rf.state["back"]
        rf.state["back"] = 2

    assert set_at(Shell(flow).begin(), 1) == {"n": 4, "gone": None, "back": 2}


def test_a_value_that_changed_in_place_is_not_seen_until_it_is_set_again() -> None:
    async def flow() -> Any:
        pages: list[int] = []
        rf.state["pages"] = pages
        pages.append(1)
        await one()
        rf.state["pages"] = pages
        pages.append(2)
        return rf.state["pages"]

    shell = Shell(flow).begin()
    assert shown(shell) == {"pages": []}
    assert shell.complete("one").result == [1, 2]
    assert shown(shell) == {"pages": [1]}


def test_what_cannot_be_written_is_an_error_where_it_is_set_and_nothing_is_set() -> None:
    async def flow() -> Any:
        rf.state["good"] = 1
        try:
            rf.state["good"] = threading.Lock()
        except rf.CodecError as error:
            return [type(error).__name__, rf.state["good"], "bad" in rf.state]
        return None

    async def badly_named() -> Any:
        rf.state["two\nlines"] = 1

    shell = Shell(flow).begin()
    assert shell.result == ["CodecError", 1, False]
    assert set_at(shell, 1) == {"good": 1}
    named = Shell(badly_named).begin()
    assert named.failure.matches("rayflow.errors.InvalidArgument")
    assert "state key" in named.failure.message
    assert named.journal[0].state == {}


def test_it_is_loaded_and_given_away_encoded() -> None:
    state = ExecutionState(CODEC)
    state.load({"a": CODEC.encode([1])})
    assert (dict(state), state.take()) == ({"a": [1]}, {})
    state["b"] = 2
    assert state.encoded() == {"a": CODEC.encode([1]), "b": CODEC.encode(2)}
    assert state.take() == {"b": CODEC.encode(2)}
    assert state.take() == {}


def test_without_checkpoints_it_is_seen_once_the_execution_begins_and_not_recorded_after() -> None:
    shell = Shell(counting, options=rf.ExecutionOptions(checkpoints="off")).begin()
    assert shown(shell) == {"count": 1, "scratch": "for now"}
    again = shell.complete("one", "a").restored()
    assert [attempt.call.args for attempt in again.running.values()] == [(1,)]
    assert again.finish(lambda attempt: attempt.call.args[0]).result["count"] == 3
