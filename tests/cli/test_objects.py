"""The command line on a store in a folder of objects."""

from __future__ import annotations

from pathlib import Path

import pytest

import rayflow as rf
from rayflow.cli import main


@rf.step
async def double(number: int) -> int:
    return 2 * number


@rf.workflow(version="1")
async def doubled(number: int) -> int:
    return await double(number)


def test_an_execution_in_a_folder_is_kept_and_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    url = f"file://{tmp_path / 'flows'}"
    for _ in range(2):  # the second time the execution exists
        with rf.LocalEngine(url) as engine:
            assert engine.execute(doubled.options(id="answer"), 21) == 42
    assert main(["list", "--store", url]) == 0
    listed = capsys.readouterr().out
    assert "answer" in listed
    assert "completed" in listed
    assert main(["show", "answer", "--store", url]) == 0
    assert "double" in capsys.readouterr().out


def test_reading_a_folder_that_is_not_there_makes_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "--store", f"file://{tmp_path / 'flows'}"]) == 2
    assert "no store exists at" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
