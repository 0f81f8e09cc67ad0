"""An engine without Ray, a store on disk, a ledger and a gate."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import rayflow as rf
from rayflow.testing import TestEngine
from tests.fundamentals.tools import Gate, Ledger, gate_named


@pytest.fixture
def engine() -> Iterator[rf.LocalEngine]:
    with rf.LocalEngine() as engine:
        yield engine


@pytest.fixture(params=[False, True], ids=["plain", "paranoid"])
def env(request: pytest.FixtureRequest) -> Iterator[TestEngine]:
    """An engine with a virtual clock; once as it is, and once with the code dropped before each event."""
    with TestEngine(paranoid=request.param) as env:
        yield env


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
