"""Workers of the tests of this folder."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.runtime.worker.worker_harness import Bench, bench


@pytest.fixture
def one() -> Iterator[Bench]:
    """A worker with one slot."""
    with bench(1) as made:
        yield made


@pytest.fixture
def two() -> Iterator[Bench]:
    """A worker with two slots."""
    with bench(2) as made:
        yield made
