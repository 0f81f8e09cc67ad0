"""A replay is compared with everything that the journal recorded of what the code did."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest

import rayflow as rf
from rayflow.definition.context import current_execution
from rayflow.errors import NonDeterminismError
from tests.core.fake import Shell, stub

refund, ship = stub("refund"), stub("ship")


def stage(name: str, status: str) -> None:
    execution = current_execution()
    assert execution is not None
    execution.stage(0, name, status)


def publish(key: str) -> None:
    rf.state[key] = 1


def delete(key: str) -> None:
    rf.state.pop(key, None)


Action = Callable[[], Any]


@pytest.mark.parametrize(
    ("recorded", "replayed", "message"),
    [
        (lambda: rf.compensate(refund), lambda: rf.compensate(ship), "compensation 'refund', saw compensation 'ship'"),
        (lambda: rf.compensate(refund), lambda: None, "compensation 'refund', saw no further compensation"),
        (lambda: None, lambda: rf.compensate(ship), "no further compensation, saw compensation 'ship'"),
        (lambda: rf.patched("a"), lambda: rf.patched("b"), "patch 'a', saw no further patch"),
        (lambda: rf.patched("a"), lambda: None, "patch 'a', saw no further patch"),
        (lambda: stage("s", "running"), lambda: stage("t", "running"), "declared step 0 's' running, saw declared"),
        (lambda: stage("s", "running"), lambda: stage("s", "failed"), "declared step 0 's' running, saw declared"),
        (lambda: publish("x"), lambda: publish("y"), "state key 'x' set, saw state key 'y' set"),
        (lambda: publish("x"), lambda: None, "state key 'x' set, saw no further state key"),
    ],
)
def test_a_replay_that_records_something_else_is_found(recorded: Action, replayed: Action, message: str) -> None:
    runs = itertools.count()

    async def flow() -> None:
        (recorded if next(runs) == 0 else replayed)()
        await ship()

    shell = Shell(flow).begin()
    with pytest.raises(NonDeterminismError, match=f"entry 1: expected {message}"):
        shell.restored()


def test_a_replay_that_records_the_same_is_accepted() -> None:
    async def flow() -> None:
        rf.compensate(refund)
        rf.patched("a")
        stage("s", "running")
        publish("x")
        publish("y")
        delete("x")
        await ship()

    assert Shell(flow).begin().restored().started == [("ship", 1)]


def test_values_of_the_state_are_not_compared() -> None:
    runs = itertools.count()

    async def flow() -> None:
        rf.state["x"] = next(runs)
        await ship()

    assert Shell(flow).begin().restored().started == [("ship", 1)]
