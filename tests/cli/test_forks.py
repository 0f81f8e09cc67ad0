"""``rayflow fork``: recorded and repeated steps of a fork, and wrong usage."""

from __future__ import annotations

import sys

import pytest

from rayflow.cli import exit_codes, watch
from rayflow.client.local import LocalEngine
from tests.cli.project import Project

_FLOWS = """


@rf.step
async def quiet(text: str) -> str:
    return text.lower()


@rf.workflow
async def drafted(topic: str, size: int = 1) -> list[object]:
    first = await loud(topic)
    second = await quiet(f"{first} {size}")
    return [second, dict(rf.state)]


@rf.workflow
async def guarded() -> str:
    async with rf.lock("ledger"):
        return await loud("held")
"""

_NEWER = """

@rf.workflow(id="drafted", version="2")
async def newer(topic: str, size: int = 1) -> str:
    await loud(topic)
    return await quiet(f"{topic} BY VERSION 2")
"""


@pytest.fixture
def drafted(project: Project) -> Project:
    """A store with "one", which has run the steps "loud" and "quiet"."""
    project.file.write_text(project.file.read_text() + _FLOWS)
    assert project.run("drafted", "--input", '{"topic": "Tides"}', "--id", "one").code == exit_codes.COMPLETED
    return project


def fork(project: Project, *words: str) -> object:
    """Run a fork that must complete, and return its result."""
    done = project("fork", *words, "--local", "--json")
    assert done.code == exit_codes.COMPLETED, done.err
    assert done.json["forked_from"] == words[0]
    return done.json["result"]


def test_a_local_fork_reuses_recorded_steps_and_waits(drafted: Project) -> None:
    done = drafted("fork", "one", "--before", "quiet", "--id", "two", "--local")
    assert done.code == exit_codes.COMPLETED
    assert done.err == "execution two is a fork of one before step quiet\n"
    lines = done.out.splitlines()
    assert lines[0].startswith("two completed: 2 steps in ")  # the step "loud" did not run again
    assert lines[1] == 'result: ["tides 1", {}]'
    assert "forked from  one\n" in drafted("show", "two").out


def test_the_step_may_be_given_by_its_number(drafted: Project) -> None:
    done = drafted("fork", "one", "--before", "1", "--id", "two", "--local")
    assert done.err == "execution two is a fork of one before step 1\n"
    assert done.out.splitlines()[0] == "step says Tides"


def test_input_and_state_may_be_others(drafted: Project) -> None:
    assert fork(drafted, "one", "--before", "2", "--input", '{"topic": "Rivers", "size": 7}') == ["tides 7", {}]
    assert fork(drafted, "one", "--before", "1", "--input", '["Rivers"]') == ["rivers 1", {}]
    (drafted.folder / "people.json").write_text('["ada"]')
    states = ["--state", "size=3", "--state", 'name="a=b"', "--state", "people=@people.json"]
    assert fork(drafted, "one", "--before", "2", *states) == [
        "tides 1", {"size": 3, "name": "a=b", "people": ["ada"]},
    ]  # fmt: skip


def test_a_fork_may_run_another_saved_version(drafted: Project) -> None:
    drafted.file.write_text(drafted.file.read_text() + _NEWER)
    sys.modules.pop(drafted.name)
    drafted.run("newer", "--input", '["x"]')
    done = drafted("fork", "one", "--before", "quiet", "--version", "2", "--input", '["y"]', "--local", "--json")
    assert (done.code, done.json["version"], done.json["result"]) == (exit_codes.COMPLETED, "2", "y by version 2")


def test_a_fork_inside_a_lock_needs_allow_reacquire(drafted: Project) -> None:
    drafted.run("guarded", "--id", "two")
    refused = drafted("fork", "two", "--before", "loud", "--local")
    assert (refused.code, refused.out) == (exit_codes.USAGE, "")
    assert "it is at a point where lock 'ledger' is open" in refused.err
    assert "--allow-reacquire" in refused.err
    assert fork(drafted, "two", "--before", "loud", "--allow-reacquire") == "HELD"


@pytest.mark.parametrize("wait", [False, True])
def test_a_fork_on_a_cluster_is_waited_for_on_request(
    drafted: Project, monkeypatch: pytest.MonkeyPatch, *, wait: bool
) -> None:
    # An engine of this process that works as one on a cluster does.
    monkeypatch.setattr(watch, "open_engine", lambda args, recover: LocalEngine(drafted.store, recover=False))
    done = drafted("fork", "one", "--before", "quiet", "--id", "two", *(["--wait"] if wait else []))
    assert done.code == exit_codes.COMPLETED
    if wait:
        assert done.out.startswith("two completed: ")
    else:
        assert done.out == "two\n"
        assert done.err.splitlines()[1] == "to wait for the result: rayflow wait two"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nope", "--before", "loud"], "no execution 'nope' in this store; `rayflow list` shows those that there are"),
        (["nope", "--before", "loud", "--input", "1"], "no execution 'nope' in this store"),
        (["one", "--before", "draft"], "cannot fork execution 'one': it is not at call 'draft'. "),
        (["one", "--before", "3"], "cannot fork execution 'one': it is not at call 3. Its calls so far (2): loud, "),
        (
            ["one", "--before", "loud", "--id", "one"],
            "execution 'one' exists already, and a fork needs an id that no execution has",
        ),
        (["one", "--before", "loud", "--id", "a b"], "execution id 'a b' is not valid"),
        (["one", "--before", "loud", "--version", "9"], "no workflow 'drafted (version 9)' is registered in this"),
        (["one", "--before", "loud", "--input", "x"], "--input is not JSON: "),
        (["one", "--before", "loud", "--input", '{"topic": 5}'], "--input: parameter 'topic' does not fit: "),
        (["one", "--before", "loud", "--input", '{"size": 5}'], "--input: workflow 'drafted': missing a required"),
        (["one", "--before", "loud", "--state", "x"], "--state needs a key and its value as JSON, such as --state"),
        (["one", "--before", "loud", "--state", "=1"], "--state needs a key and its value as JSON, such as --state"),
        (["one", "--before", "loud", "--state", "x=ada"], "--state x is not JSON: Expecting value in line 1, column"),
        (["one", "--before", "loud", "--state", "x=1", "--state", "x=2"], "--state gives 'x' twice"),
    ],
)
def test_a_wrong_fork_is_wrong_usage_and_starts_nothing(drafted: Project, words: list[str], said: str) -> None:
    done = drafted("fork", *words, "--local")
    assert (done.code, done.out) == (exit_codes.USAGE, "")
    assert done.err.startswith(f"rayflow: {said}")
    assert len(drafted("list", "--json").json["executions"]) == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "the following arguments are required: ID, --before"),
        (["one"], "the following arguments are required: --before"),
        (["one", "--before", "0"], "argument --before: needs at least 1, not 0"),
        (["one", "--before", "-1"], "argument --before: needs at least 1, not -1"),
    ],
)
def test_wrong_words_are_wrong_usage(project: Project, words: list[str], said: str) -> None:
    done = project("fork", *words)
    assert done.code == exit_codes.USAGE
    assert done.err.endswith(f"rayflow fork: error: {said}\n")
