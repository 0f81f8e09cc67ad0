"""Dropping the code before every event changes nothing for workflows that repeat themselves."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings

import rayflow as rf
from rayflow.testing import History, TestEngine, replay
from tests.properties.programs import Node, flow_of, programs


def played(program: Node, *, paranoid: bool) -> tuple[Any, History]:
    """What a program comes to, and how it is recorded."""
    with TestEngine(paranoid=paranoid) as env:
        for name in ("a", "b", "undo"):
            env.script(name, returns=name)
        env.script("c", side_effect=[ValueError("no"), *["c"] * 1_000], takes=1.5)
        handle = env.start(rf.workflow(flow_of(program), id="program").options(id="e"))
        try:
            result = handle.result()
        except rf.ExecutionFailed as failed:
            result = [failed.failure.type, failed.failure.message]
        return result, History.of(env, "e")


@settings(max_examples=60)
@given(programs)
def test_a_workflow_comes_to_the_same_with_its_code_dropped_before_every_event(program: Node) -> None:
    result, history = played(program, paranoid=False)
    again, journal = played(program, paranoid=True)
    assert again == result
    assert journal.rows == history.rows
    replay(history, rf.workflow(flow_of(program), id="program"))
