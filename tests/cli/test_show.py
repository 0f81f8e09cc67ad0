"""``rayflow list``, ``show`` and ``workflows``: they only read the store, and import no user code."""

from __future__ import annotations

import asyncio
import datetime as dt
import sys
from typing import Any

import pytest

import rayflow as rf
from rayflow.cli import exit_codes, main, show
from rayflow.client.local import LocalEngine
from tests.cli.project import Project


def test_list_shows_the_newest_first_and_filters(project: Project) -> None:
    project.run("nothing", "--id", "a")
    project.run("broken", "--id", "b")
    project.run("nothing", "--id", "c")
    assert [row["execution_id"] for row in project("list", "--json").json["executions"]] == ["c", "b", "a"]
    assert [row["execution_id"] for row in project("list", "--json", "--status", "failed").json["executions"]] == ["b"]
    assert [row["execution_id"] for row in project("list", "--json", "--workflow", "nothing").json["executions"]] == [
        "c",
        "a",
    ]
    assert [row["execution_id"] for row in project("list", "--json", "--limit", "1").json["executions"]] == ["c"]
    lines = project("list").out.splitlines()
    assert lines[0].split() == ["ID", "WORKFLOW", "STATUS", "CREATED", "DURATION", "REASON"]
    assert [line.split()[:3] for line in lines[1:]] == [
        ["c", "nothing", "completed"],
        ["b", "broken", "failed"],
        ["a", "nothing", "completed"],
    ]
    assert lines[2].endswith("ValueError: no")


def test_list_pages_by_a_condition(project: Project) -> None:
    with LocalEngine(project.store) as engine:
        for number in range(5):
            given = {"customer": "acme" if number % 2 else "other", "number": number}
            engine.start(sleepy.options(id=f"e{number}", attributes=given))
        page = engine.list(where="attr.number >= 1", limit=2)
        assert [one.execution_id for one in page] == ["e4", "e3"]
        assert page[0].attributes == {"customer": "other", "number": 4}
        rest = engine.list(where="attr.number >= 1", limit=2, after=page.next)
        assert ([one.execution_id for one in rest], rest.next) == (["e2", "e1"], None)
        with pytest.raises(rf.InvalidArgument, match="where, position 1: unknown field 'customer'"):
            engine.list(where="customer = 'acme'")
    command = ("list", "--where", "attr.customer = 'acme'", "--limit", "1")
    first = project(*command, "--json").json
    assert [row["execution_id"] for row in first["executions"]] == ["e3"]
    second = project(*command, "--json", "--after", first["next"]).json
    assert ([row["execution_id"] for row in second["executions"]], second["next"]) == (["e1"], None)
    assert second["executions"][0]["attributes"] == {"customer": "acme", "number": 1}
    said = project(*command)
    assert said.err == f"more with --after {first['next']}\n"
    shown = project("show", "e3")
    assert "attributes   customer = 'acme', number = 3" in shown.out
    wrong = project("list", "--where", "attr.customer = acme")
    assert wrong.code == exit_codes.USAGE
    assert "where, position 17: found acme where a value must be; a text stands in quotes" in wrong.err
    assert "is not a cursor" in project("list", "--after", "x").err


@rf.workflow
async def sleepy() -> None:
    """Sleeps."""
    await asyncio.sleep(3600)


def test_show_tells_all_of_an_execution(project: Project) -> None:
    project.run("shout", "--input", '"hello"', "--id", "one")
    shown = project("show", "one")
    assert shown.code == exit_codes.COMPLETED
    facts = dict(line.split(maxsplit=1) for line in shown.out.split("\n\n")[0].splitlines())
    assert facts["execution"] == "one"
    assert facts["workflow"] == "shout (version 1)"
    assert facts["status"] == "completed"
    assert facts["coordinator"].startswith("rayflow:coordinator:")
    assert facts["coordinator"].endswith("(epoch 1)")
    dt.datetime.strptime(facts["created"], "%Y-%m-%d %H:%M:%S").astimezone()
    _, steps, result = shown.out.rstrip().split("\n\n")
    assert steps.splitlines()[1].split()[:4] == ["1", "loud", "completed", "1"]
    assert result == "result: HELLO"


def test_show_full_adds_results_and_tracebacks(project: Project) -> None:
    project.run("shout", "--input", '"hello"', "--id", "one")
    assert "step 1 loud: result: HELLO" in project("show", "one", "--full").out
    project.run("broken", "--id", "two")
    assert "Traceback" not in project("show", "two").out
    full = project("show", "two", "--full").out
    assert "traceback\n  Traceback (most recent call last):\n" in full
    assert "  ValueError: no\n  and more\n" in full


