"""What steps print can be read where they were started from."""

from __future__ import annotations

import rayflow as rf
from tests.fundamentals.tools import Gate, eventually, hold


@rf.step
def says(text: str) -> None:
    print(f"said {text}")


@rf.workflow
async def talks() -> str:
    await says("first")
    await says("second")
    return await hold("gate")


def test_lines_come_in_order_and_once_for_each_cursor(engine: rf.LocalEngine, gate: Gate) -> None:
    handle = engine.start(talks)
    gate.wait_until_reached()
    eventually(lambda: len(engine.output(handle.id).lines) >= 2, "both lines are there")
    found = engine.output(handle.id)
    assert [line.rpartition("said ")[2] for line in found.lines] == ["first", "second"]
    assert (found.issued, found.completed) == (3, 2)
    assert engine.output(handle.id, found.cursor).lines == ()
    gate.open()
    assert handle.result(timeout=20) == "through"
