"""``rayflow lock list``: holders and waiters of locks, read from the store alone."""

from __future__ import annotations

import time

import pytest

from rayflow.cli import exit_codes
from rayflow.client.local import LocalEngine
from tests.cli.project import Project

_FLOWS = """

@rf.workflow
async def booking() -> int:
    async with rf.lock("ledger") as lock:
        await rf.wait_for_signal("free")
        return lock.token


@rf.workflow
async def rendering() -> None:
    async with rf.semaphore("gpu", 4):
        await rf.wait_for_signal("free")
"""


@pytest.fixture
def locked(project: Project, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A store in which "one" has the lock "ledger", "two" waits for it, and "three" has a permit of "gpu"."""
    monkeypatch.setenv("RAYFLOW_PARK_IDLE_AFTER", "0.05")
    project.file.write_text(project.file.read_text() + _FLOWS)
    for name, workflow in (("one", "booking"), ("two", "booking"), ("three", "rendering")):
        assert project.run(workflow, "--id", name).code == exit_codes.STOPPED_WAITING
    return project


def rows(project: Project) -> list[list[str]]:
    return [line.split() for line in project("lock", "list").out.splitlines()]


def test_each_claim_is_a_line_holders_first(locked: Project) -> None:
    titles, *lines = rows(locked)
    assert titles == ["LOCK", "TAKEN", "CLAIM", "CLAIMANT", "STEP", "TOKEN", "SINCE"]
    assert [line[:-2] for line in lines] == [  # without date and time
        ["gpu", "1", "of", "4", "held", "three", "1", "1"],
        ["ledger", "1", "of", "1", "held", "one", "1", "1"],
        ["waiting", "two", "1"],
    ]


def test_the_next_claimant_holds_the_lock_with_a_higher_token(locked: Project) -> None:
    assert locked("signal", "one", "free", "--local").code == exit_codes.COMPLETED
    [ledger] = [lock for lock in locked("lock", "list", "--json").json if lock["name"] == "ledger"]
    [holder] = ledger["holders"]
    assert (holder["execution_id"], holder["step"], holder["token"], ledger["waiting"]) == ("two", 1, 2, [])


def test_as_json_all_of_a_claim_is_there(locked: Project) -> None:
    before = time.time()
    gpu, ledger = locked("lock", "list", "--json").json
    assert (gpu["name"], gpu["permits"], len(gpu["holders"]), gpu["waiting"]) == ("gpu", 4, 1, [])
    assert (ledger["name"], ledger["permits"]) == ("ledger", 1)
    [holder], [waiting] = ledger["holders"], ledger["waiting"]
    assert holder.pop("since") <= waiting.pop("since") <= before
    assert holder == {
        "execution_id": "one", "step": 1, "lease": "", "token": 1, "expires_at": None, "ttl": None,
    }  # fmt: skip
    assert waiting == {**holder, "execution_id": "two", "token": 0}


def test_a_lease_of_a_script_shows_its_process_and_its_rest(project: Project) -> None:
    with LocalEngine(project.store) as engine, engine.lock("report", ttl=3600):
        [line] = project("lock", "list").out.splitlines()[1:]
        [lock] = project("lock", "list", "--json").json
    assert "  lease " in line
    assert line.rstrip().endswith((" min left", "h 00 min left"))
    [lease] = lock["holders"]
    assert lease["execution_id"] == ""
    assert lease["lease"].split("/")[1].isdecimal(), "the process that has it"
    assert lease["ttl"] == 3600
    assert lease["expires_at"] > time.time()


def test_without_locks_the_list_is_empty(project: Project) -> None:
    project.run("nothing")
    assert project("lock", "list").out == "no locks are held or waited for\n"
    assert project("lock", "list", "--json").json == []


def test_looking_starts_nothing_and_leaves_no_file(locked: Project) -> None:
    before, content = locked.files(), (locked.folder / "flows.db").read_bytes()
    assert locked("lock", "list").code == exit_codes.COMPLETED
    assert locked.files() == before
    assert (locked.folder / "flows.db").read_bytes() == content


def test_a_store_that_is_not_there_is_an_error_and_is_not_made(project: Project) -> None:
    done = project("lock", "list")
    assert (done.code, project.files()) == (exit_codes.USAGE, {project.file.name})
    assert done.err.startswith("rayflow: no store exists at ")


@pytest.mark.parametrize("words", [[], ["take"], ["list", "--local"]])
def test_wrong_words_are_wrong_usage(project: Project, words: list[str]) -> None:
    done = project("lock", *words)
    assert done.code == exit_codes.USAGE
    assert done.err.startswith("usage: rayflow")
