"""Steps that make and use large values, and a watch on what the store is asked for them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import rayflow as rf
from rayflow.runtime.store.actor import StoreActor

SIZE = 100_000


class Reads:
    """What the store is asked for large values, and how it fails."""

    def __init__(self) -> None:
        self.digests: list[str] = []
        self.put: set[str] = set()
        self.failing: list[Exception] = []
        self.failing_puts: list[Exception] = []
        self.missing: set[str] = set()
        self.damaged: set[str] = set()

    @property
    def puts(self) -> int:
        return len(self.put)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Reads:
    """All that is asked. Asked for before the engine, so that it is there as long."""
    seen, value, put = Reads(), StoreActor.value, StoreActor.put_value

    def ask(self: StoreActor, digest: str) -> bytes | None:
        if seen.failing:
            raise seen.failing.pop()
        seen.digests.append(digest)
        found = None if digest in seen.missing else value(self, digest)
        return b"\x01\xc0" if digest in seen.damaged else found

    def keep(self: StoreActor, digest: str, data: bytes) -> None:
        if seen.failing_puts:
            raise seen.failing_puts.pop()
        seen.put.add(digest)
        put(self, digest, data)

    monkeypatch.setattr(StoreActor, "value", ask)
    monkeypatch.setattr(StoreActor, "put_value", keep)
    return seen


@rf.step
async def make(size: int) -> np.ndarray[Any, Any]:
    return np.arange(float(size))


@rf.step
def bump(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    assert type(array) is np.ndarray
    return array + 1


@rf.step
def total(parts: dict[str, Any]) -> float:
    assert type(parts["array"]) is np.ndarray
    return float(parts["array"].sum())
