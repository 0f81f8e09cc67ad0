"""The benchmarks run to their end, and every figure is measured."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.runtime.cluster_fixtures import ROOT

pytestmark = [pytest.mark.system, pytest.mark.timeout(600)]


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
