"""Executions that were started with another Python: replay decides, but bytecode is not loaded."""

from __future__ import annotations

import sqlite3
import sys
from pathlib import Path
from typing import Any

import pytest

import rayflow as rf
from rayflow.definition.code import PYTHON
from rayflow.storage.codec.payloads import MsgpackCodec
from tests.faults.processes.tools import until

OTHER = "3.10"


@rf.step
def said(word: str) -> str:
    return word


@rf.workflow
async def by_reference() -> list[str]:
    first = await said("first")
    return [first, await rf.wait_for_signal("go", type=str)]


def by_value() -> Any:
    """Return a workflow that cannot be imported."""

    @rf.workflow
    async def nested() -> list[str]:
        first = await said("first")
        return [first, await rf.wait_for_signal("go", type=str)]

    return nested


def started(folder: Path, workflow: Any, **options: Any) -> str:
    """Start an execution, stop the engine, and have the store say that another Python did so."""
    store = f"sqlite:///{folder}/flows.db"
    with rf.LocalEngine(store) as engine:
        handle = engine.start(workflow.options(id="one", **options))
        until(lambda: handle.status().steps, "its step is recorded")
    with sqlite3.connect(folder / "flows.db") as database:
        [(code,)] = database.execute("SELECT code FROM starts")
        database.execute("UPDATE starts SET code = ?", (code.replace(PYTHON.encode(), OTHER.encode()),))
    database.close()
    return store


def test_code_by_reference_continues_if_it_repeats_itself(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with rf.LocalEngine(started(tmp_path, by_reference)) as engine:
        engine.signal("one", "go", "second")
        assert engine.handle("one").result(timeout=60) == ["first", "second"]
    assert f"was started with Python {OTHER}, and this is Python {PYTHON}; it continues" in caplog.text


@pytest.mark.parametrize("strict", [True, False])
def test_it_is_paused_where_it_must_not_continue(tmp_path: Path, *, strict: bool) -> None:
    """Strict code by reference, and code by value in any case: that is bytecode of the other Python."""
    workflow = by_reference if strict else by_value()
    with rf.LocalEngine(started(tmp_path, workflow, strict_versions=strict)) as engine:
        engine.signal("one", "go", "second")
        until(lambda: engine.status("one").status == "paused", "it is paused")
        error = engine.status("one").error
        assert error is not None
        assert error.matches(rf.IncompatibleVersion)
        assert f"Python {OTHER}" in error.message
        assert f"this is Python {PYTHON}" in error.message


def test_pickled_code_of_another_python_is_not_unpickled() -> None:
    codec = MsgpackCodec()
    here = bytes(sys.version_info[:2])
    data = codec.encode({"call": lambda: 1}).replace(here + b"\x80", bytes((3, 10)) + b"\x80")
    with pytest.raises(rf.CodecError, match=f"it holds code of Python 3.10, and this is Python {PYTHON}"):
        codec.decode(data)


def test_other_pickles_of_another_python_are_read() -> None:
    codec = MsgpackCodec()
    here = bytes(sys.version_info[:2])
    data = codec.encode({"limits": slice(1, 3)}).replace(here + b"\x80", bytes((3, 10)) + b"\x80")
    assert codec.decode(data) == {"limits": slice(1, 3)}
