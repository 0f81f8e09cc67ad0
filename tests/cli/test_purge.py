"""``rayflow purge``: deletes in the store itself if no engine writes it, and only reads with ``--dry-run``."""

from __future__ import annotations

import contextlib
import json
import sqlite3
import time
from pathlib import Path

import pytest

import rayflow as rf
from rayflow.cli import exit_codes, main, purge


@rf.workflow(version="1")
async def kept_short(number: int) -> int:
    if number < 0:
        raise ValueError("negative")
    return number


@pytest.fixture
def url(tmp_path: Path) -> str:
    """A store with three completed executions and one that failed; the retention of one expires later."""
    made = f"sqlite:///{tmp_path / 'flows.db'}"
    with rf.LocalEngine(made) as engine:
        for number in (1, 2):
            engine.execute(kept_short.options(id=f"done-{number}"), number)
        engine.execute(kept_short.options(id="short", retention=rf.Retention(completed=3600)), 3)
        with pytest.raises(rf.ExecutionFailed):
            engine.execute(kept_short.options(id="failed"), -1)
    return made


def listed(url: str, capsys: pytest.CaptureFixture[str]) -> set[str]:
    assert main(["list", "--store", url, "--json"]) == exit_codes.COMPLETED
    return {found["execution_id"] for found in json.loads(capsys.readouterr().out)["executions"]}


def test_purge_deletes_executions_of_one_status_and_age(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    command = [
        "purge",
        "--older-than",
        "0s",
        "--status",
        "completed",
        "--workflow",
        "kept_short",
        "--store",
        url,
        "--local",
    ]
    assert main([*command, "--dry-run"]) == exit_codes.COMPLETED
    assert capsys.readouterr().out.startswith("3 executions would be deleted (")
    assert listed(url, capsys) == {"done-1", "done-2", "short", "failed"}
    assert main([*command, "--json"]) == exit_codes.COMPLETED
    answer = json.loads(capsys.readouterr().out)
    assert (answer["executions"], answer["dry_run"]) == (3, False)
    assert answer["bytes"] > 100
    assert listed(url, capsys) == {"failed"}


def test_without_an_age_purge_deletes_expired_executions(
    url: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["purge", "--store", url, "--local"]) == exit_codes.COMPLETED
    assert capsys.readouterr().out == "0 executions deleted (0 bytes)\n"
    later = time.time() + 3601
    monkeypatch.setattr(time, "time", lambda: later)
    assert main(["purge", "--store", url, "--local"]) == exit_codes.COMPLETED
    assert capsys.readouterr().out.startswith("1 execution deleted (")
    monkeypatch.undo()
    assert listed(url, capsys) == {"done-1", "done-2", "failed"}


def test_purge_creates_no_store_and_disturbs_no_writer(
    url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["purge", "--older-than", "30d", "--store", f"sqlite:///{tmp_path / 'none.db'}", "--local"]) == 2
    assert "no store exists at" in capsys.readouterr().err
    assert not (tmp_path / "none.db").exists()
    with rf.LocalEngine(url) as engine:
        assert main(["purge", "--older-than", "0", "--store", url, "--local"]) != exit_codes.COMPLETED
        assert "is being written by" in capsys.readouterr().err
        assert engine.purge(older_than=0, status="failed", dry_run=True).executions == 1
        assert engine.purge(older_than=0, status=["failed", "cancelled"]).executions == 1
        assert engine.purge(older_than=0, workflow="another").executions == 0


def test_a_store_of_a_cluster_is_purged_through_the_cluster(
    url: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with rf.LocalEngine(url) as engine:
        monkeypatch.setattr(purge, "has_cluster", lambda args: True)
        monkeypatch.setattr(purge, "open_engine", lambda args: contextlib.nullcontext(engine))
        assert main(["purge", "--older-than", "0", "--status", "failed", "--store", url]) == exit_codes.COMPLETED
        assert capsys.readouterr().out.startswith("1 execution deleted (")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--older-than", "30x"], "needs seconds, or a number with s, m, h, d or w, such as 30d, not '30x'"),
        (["--older-than", "-1"], "needs seconds, or a number with"),
        (["--status", "running"], "invalid choice: 'running'"),
    ],
    ids=["unit", "negative", "status"],
)
def test_wrong_options_are_explained(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["purge", *words, "--local"]) == exit_codes.USAGE
    assert message in capsys.readouterr().err


def test_ages_have_units(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    for age in ("90s", "15m", "12h", "30d", "4w", "86400"):
        assert main(["purge", "--older-than", age, "--store", url, "--dry-run"]) == exit_codes.COMPLETED
        assert capsys.readouterr().out.startswith("0 executions")


def test_purge_refuses_unfinished_statuses(url: str) -> None:
    with rf.LocalEngine(url) as engine:
        allowed = "cannot purge executions with status 'running'; status must be completed, failed or cancelled"
        with pytest.raises(rf.InvalidArgument, match=allowed):
            engine.purge(status="running")
        with pytest.raises(rf.InvalidArgument, match="older_than must be a number of seconds, 0 or more, not '30d'"):
            engine.purge(older_than="30d")  # type: ignore[arg-type]


@rf.workflow(version="1")
async def passed_on(text: str) -> int:
    return len(text)


def values_in(url: str) -> int:
    with contextlib.closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as db:
        count: int = db.execute("SELECT count(*) FROM large_values").fetchone()[0]
        return count


def test_large_values_are_deleted_two_hours_after_their_last_reference(
    url: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with rf.LocalEngine(url, large_value_bytes=1024) as engine:
        engine.execute(passed_on.options(id="large"), "x" * 4096)
    purged = ["purge", "--older-than", "0", "--workflow", "passed_on", "--store", url, "--local"]
    assert main(purged) == exit_codes.COMPLETED
    assert capsys.readouterr().out.startswith("1 execution deleted (")
    assert values_in(url) == 1
    began = time.time()
    for hours, left in ((1.9, 1), (2.1, 0)):
        monkeypatch.setattr(time, "time", lambda moment=began + hours * 3600: moment)
        assert main(purged) == exit_codes.COMPLETED
        assert values_in(url) == left
