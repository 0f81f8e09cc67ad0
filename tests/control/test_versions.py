"""Code that is edited while a cluster runs: new executions get it, and none that runs is broken by it."""

from __future__ import annotations

import importlib
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import rayflow as rf
from tests.control.conftest import Open, kill_coordinator, until_parked
from tests.control.flows import greeting_1, greeting_2
from tests.faults.processes.tools import until

pytestmark = pytest.mark.ray

Write = Callable[[str], Any]

FLOWS = """
import rayflow as rf

TAG = "{tag}"

@rf.step
def said() -> str:
    return "{tag}"

@rf.step
def checked() -> str:
    return "checked"

@rf.workflow(version="{version}")
async def talk() -> list[str]:
    first = await said()
    await rf.wait_for_signal("go")
    {more}
    return [first, TAG, await said()]
"""


def flows(tag: str, *, version: str = "1", more: str = "") -> str:
    """The text of a module."""
    return FLOWS.format(tag=tag, version=version, more=more)


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Write]:
    """Writes the module, which is in a folder of its own, and imports it here."""
    name = f"talking_{uuid.uuid4().hex[:8]}"
    folder = tmp_path / "code"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))

    def written(text: str) -> Any:
        (folder / f"{name}.py").write_text(text)
        sys.modules.pop(name, None)
        importlib.invalidate_caches()
        return importlib.import_module(name)

    yield written
    sys.modules.pop(name, None)


def test_versions_run_beside_each_other(engine: rf.DistributedEngine) -> None:
    handles = [engine.start(flow) for flow in (greeting_1, greeting_2, greeting_2)]
    counts = {(one.workflow_id, one.version): one.unfinished for one in engine.workflows()}
    assert counts == {("greeting", "1"): 1, ("greeting", "2"): 2}
    for handle in handles:
        handle.signal("name", "ada")
    assert [handle.result(timeout=60) for handle in handles] == ["hello ada", "good day ada", "good day ada"]
    assert {one.unfinished for one in engine.workflows()} == {0}


def test_edited_code_is_for_new_executions_and_those_that_run_go_on(open_engine: Open, write: Write) -> None:
    module = write(flows("old"))
    engine = open_engine(park_idle_after=60.0)
    old = engine.start(module.talk.options(id="old"))
    until(lambda: old.status().waiting_for, "it waits")
    module = write(flows("new", more="await checked()"))
    new = engine.start(module.talk.options(id="new"))
    new.signal("go")
    assert new.result(timeout=60) == ["new", "new", "new"]
    old.signal("go")
    assert old.result(timeout=60)[:2] == ["old", "old"]
    assert [step.name for step in old.status().steps] == ["said", "said"]


def test_what_cannot_go_on_with_the_code_at_hand_waits_for_the_right_one(open_engine: Open, write: Write) -> None:
    module = write(flows("a"))
    engine = open_engine(park_idle_after=60.0)
    handle = engine.start(module.talk.options(id="one"))
    until(lambda: handle.status().waiting_for, "it waits")
    write(flows("a", version="2"))
    kill_coordinator(engine, "one")
    until(lambda: handle.status().status == "paused", "it is set aside")
    error = handle.status().error
    assert error is not None
    assert error.matches(rf.IncompatibleVersion)
    assert "version '2' now" in error.message
    assert "runs 'talk' version '1'" in error.message
    handle.signal("go")  # kept for when it goes on
    write(flows("b", more='rf.patched("check") and await checked()'))
    handle.resume()
    assert handle.result(timeout=60) == ["a", "b", "b"]
    assert [step.name for step in handle.status().steps] == ["said", "checked", "said"]


@pytest.mark.system
def test_what_passed_a_change_before_it_was_there_goes_on_as_before(open_engine: Open, write: Write) -> None:
    old = 'rf.state["passed"] = True\n    await rf.wait_for_signal("again")'
    new = 'rf.patched("check") and await checked()\n    ' + old
    module = write(flows("a", more=old))
    engine = open_engine(park_idle_after=0.2)
    handle = engine.start(module.talk.options(id="one"))
    handle.signal("go")
    until(lambda: handle.status().state.get("passed"), "it has passed the place")
    until_parked(engine, "one")
    write(flows("a", more=new))
    handle.signal("again")
    assert handle.result(timeout=60) == ["a", "a", "a"]
    assert [step.name for step in handle.status().steps] == ["said", "said"]
