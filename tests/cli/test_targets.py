"""Targets and inputs of ``rayflow run``."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

import pytest

from rayflow.cli import exit_codes
from rayflow.cli.inputs import MISSING, arguments
from rayflow.definition.function import workflow
from tests.cli.project import Project


def test_a_file_is_imported_under_its_name_and_recorded_by_reference(project: Project) -> None:
    folder = project.folder / "deeper"
    folder.mkdir()
    moved = folder / f"{project.name}_deeper.py"
    moved.write_text(project.file.read_text())
    done = project("run", f"deeper/{moved.name}:nothing", "--local", "--quiet")
    assert (done.code, done.out) == (exit_codes.COMPLETED, "nothing needed\n")
    assert sys.path[0] == str(folder)
    [saved] = project("workflows", "--json").json
    assert (saved["code"]["kind"], saved["code"]["module"]) == ("ref", moved.stem)


@pytest.mark.parametrize("name", ["shout", "Box.inner"])
def test_a_module_is_found_in_the_working_directory_and_the_object_may_be_dotted(project: Project, name: str) -> None:
    done = project("run", f"{project.name}:{name}", "--local", "--quiet", "--input", '"a"')
    assert (done.code, done.out) == (exit_codes.COMPLETED, "A\n")


def test_a_saved_workflow_is_run_by_its_id_with_the_same_input_rules(project: Project) -> None:
    project.run("several", "--input", '["a", {"begin": "2026-01-02", "days": 3}]')
    done = project(
        "run", "several", "--local", "--quiet", "--input", '{"name": "b", "window": {"begin": "2026-01-02", "days": 4}}'
    )
    assert (done.code, done.out) == (exit_codes.COMPLETED, "b Window 2026-01-02 4\n")


def test_a_saved_workflow_runs_from_another_folder(
    project: Project, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.run("shout", "--input", '"a"')
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    done = project("run", "shout", "--local", "--quiet", "--input", '"b"')
    assert (done.code, done.out) == (exit_codes.COMPLETED, "B\n")


def test_a_declared_workflow_answers_its_final_state(project: Project) -> None:
    done = project.run("declared", "--input", '{"input": "x"}', "--json")
    assert done.json["result"] == {"input": "x", "stamped": "<x>"}
    assert [(stage["name"], stage["status"]) for stage in done.json["stages"]] == [("stamping", "completed")]


@pytest.mark.parametrize(
    ("target", "said"),
    [
        (
            "{file}:nope",
            "{file} has no 'nope'; workflows in it: shout, order, several, nothing, many, broken, long, declared",
        ),
        ("{file}:loud", "{file}:loud is a step, not a workflow (@rf.workflow or rf.Workflow); workflows in it: "),
        ("{file}:Order", "{file}:Order is a ModelMetaclass, not a workflow"),
        ("{file}:Box.number", "{file}:Box.number is an int, not a workflow"),
        ("{file}:", "{file} has no ''; workflows in it: "),
        ("{file}", "{file} needs the name of a workflow: {file}:NAME; workflows in it: shout, "),
        ("{module}.nope:x", "no module is named '{module}.nope'"),
        ("nope_at_all:x", "no module is named 'nope_at_all', neither in "),
        ("nope.py:x", "no file nope.py exists in "),
        (":x", "':x' does not name a module or file: TARGET is module:object, path/file.py:object, or the id of"),
        ("a-b:x", "'a-b' is not the name of a module"),
        ("nope", "'nope' is neither module:object nor file.py:object, and as an id: no store exists at "),
    ],
)
def test_a_target_that_is_none_is_wrong_usage(project: Project, target: str, said: str) -> None:
    names = {"file": project.file.name, "module": project.name}
    done = project("run", target.format(**names), "--local")
    assert done.code == exit_codes.USAGE
    assert done.err.startswith(f"rayflow: {said.format(**names)}")
    assert done.err.count("\n") == 1


def test_an_unknown_id_lists_the_known_ones(project: Project) -> None:
    project.run("nothing")
    done = project("run", "nope", "--local")
    assert done.code == exit_codes.USAGE
    assert "no workflow 'nope' is registered in this store; registered here: nothing." in done.err


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("json", "json.py has the name of Python's own module 'json' and would hide it: rename the file"),
        ("pydantic", "pydantic.py has the name of another module, 'pydantic' ("),
        ("ray", "ray.py has the name of another module, 'ray' ("),
        ("two.dots", "two.dots.py cannot be imported under its own name"),
        ("__init__", "__init__.py cannot be imported under its own name"),
    ],
)
def test_a_file_whose_name_is_taken_is_refused(project: Project, name: str, said: str) -> None:
    Path(f"{name}.py").write_text(project.file.read_text())
    done = project("run", f"{name}.py:shout", "--local")
    assert done.code == exit_codes.USAGE
    assert done.err.startswith(f"rayflow: {said}")


def test_two_files_of_one_name_are_not_mixed_up(project: Project) -> None:
    (project.folder / "other").mkdir()
    other = project.folder / "other" / project.file.name
    other.write_text(project.file.read_text())
    assert project.run("nothing").code == exit_codes.COMPLETED
    done = project("run", f"other/{other.name}:nothing", "--local")
    assert done.code == exit_codes.USAGE
    assert f"has the name of another module, '{project.name}' ({project.file})" in done.err


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("x = 1\ny = x / 0\n", "ZeroDivisionError: division by zero ({file}, line 2)"),
        ("def f(:\n", "SyntaxError: invalid syntax ({name}, line 1)"),
        ("import not_there\n", "ModuleNotFoundError: No module named 'not_there' ({file}, line 1)"),
        ("import sys\nsys.exit(3)\n", "ended the program during its import (exit 3): put the code that runs it"),
        ("from . import x\n", "in a package, write module:object instead"),
        ("import rayflow as rf\n@rf.workflow\ndef f(): ...\n", "DefinitionError: workflow 'f' must be an `async def`"),
    ],
)
def test_an_error_during_an_import_is_reported_with_its_place(project: Project, code: str, said: str) -> None:
    file = project.folder / f"{project.name}_bad.py"
    file.write_text(code)
    done = project("run", f"{file.name}:x", "--local")
    assert done.code == exit_codes.USAGE
    assert done.err.startswith("rayflow: ")
    assert said.format(file=file, name=file.name) in done.err
    assert done.err.count("\n") == 1


@pytest.mark.parametrize(
    ("target", "given", "result"),
    [
        ("nothing", [], "nothing needed"),
        ("shout", ["--input", '"a"'], "A"),
        ("order", ["--input", '{"item": "cup", "count": 2}'], "Order cup x2"),
        ("several", ["--input", '["a", {"begin": "2026-01-02", "days": 3}, 2]'], "a Window 2026-01-02 6"),
    ],
)
def test_input_becomes_the_arguments(project: Project, target: str, given: list[str], result: str) -> None:
    done = project.run(target, *given, "--quiet")
    assert (done.code, done.out) == (exit_codes.COMPLETED, f"{result}\n")


def test_input_comes_from_a_file_or_from_stdin(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("in.json").write_text('\ufeff"from a file"', encoding="utf-8")
    assert project.run("shout", "--input", "@in.json", "--quiet").out == "FROM A FILE\n"
    monkeypatch.setattr(sys, "stdin", io.StringIO('"from stdin"'))
    assert project.run("shout", "--input", "@-", "--quiet").out == "FROM STDIN\n"


@pytest.mark.parametrize(
    ("target", "given", "said"),
    [
        (
            "shout",
            None,
            "workflow 'shout': missing a required argument: 'text'; it takes (text: str) -> str; set it with --input",
        ),
        ("shout", "3", "--input: parameter 'text' does not fit: Input should be a valid string (given: 3)"),
        ("shout", "null", "--input: parameter 'text' does not fit: Input should be a valid string (given: None)"),
        (
            "shout",
            "hello",
            "--input is not JSON: Expecting value in line 1, column 1, before 'hello'; a string needs its quotes: ",
        ),
        (
            "order",
            '{"item": "cup",\n "count"',
            "--input is not JSON: Expecting ':' delimiter in line 2, column 9, at its end",
        ),
        (
            "order",
            '{"item": "cup", "count": "x"}',
            "--input: parameter 'it' does not fit: count: Input should be a valid integer",
        ),
        (
            "order",
            '{"it": {"item": "cup"}}',
            "--input: parameter 'it' does not fit: item: Field required; 'it' is the only",
        ),
        ("several", '"a"', "--input: workflow 'several' takes (name: str, window: "),
        ("several", '["a"]', "--input: workflow 'several': missing a required argument: 'window'"),
        ("several", '{"nam": "a"}', "--input: workflow 'several': missing a required argument: 'name'"),
        (
            "several",
            '{"name": "a", "window": {"begin": "x", "days": 1}}',
            "--input: parameter 'window' does not fit: begin: ",
        ),
        ("nothing", "{}", "workflow 'nothing' takes no input"),
        ("declared", "[1]", "--input: workflow 'declared' takes its initial state, one dict, not list"),
        ("shout", "@nope.json", "--input @nope.json: [Errno 2] No such file or directory: 'nope.json'"),
    ],
)
def test_input_that_does_not_fit_is_wrong_usage(project: Project, target: str, given: str | None, said: str) -> None:
    done = project.run(target, *([] if given is None else ["--input", given]))
    assert done.code == exit_codes.USAGE
    assert done.err.startswith(f"rayflow: {said}")
    assert project.files() == {project.file.name}, "nothing is started for input that does not fit"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (MISSING, ((), {})),
        (["a", "b"], (("a", "b"), {})),
        ({"x": 1, "y": "2"}, ((), {"x": 1, "y": 2})),
    ],
)
def test_collecting_parameters_take_arrays_and_objects(value: Any, expected: object) -> None:
    @workflow
    async def many(*words: str, **numbers: int) -> None: ...

    assert arguments(many, value) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [(MISSING, ((), {})), ([1, 2], ((1, 2), {})), ({"a": 1}, (({"a": 1},), {})), (None, ((None,), {}))],
)
def test_without_the_code_an_array_holds_the_arguments(value: Any, expected: object) -> None:
    assert arguments(None, value) == expected


def test_the_only_parameter_may_be_by_keyword_only() -> None:
    @workflow
    async def named(*, limit: float) -> None: ...

    assert arguments(named, 3) == ((), {"limit": 3.0})


def test_an_annotation_that_cannot_be_resolved_leaves_the_value_as_it_is() -> None:
    async def odd(it) -> None:  # type: ignore[no-untyped-def]  # noqa: ANN001
        ...

    odd.__annotations__["it"] = "NotThere"
    assert arguments(workflow(odd), {"a": 1}) == (({"a": 1},), {})
