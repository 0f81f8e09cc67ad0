"""One workflow for each id and version: edits are welcome, two that take turns are refused."""

from __future__ import annotations

import importlib
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import rayflow as rf

Write = Callable[..., Any]

FLOW = """
import rayflow as rf

@rf.workflow(id="{id}")
async def {name}():
    return "{said}"
"""


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[rf.LocalEngine]:
    """An engine with a store of its own."""
    with rf.LocalEngine(f"sqlite:///{tmp_path}/flows.db") as made:
        yield made


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Write]:
    """Write a module and import it, again if it was imported before."""
    prefix = f"ids_{uuid.uuid4().hex[:6]}"
    folder = tmp_path / "code"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))

    def written(module: str, text: str) -> Any:
        (folder / f"{prefix}_{module}.py").write_text(text)
        sys.modules.pop(f"{prefix}_{module}", None)
        importlib.invalidate_caches()
        return importlib.import_module(f"{prefix}_{module}")

    yield written
    for name in [name for name in sys.modules if name.startswith(prefix)]:
        del sys.modules[name]


def flow(said: str, *, name: str = "flow", id: str = "same") -> str:
    """Return the text of a module with one workflow."""
    return FLOW.format(said=said, name=name, id=id)


def test_an_edit_in_the_same_place_is_the_same_workflow(engine: rf.LocalEngine, write: Write) -> None:
    for said in ("one", "another"):
        assert engine.start(write("a", flow(said)).flow).result(timeout=60) == said
    assert engine.start(rf.SavedWorkflow("same")).result(timeout=60) == "another"


def test_two_modules_with_one_id_are_refused(engine: rf.LocalEngine, write: Write) -> None:
    first, second = write("a", flow("a")), write("b", flow("b"))
    assert engine.start(first.flow).result(timeout=60) == "a"
    with pytest.raises(rf.DefinitionError) as caught:
        engine.start(second.flow)
    said = str(caught.value)
    assert "workflow id 'same' (version '1') belongs to two workflows" in said
    assert f"{first.__name__}:flow, which was recorded first, and {second.__name__}:flow" in said
    assert "@rf.workflow(id=…)" in said
    assert engine.start(rf.SavedWorkflow("same")).result(timeout=60) == "a"


def test_another_engine_refuses_them_as_well(tmp_path: Path, write: Write) -> None:
    first, second = write("a", flow("a")), write("b", flow("b"))
    store = f"sqlite:///{tmp_path}/flows.db"
    with rf.LocalEngine(store) as engine:
        engine.register(first.flow)
    del sys.modules[first.__name__]  # as in another process, which has not imported it
    with rf.LocalEngine(store) as engine, pytest.raises(rf.DefinitionError, match="two workflows"):
        engine.register(second.flow)


def test_a_workflow_that_was_moved_or_renamed_is_the_same(engine: rf.LocalEngine, write: Write) -> None:
    engine.register(write("a", flow("a")).flow)
    write("a", "")
    engine.register(write("b", flow("b")).flow)
    engine.register(write("b", flow("b", name="renamed")).renamed)
    assert engine.start(rf.SavedWorkflow("same")).result(timeout=60) == "b"


def test_one_that_got_another_id_gives_its_own_free(engine: rf.LocalEngine, write: Write) -> None:
    engine.register(write("a", flow("a")).flow)
    write("a", flow("a", id="other"))
    engine.register(write("b", flow("b")).flow)


def test_a_workflow_that_replaces_another_one_is_told_so(engine: rf.LocalEngine, write: Write) -> None:
    first, second = write("a", flow("a")), write("b", flow("b"))
    engine.register(first.flow)
    assert engine.delete_workflow("same")
    assert engine.start(second.flow).result(timeout=60) == "b"


def test_two_in_one_module_are_refused(engine: rf.LocalEngine, write: Write) -> None:
    module = write("a", flow("a") + flow("b", name="twin"))
    assert engine.start(module.flow).result(timeout=60) == "a", "nobody has started the other one"
    with pytest.raises(rf.DefinitionError, match="twin"):
        engine.start(module.twin)


def test_versions_are_workflows_of_their_own(engine: rf.LocalEngine, write: Write) -> None:
    module = write("a", flow("a") + flow("b", name="newer").replace('id="same"', 'id="same", version="2"'))
    assert [engine.start(each).result(timeout=60) for each in (module.flow, module.newer)] == ["a", "b"]


def test_one_function_with_other_values_in_its_closure_is_refused(engine: rf.LocalEngine) -> None:
    def make(answer: str, id: str = "same") -> Any:
        @rf.workflow(id=id)
        async def same() -> str:
            return answer

        return same

    assert [engine.start(make("A")).result(timeout=60) for _ in range(2)] == ["A", "A"]
    with pytest.raises(rf.DefinitionError, match="same with one value of answer, and the same function with another"):
        engine.start(make("B"))
    assert engine.start(make("B", id="other")).result(timeout=60) == "B"
    assert engine.delete_workflow("same")
    assert engine.start(make("B")).result(timeout=60) == "B"


def test_a_module_that_is_run_as_a_script_is_the_same_workflow(tmp_path: Path) -> None:
    store = f"sqlite:///{tmp_path}/flows.db"
    main = f"if __name__ == '__main__':\n    with rf.LocalEngine({store!r}) as e:\n        print(e.execute(flow))\n"
    (tmp_path / "script.py").write_text(flow("said") + main)
    by_import = f"import rayflow as rf, script\nwith rf.LocalEngine({store!r}) as e: print(e.execute(script.flow))"
    for _ in range(2):
        for command in (["script.py"], ["-c", by_import]):
            done = subprocess.run(
                [sys.executable, *command], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=100
            )
            assert (done.returncode, done.stdout) == (0, "said\n"), done.stderr
