"""What tests with clusters of their own have in common."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.runtime.cluster_fixtures import own_environment


@pytest.fixture
def folder() -> Iterator[Path]:
    """A short path, since Ray's sockets lie below it."""
    folder = Path(tempfile.mkdtemp(prefix="rf-"))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def environ(folder: Path) -> dict[str, str]:
    """The environment of a cluster that is not the session's."""
    return own_environment(folder)
