from __future__ import annotations

import copy
import pickle
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cloudpickle
import pytest

import rayflow as rf
from rayflow.definition.base import Definition, collecting, find, importable, locate, locate_function
from tests.definition import agents
from tests.definition.agents import extract, length

declared = rf.Workflow("declared").add_step(extract())
quick = length.options(timeout=1)
double = rf.step(lambda n: n * 2, name="double")


class Box:
    @staticmethod
    @rf.step
    def within(n: int) -> int:
        return n


@rf.workflow
async def durable(n: int) -> int:
    return n


def through(obj: Any) -> Any:
    """What arrives in another process, as far as this one can tell."""
    return pickle.loads(cloudpickle.dumps(obj))


@pytest.fixture
def loaded_module() -> Iterator[types.ModuleType]:
    """A module that is loaded, and that no finder knows."""
    module = types.ModuleType("made_by_hand")
    sys.modules["made_by_hand"] = module
    yield module
    del sys.modules["made_by_hand"]


def test_what_a_module_holds_is_located_by_its_name() -> None:
    assert locate(length) == (agents.__name__, "length")
    assert locate(agents.extractor) == (agents.__name__, "extractor")
    assert locate(durable) == (__name__, "durable")
    assert locate(Box.within) == (__name__, "Box.within")


def test_what_has_another_name_is_located_where_it_was_made() -> None:
    assert locate(declared) == (__name__, "declared")
    assert locate(quick) == (__name__, "quick")
    assert locate(double) == (__name__, "double")


def test_what_no_module_holds_is_not_located() -> None:
    @rf.step
    def local(n: int) -> int:
        return n

    for lost in (local, length.options(timeout=3), rf.Workflow("w"), rf.Agent("a", run=len)):
        assert locate(lost) is None


def test_a_reference_arrives_as_the_same_object() -> None:
    for obj in (length, agents.extractor, durable, declared, quick, double):
        assert through(obj) is obj
        assert through([obj])[0] is obj


def test_a_value_arrives_whole() -> None:
    seven = 7

    @rf.step(timeout=5)
    def add(n: int) -> int:
        """Adds seven."""
        return n + seven

    with collecting() as found:
        arrived = through(add)
    assert found == [arrived]
    assert arrived is not add
    assert (arrived.fn(1), arrived.name, arrived.settings, arrived.__doc__) == (8, "add", add.settings, "Adds seven.")
    assert (arrived.returns, arrived.__wrapped__, arrived.origin) == (int, arrived.fn, arrived)


def test_a_derived_step_borrows_the_function_of_its_library() -> None:
    assert through(length.options(timeout=3)).fn is length.fn
    assert locate_function(length.fn) == (agents.__name__, "length")
    assert locate_function(length.fn, rf.WorkflowFunction) is None
    assert locate_function(len) is None


def test_a_function_may_refer_to_its_own_step() -> None:
    @rf.step
    def down(n: int) -> int:
        return 0 if n == 0 else 1 + int(down.fn(n - 1)) + int(lower.settings.timeout or 0)

    lower = down.options(timeout=1)

    with collecting() as found:
        arrived = through(down)
    assert arrived.fn(3) == 6
    steps = [step for step in found if isinstance(step, rf.Step)]
    assert [(step.settings.timeout, step.fn is arrived.fn) for step in steps] == [(None, True), (1, True)]


def test_steps_of_one_name_are_collected_apart() -> None:
    def make(n: int) -> rf.Step[[], int]:
        return rf.step(name="same")(lambda: n)

    one, two = make(1), make(2)

    @rf.workflow(id="both")
    async def both() -> int:
        return await one() + await two()

    with collecting() as found:
        through(both)
    assert [getattr(obj, "name", getattr(obj, "id", None)) for obj in found] == ["both", "same", "same"]
    assert sorted(obj.fn() for obj in found[1:] if obj.fn) == [1, 2]


def test_a_workflow_keeps_its_parts() -> None:
    workflow = rf.Workflow("w", name="W", description="d", version="3").add_step(extract())
    arrived = through(workflow)
    assert (arrived.id, arrived.name, arrived.description, arrived.version) == ("w", "W", "d", "3")
    assert arrived.part("extract/agent") is agents.extractor


def test_a_copy_of_a_step_is_another_step() -> None:
    twin = copy.copy(length)
    assert twin is not length
    assert (twin.fn, twin.name, twin.settings) == (length.fn, length.name, length.settings)


def test_which_modules_another_process_can_import(loaded_module: types.ModuleType) -> None:
    assert importable(__name__)
    assert [importable(name) for name in ("", "__main__", "__mp_main__", "never_loaded", "made_by_hand")] == [False] * 5


def test_a_module_registered_by_value_is_carried_along() -> None:
    cloudpickle.register_pickle_by_value(agents)
    try:
        assert not importable(agents.__name__)
        assert locate(length) is None
    finally:
        cloudpickle.unregister_pickle_by_value(agents)
    assert locate(length) is not None


# --- what is not there --------------------------------------------------------------------------------------
def test_a_module_that_cannot_be_imported_is_named() -> None:
    message = r"cannot import module 'gone_away', which holds 'run' \(ModuleNotFoundError: .*sys.path there is \["
    with pytest.raises(rf.IncompatibleVersion, match=message):
        find("gone_away", "run")


def test_a_module_that_raises_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "raises_on_import.py").write_text("raise OSError('no disk')\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(rf.IncompatibleVersion, match=r"cannot import module 'raises_on_import'.*OSError: no disk"):
        find("raises_on_import", "run")


def test_an_attribute_that_is_not_there_is_named() -> None:
    message = r"module 'tests.definition.agents' \(.*agents.py\) has no 'gone'.*if it was renamed, keep the old name"
    with pytest.raises(rf.IncompatibleVersion, match=message):
        find(agents.__name__, "gone")
    with pytest.raises(rf.IncompatibleVersion, match=r"has no 'length.gone'"):
        find(agents.__name__, "length.gone")


def test_what_is_no_definition_any_more_is_refused() -> None:
    with pytest.raises(
        rf.IncompatibleVersion, match=r"tests.definition.agents:extract is a function now, and no longer a step"
    ):
        find(agents.__name__, "extract")


def test_home_is_the_module_that_made_it() -> None:
    made: list[Definition] = [length, quick, double, declared, agents.extractor, durable]
    assert [obj.home.rpartition(".")[2] for obj in made] == [
        "agents",
        "test_base",
        "test_base",
        "test_base",
        "agents",
        "test_base",
    ]