def test_show_describes_a_result_without_importing_or_unpickling(project: Project) -> None:
    (project.folder / "own.py").write_text(
        "import rayflow as rf\nfrom dataclasses import dataclass\n"
        "@dataclass\nclass Mine:\n    x: int\n"
        "class Odd:\n    def __reduce__(self): return (print, ('unpickled',))\n"
        "@rf.workflow\nasync def make() -> list[object]:\n    return [Mine(3), Odd()]\n"
    )
    assert project("run", "own.py:make", "--local", "--id", "one", "--quiet").code == exit_codes.COMPLETED
    (project.folder / "own.py").unlink()
    del sys.modules["own"]
    shown = project("show", "one", "--json")
    mine, odd = shown.json["result"]
    assert mine == {"__type__": "own:Mine", "x": 3}
    assert odd.startswith("<pickled ")
    assert "unpickled" not in shown.out + shown.err
    assert "own" not in sys.modules


def test_show_tells_the_stages_and_the_state_of_a_declared_workflow(project: Project) -> None:
    project.run("declared", "--input", '{"input": "x"}', "--id", "one")
    shown = project("show", "one").out
    stages = next(part for part in shown.split("\n\n") if part.startswith("STAGE"))
    assert stages.splitlines()[1].split() == ["0", "stamping", "completed"]
    assert 'state: {"input": "x", "stamped": "<x>"}' in shown


def test_looking_starts_nothing_and_leaves_no_file(project: Project) -> None:
    project.run("nothing", "--id", "one")
    before = project.files()
    content = (project.folder / "flows.db").read_bytes()
    for words in (["list"], ["show", "one"], ["workflows"], ["list", "--json"]):
        assert project(*words).code == exit_codes.COMPLETED
    assert project.files() == before
    assert (project.folder / "flows.db").read_bytes() == content


def test_looking_works_while_an_engine_writes(project: Project) -> None:
    with LocalEngine(project.store):
        project_list = project("list", "--json")
    assert (project_list.code, project_list.json) == (exit_codes.COMPLETED, {"executions": [], "next": None})


@pytest.mark.parametrize("words", [["list"], ["show", "one"], ["workflows"], ["metrics", "--local"]])
def test_a_store_that_is_not_there_is_an_error_and_is_not_made(project: Project, words: list[str]) -> None:
    done = project(*words)
    assert done.code == exit_codes.USAGE
    assert done.out == ""
    assert done.err == (
        f"rayflow: no store exists at {project.folder / 'flows.db'}; name another one with --store or RAYFLOW_STORE\n"
    )
    assert project.files() == {project.file.name}


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("flows.db", "'flows.db' is not a store URL. For a file, write sqlite:///flows.db"),
        ("redis://x", "'redis://x': scheme redis:// is not supported"),
        ("memory://", "memory:// exists only in the process that created it"),
    ],
)
def test_a_wrong_store_url_is_wrong_usage(project: Project, url: str, said: str) -> None:
    done = project("list", "--store", url)
    assert done.code == exit_codes.USAGE
    assert done.err.startswith(f"rayflow: {said}")


def test_the_store_option_counts_for_more_than_the_environment(project: Project) -> None:
    project.run("nothing", "--id", "one", "--store", "sqlite:///other.db")
    assert project("list", "--store", "sqlite:///other.db", "--json").json["executions"][0]["execution_id"] == "one"
    assert project("list").code == exit_codes.USAGE


def test_an_unknown_execution_is_wrong_usage(project: Project) -> None:
    project.run("nothing")
    done = project("show", "nope")
    assert (done.code, done.out) == (exit_codes.USAGE, "")
    assert done.err == "rayflow: no execution 'nope' in this store; `rayflow list` shows those that there are\n"


def test_workflows_lists_what_was_saved(project: Project) -> None:
    project.run("shout", "--input", '"a"')
    lines = project("workflows").out.splitlines()
    assert lines[0].split() == ["ID", "VERSION", "UNFINISHED", "SAVED", "CODE", "ABOUT"]
    assert lines[1].startswith("shout  1")
    assert lines[1].endswith(f"{project.name}:shout  Says it louder.")


_FAMILY = """

@rf.workflow
async def leaf(number: int) -> int:
    if number < 0:
        raise ValueError("below zero")
    return number


@rf.workflow
async def branch(numbers: list[int]) -> int:
    total = 0
    for number in numbers:
        try:
            total += await leaf(number)
        except rf.ChildFailed:
            total -= 1
    return total


@rf.workflow
async def root(rows: list[list[int]]) -> int:
    return sum([await branch(row) for row in rows])
"""


