"""The benchmarks run to their end, and every figure is measured."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.runtime.cluster_fixtures import ROOT, own_environment

pytestmark = [pytest.mark.system, pytest.mark.timeout(600)]


@pytest.fixture
def environ() -> Iterator[dict[str, str]]:
    """The environment of a cluster that is not the session's."""
    folder = Path(tempfile.mkdtemp(prefix="rf-"))
    yield own_environment(folder)
    shutil.rmtree(folder)


def test_the_short_form_measures_everything(environ: dict[str, str], tmp_path: Path) -> None:
    figures = tmp_path / "figures.json"
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "--quick", "--json", str(figures)],
        cwd=ROOT,
        env=environ,
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    rows = json.loads(figures.read_text())
    names = [row["name"] for row in rows]
    assert [name.partition(" ")[0] for name in names].count("recovery:") == 5
    assert {"fan-out", "chain", "one-step"} <= {name.partition(" ")[0] for name in names}
    for row in rows:
        assert 0 < row["least"] <= row["median"] <= row["most"], row
        assert row["name"] in done.stdout
