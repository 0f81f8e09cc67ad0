"""What tests with clusters of their own have in common."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.runtime.cluster_fixtures import folder, own_environment

__all__ = ["folder"]


@pytest.fixture
def environ(folder: Path) -> dict[str, str]:
    """The environment of a cluster that is not the session's."""
    return own_environment(folder)