@pytest.fixture
def family(project: Project) -> Project:
    """A store with "one", its two children and its three grandchildren, of which one failed."""
    project.file.write_text(project.file.read_text() + _FAMILY)
    assert project.run("root", "--input", "[[1, -2], [3]]", "--id", "one").code == exit_codes.COMPLETED
    return project


def test_show_lists_the_children_and_as_a_tree_all_descendants(family: Project) -> None:
    shown = family("show", "one")
    children = next(part for part in shown.out.split("\n\n") if part.startswith("CHILD"))
    assert [line.split() for line in children.splitlines()[1:]] == [
        ["one.1", "branch", "completed", "1"],
        ["one.2", "branch", "completed", "2"],
    ]
    tree = family("show", "one", "--tree").out.rstrip().split("\n\n")
    assert not any(part.startswith("CHILD") for part in tree)
    titles, *lines = tree[-1].splitlines()
    assert titles.split() == ["EXECUTION", "WORKFLOW", "STATUS", "STEP", "DURATION", "REASON"]
    assert [line[:14].rstrip() for line in lines] == [
        "one", "├─ one.1", "│  ├─ one.1.1", "│  └─ one.1.2", "└─ one.2", "   └─ one.2.1",
    ]  # fmt: skip
    assert lines[3].endswith("ValueError: below zero")
    assert "failed" in lines[3]


def test_a_tree_as_json_is_nested(family: Project) -> None:
    found = family("show", "one", "--json", "--tree").json
    assert found["execution_id"] == "one"
    assert "tree" not in family("show", "one", "--json").json

    def nested(branch: dict[str, Any]) -> list[Any]:
        return [branch["execution_id"], branch["step"], *map(nested, branch["children"])]

    assert nested(found["tree"]) == [
        "one",
        0,
        ["one.1", 1, ["one.1.1", 1], ["one.1.2", 2]],
        ["one.2", 2, ["one.2.1", 1]],
    ]
    assert found["tree"]["children"][0]["children"][1]["status"] == "failed"
    assert found["tree"]["more_children"] is False


@pytest.mark.parametrize(
    ("most", "depth", "shown"),
    [
        (3, 9, ["one", "one.1", "one.1.1", "(one.1)", "one.2", "(one.2)"]),
        (1, 9, ["one", "one.1", "(one.1)", "(one)"]),
        (9, 1, ["one", "one.1", "(one.1)", "one.2", "(one.2)"]),
    ],
)
def test_a_tree_is_bounded_and_says_where_more_is(
    family: Project, monkeypatch: pytest.MonkeyPatch, most: int, depth: int, shown: list[str]
) -> None:
    monkeypatch.setattr(show, "TREE_MOST", most)
    monkeypatch.setattr(show, "TREE_DEPTH", depth)
    lines = family("show", "one", "--tree").out.rstrip().split("\n\n")[-1].splitlines()[1:]
    names = [line.strip("│├└─ ").split()[0] for line in lines]
    found = [f"({line.split()[-1]})" if name == "…" else name for name, line in zip(names, lines, strict=True)]
    assert found == shown
    assert all("rayflow list --parent " in line for name, line in zip(names, lines, strict=True) if name == "…")


def test_list_filters_by_parent_and_schedule(family: Project) -> None:
    assert [row["execution_id"] for row in family("list", "--parent", "one.1", "--json").json["executions"]] == [
        "one.1.1",
        "one.1.2",
    ]
    assert family("list", "--parent", "one.1.1").out == "no executions\n"
    assert family("list", "--schedule", "nightly").out == "no executions\n"
    with LocalEngine(family.store) as engine:
        assert [one.execution_id for one in engine.list(parent="one")] == ["one.1", "one.2"]
        assert engine.list(schedule="nightly") == []


def test_workflows_count_what_is_unfinished_also_of_what_is_not_saved(family: Project) -> None:
    family.run("long", "--id", "two", "--timeout", "0.05")
    rows = {row["workflow_id"]: row for row in family("workflows", "--json").json}
    assert {name: row["unfinished"] for name, row in rows.items()} == {"long": 1, "root": 0}


def test_python_dash_m_is_the_same_command(project: Project) -> None:
    with project.spawn("--version") as process:
        out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (exit_codes.COMPLETED, "")
    assert out.startswith("rayflow ")


def test_a_reader_that_goes_away_is_no_defect(project: Project) -> None:
    project.run("nothing")
    with project.spawn("list") as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None
        err = process.stderr.read()
        process.wait(timeout=60)
    assert (process.returncode, err) == (exit_codes.READER_GONE, "")


def test_the_console_command_is_this_main() -> None:
    import tomllib

    from tests.architecture.tree import ROOT

    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert scripts["rayflow"] == f"{main.__module__.removesuffix('.commands')}:{main.__name__}"
