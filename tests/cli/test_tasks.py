"""``rayflow tasks``: every attempt, from the store alone or from a running cluster."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

import pytest

import rayflow as rf
from rayflow.cli import exit_codes, show
from rayflow.client.engine import backend_of
from rayflow.client.local import LocalEngine
from rayflow.runtime.actors import actor_names
from tests.cli.project import Project

_FLOWS = """

@rf.step(retry=rf.RetryPolicy(max_retries=1, initial_delay=0.001))
async def shaky(tries: list[int]) -> None:
    raise ConnectionError("nobody answers\\nat all")


@rf.workflow
async def trying() -> str:
    try:
        await shaky([])
    except rf.StepFailed:
        return await loud("gave up")
    return ""


@rf.step
async def endless() -> None:
    await asyncio.sleep(3600)


@rf.workflow
async def waiting() -> None:
    await endless()
"""

_begun = threading.Event()
_may_end = threading.Event()


@rf.step
def held() -> None:
    _begun.set()
    assert _may_end.wait(30)


@rf.workflow
async def holding() -> None:
    await held()


@pytest.fixture
def tried(project: Project) -> Project:
    """A store in which "one" completed after a step that failed twice."""
    project.file.write_text(project.file.read_text() + _FLOWS)
    assert project.run("trying", "--id", "one").code == exit_codes.COMPLETED
    return project


@pytest.fixture
def holder(project: Project, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalEngine]:
    """An engine in place of a cluster's, with the execution "held" and its running step."""
    _begun.clear()
    _may_end.clear()
    with LocalEngine(project.store) as engine:

        def open_engine(args: object, *, recover: bool) -> contextlib.AbstractContextManager[LocalEngine]:
            assert recover is False, "a command that reads resumes no execution"
            return contextlib.nullcontext(engine)

        monkeypatch.setattr(show, "open_engine", open_engine)
        handle = engine.start(holding.options(id="held"))
        assert _begun.wait(30)
        yield engine
        _may_end.set()
        handle.result(30)


def test_every_attempt_is_a_row(tried: Project) -> None:
    shown = tried("tasks", "one")
    assert (shown.code, shown.err) == (exit_codes.COMPLETED, "")
    lines = shown.out.splitlines()
    assert lines[0].split() == [
        "STEP", "NAME", "ATTEMPT", "STATUS", "WORKER", "STARTED", "DURATION", "RETRIES", "ERROR",
    ]  # fmt: skip
    assert [line.split()[:4] for line in lines[1:]] == [
        ["1", "shaky", "1", "failed"],
        ["1", "shaky", "2", "failed"],
        ["2", "loud", "1", "completed"],
    ]
    assert lines[2].endswith(" 1  ConnectionError: nobody answers")


def test_as_json_an_attempt_has_all_its_fields(tried: Project) -> None:
    first, second, third = tried("tasks", "one", "--json").json
    assert (first["step"], first["name"], first["attempt"], first["status"], first["retries"]) == (
        1, "shaky", 1, "failed", 0,
    )  # fmt: skip
    assert first["last_error"]["message"] == "nobody answers\nat all"
    assert first["worker"] != ""
    assert first["completed_at"] - first["started_at"] == pytest.approx(first["duration"])
    assert first["completed_at"] <= second["started_at"]
    assert (second["attempt"], second["retries"]) == (2, 1)
    assert (third["status"], third["retries"], third["last_error"]) == ("completed", 0, None)


def test_without_a_cluster_the_store_alone_is_read(tried: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(args: object, *, recover: bool) -> None:
        raise AssertionError("no engine is needed to read the store")

    monkeypatch.setattr(show, "open_engine", refuse)
    found: list[dict[str, object]] = []
    before = tried.files()
    while not found:  # a run may be stopped before its first entry
        assert tried.run("waiting", "--id", "two", "--timeout", "0.05").code == exit_codes.STOPPED_WAITING
        before = tried.files()
        found = tried("tasks", "two", "--json").json
    [left] = found
    assert (left["status"], left["worker"], left["started_at"], left["duration"]) == ("waiting", "", None, None)
    monkeypatch.setenv("RAY_ADDRESS", "somewhere:6379")
    assert tried("tasks", "two", "--local", "--json").json == [left]
    assert tried.files() == before


def test_an_execution_without_steps_says_so(project: Project) -> None:
    project.run("nothing", "--id", "one")
    assert project("tasks", "one").out == "no steps so far\n"
    assert project("tasks", "one", "--json").json == []


@pytest.mark.parametrize("words", [["--address", "somewhere:6379"], []])
def test_on_a_cluster_what_runs_has_its_worker(
    project: Project, holder: LocalEngine, words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if not words:
        monkeypatch.setenv("RAY_ADDRESS", "somewhere:6379")
    [task] = project("tasks", "held", "--json", *words).json
    assert (task["step"], task["name"], task["attempt"], task["status"]) == (1, "held", 1, "running")
    assert task["worker"] in backend_of(holder).system.find(actor_names.pool("default")).call("workers")
    assert task["started_at"] is not None
    assert (task["completed_at"], task["duration"]) == (None, None)
    line = project("tasks", "held", *words).out.splitlines()[1].split()
    assert line[:5] == ["1", "held", "1", "running", task["worker"]]


@pytest.mark.parametrize("words", [["--address", "somewhere:6379"], ["--local"]])
@pytest.mark.usefixtures("holder")
def test_an_unknown_execution_is_wrong_usage(project: Project, words: list[str]) -> None:
    done = project("tasks", "nope", *words)
    assert (done.code, done.out) == (exit_codes.USAGE, "")
    assert done.err.startswith("rayflow: no execution 'nope' in this store")


def test_a_store_that_is_not_there_is_an_error_and_is_not_made(project: Project) -> None:
    done = project("tasks", "one")
    assert (done.code, done.out) == (exit_codes.USAGE, "")
    assert done.err.startswith("rayflow: no store exists at ")
    assert project.files() == {project.file.name}
