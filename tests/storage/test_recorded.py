"""Stores of older formats are read as they are, and go on where they were."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import rayflow as rf
from rayflow.cli import main
from rayflow.client.engine import backend_of
from rayflow.ids import ExecutionStatus
from tests.storage.recorded import flows
from tests.storage.recorded.unpack import FORMATS, url_of

STORES = [(kind, form) for form in FORMATS for kind in ("sqlite", "file")]
recorded = pytest.mark.parametrize(("kind", "form"), STORES, ids=[f"{kind}-{form}" for kind, form in STORES])

UNFINISHED = {"paused", "sleeping", "parent", "parent.2", "holder", "queued", "looping", "delayed", "held"}
OVER = {"completed": "completed", "declared": "completed", "by-value": "completed", "forked": "completed",
        "failed": "failed", "cancelled": "cancelled", "parent.1": "completed"}  # fmt: skip


def content(folder: Path) -> dict[str, str]:
    """A digest of each file."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def until(done: Callable[[], bool]) -> None:
    give_up = time.monotonic() + 60
    while not done():
        assert time.monotonic() < give_up
        time.sleep(0.01)


@recorded
def test_who_only_reads_sees_it_and_leaves_it_as_it_is(
    kind: str, form: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url = url_of(kind, form, tmp_path)
    before = content(tmp_path)
    assert main(["list", "--store", url]) == 0
    listed = {line.split()[0] for line in capsys.readouterr().out.splitlines()}
    assert UNFINISHED | OVER.keys() <= listed
    for name in sorted(UNFINISHED | OVER.keys()):
        assert main(["show", name, "--store", url]) == 0
    assert "needs_mending" in capsys.readouterr().out
    for command in (["dlq", "list"], ["schedule", "list"], ["lock", "list"], ["workflows"]):
        assert main([*command, "--store", url]) == 0
    assert content(tmp_path) == before


@recorded
def test_all_of_it_goes_on_and_ends(kind: str, form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(flows.MENDED, "1")
    url = url_of(kind, form, tmp_path)
    with rf.LocalEngine(url, park_idle_after=0.05) as engine:
        before = {found.execution_id: found.status for found in engine.list()}
        assert {name: before[name] for name in OVER} == OVER
        assert backend_of(engine).totals()["executions_started"] == len(before)
        assert engine.locks.list()[-1].name == "ledger"

        assert engine.handle("completed").result(30) == ["a", "b"]
        assert engine.handle("declared").result(30)["doubled"] == 42
        assert engine.handle("by-value").result(30) == "number 7"
        [letter] = engine.dead_letters.list()
        assert (letter.execution_id, letter.name) == ("failed", "needs_mending")
        engine.resume("failed")
        assert engine.handle("failed").result(30) == ["a", "mended"]
        assert engine.dead_letters.list() == []

        assert engine.handle("sleeping").result(30) == "awake"
        assert engine.handle("delayed").result(30) == ["e", "f"]
        assert engine.handle("held").result(30) == "half"
        engine.resume("paused")
        assert engine.handle("paused").result(30) == {"kept": [1, 2]}
        engine.signal("parent.2", "go", 1)
        assert engine.handle("parent").result(30) == [["a", "b"], 1]
        engine.signal("queued", "go", "second")
        engine.signal("holder", "go", "first")
        assert engine.handle("holder").result(30) == "first"
        assert engine.handle("queued").result(30) == "second"
        engine.signal("looping", "end", None)
        assert engine.handle("looping").result(30) == [3, None]
        assert engine.schedules.trigger("hourly").result(30) == ["c", "d"]
        assert engine.fork("completed", before=2, allow_reacquire=True).result(30) == ["a", "b"]
        assert [status.name for status in engine.pools.list()] == ["default", "small"]

    with rf.LocalEngine(url) as engine:  # once more, as it is now
        assert {found.status for found in engine.list()} == {ExecutionStatus.COMPLETED, ExecutionStatus.CANCELLED}
        assert engine.execute(flows.chain.options(id="completed"), "a", "b") == ["a", "b"]


def test_no_recording_says_where_it_was_made(tmp_path: Path) -> None:
    for form in FORMATS:
        for kind in ("sqlite", "file"):
            (tmp_path / form).mkdir(exist_ok=True)
            url_of(kind, form, tmp_path / form)
    for path in (each for each in tmp_path.rglob("*") if each.is_file()):
        data = path.read_bytes()
        assert not [word for word in (b"/tmp/", b"/home/", b"/root/", b"/Users/", b".venv") if word in data]
