"""Code that is edited on a cluster that stays up: what is on the disk at a start is what runs, each time."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

import rayflow as rf
from tests.control.conftest import kill_coordinator, until_parked
from tests.faults.processes.tools import until
from tests.runtime.code.conftest import Open, Project

pytestmark = pytest.mark.ray

ALL = "flows helper package late"
STRICT = rf.ExecutionOptions(strict_versions=True)


@pytest.mark.system
def test_five_edits_in_a_row_each_by_a_script_of_its_own(
    open_engine: Open, project: Project, environ: dict[str, str], tmp_path: Path
) -> None:
    open_engine()  # which keeps the namespace for the scripts, and is closed with it
    for version in "12345":
        project.edit(version)
        assert project.run(environ, f"sqlite:///{tmp_path}/flows.db") == [version] * 5


@pytest.mark.parametrize(("parts", "pause"), [(ALL, 0.0), ("helper package", 0.5), ("late", 0.0)])
def test_five_edits_in_a_row_while_the_engine_stays_open(
    open_engine: Open, project: Project, parts: str, pause: float
) -> None:
    engine, flow = open_engine(), project.flows.once
    edited = [part in parts.split() for part in ("flows", "helper", "package", "late", "flows")]
    assert engine.start(flow).result(timeout=60) == ["1"] * 5
    for version in "23456":
        project.edit(version, parts=parts)
        assert engine.start(flow).result(timeout=60) == [version if is_edited else "1" for is_edited in edited]
        time.sleep(pause)


@pytest.mark.system
def test_an_edit_that_is_taken_back(open_engine: Open, project: Project) -> None:
    engine, flow = open_engine(), project.flows.once
    for version in "12121":
        project.edit(version)
        assert engine.start(flow).result(timeout=60) == [version] * 5


def test_what_is_parked_wakes_on_the_code_at_the_signal(open_engine: Open, project: Project) -> None:
    engine, flow = open_engine(park_idle_after=0.1), project.flows.twice
    for number, version in enumerate("2345"):
        project.edit("1")
        handle = engine.start(flow.options(id=f"parked-{number}"))
        until_parked(engine, handle.id)
        project.edit(version)
        handle.signal("go")
        assert handle.result(timeout=60) == ["1"] * 4 + [version] * 5


@pytest.mark.system
def test_what_is_parked_wakes_by_its_timer_on_the_code_of_then(open_engine: Open, project: Project) -> None:
    engine = open_engine(park_idle_after=0.1)
    handle = engine.start(project.flows.slept)
    until_parked(engine, handle.id)
    project.edit("2")
    assert handle.result(timeout=60) == ["1"] * 4 + ["2"] * 5


@pytest.mark.system
def test_what_is_parked_is_paused_at_once_with_strict_versions(open_engine: Open, project: Project) -> None:
    engine = open_engine(park_idle_after=0.1)
    handle = engine.start(project.flows.twice.options(strict_versions=True))
    until_parked(engine, handle.id)
    project.edit("2", parts="late")
    handle.signal("go")
    until(lambda: handle.status().status == "paused", "it is paused")
    error = handle.status().error
    assert error is not None
    assert error.matches(rf.IncompatibleVersion)
    assert f"changed since execution '{handle.id}' started" in error.message
    assert f"{project.name}_late.py" in error.message
    project.edit("1", parts="late")
    handle.resume()
    assert handle.result(timeout=60) == ["1"] * 9


@pytest.mark.system
def test_strict_versions_do_not_mind_what_did_not_change(open_engine: Open, project: Project) -> None:
    engine = open_engine(park_idle_after=0.1)
    handle = engine.start(project.flows.twice.options(strict_versions=True))
    until_parked(engine, handle.id)
    kept = {file: file.stat() for file in project.folder.rglob("*.py")}
    project.edit("1")
    assert all(file.stat().st_mtime_ns != before.st_mtime_ns for file, before in kept.items() if file.stat().st_size)
    handle.signal("go")
    assert handle.result(timeout=60) == ["1"] * 9


def test_replay_decides_whether_what_is_parked_can_continue(open_engine: Open, project: Project) -> None:
    engine = open_engine(park_idle_after=0.1)
    handle = engine.start(project.flows.slept)
    until(lambda: handle.status().steps, "its step is recorded")
    until_parked(engine, handle.id)
    file = project.folder / f"{project.name}.py"
    file.write_text(file.read_text().replace("def said(", "def renamed(").replace("said()", "renamed()"))
    until(lambda: handle.status().status == "paused", "it is paused")
    error = handle.status().error
    assert error is not None
    assert error.matches(rf.NonDeterminismError)
    project.edit("2")
    handle.resume()
    assert handle.result(timeout=60) == ["1"] * 4 + ["2"] * 5


@pytest.mark.system
def test_what_runs_during_an_edit_keeps_its_workflow_code(open_engine: Open, project: Project) -> None:
    engine = open_engine(park_idle_after=60.0)
    old = engine.start(project.flows.twice.options(id="old"))
    until(lambda: old.status().waiting_for, "it waits")
    for version in "23":
        project.edit(version)
        assert engine.start(project.flows.once).result(timeout=60) == [version] * 5
    old.signal("go")
    assert old.result(timeout=60) == ["1"] * 5 + ["3"] * 4


@pytest.mark.system
def test_a_fork_runs_the_code_at_the_fork(open_engine: Open, project: Project) -> None:
    engine = open_engine(park_idle_after=0.1)
    handle = engine.start(project.flows.twice)
    handle.signal("go")
    assert handle.result(timeout=60) == ["1"] * 9
    project.edit("2")
    fork = engine.fork(handle.id, before="said", options=STRICT)
    fork.signal("go")
    assert fork.result(timeout=60) == ["2"] * 9


@pytest.mark.system
def test_what_is_taken_over_after_an_edit_continues_with_new_code(open_engine: Open, project: Project) -> None:
    engine = open_engine(park_idle_after=60.0)
    handle = engine.start(project.flows.twice)
    until(lambda: handle.status().waiting_for, "it waits")
    project.edit("2")
    kill_coordinator(engine, handle.id)
    handle.signal("go")
    assert handle.result(timeout=60) == ["1"] * 4 + ["2"] * 5
