"""An engine without Ray, a store on disk, a ledger and a gate."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import rayflow as rf
from tests.fundamentals.tools import Gate, Ledger, gate_named


@pytest.fixture
def engine() -> Iterator[rf.LocalEngine]:
    with rf.LocalEngine() as engine:
        yield engine


@pytest.fixture
def store(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/flows.db"


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path / "ledger")


@pytest.fixture
def gate() -> Iterator[Gate]:
    """The gate that steps know as "gate". Ask for it after the engine, so that it is opened before that closes."""
    with gate_named("gate") as made:
        yield made
