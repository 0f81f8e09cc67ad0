"""The coordinator's memory stays as it is while steps hand on large arrays, and so does that of the store's actor."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.runtime.cluster_fixtures import ROOT

pytestmark = [pytest.mark.system, pytest.mark.timeout(400)]

STEPS, MB = 30, 20


def test_the_coordinator_never_has_what_its_steps_hand_on(environ: dict[str, str], tmp_path: Path) -> None:
    figures = tmp_path / "figures.json"
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.large", "--steps", f"{STEPS}", "--mb", f"{MB}", "--json", str(figures)],
        cwd=ROOT,
        env=environ,
        capture_output=True,
        text=True,
        timeout=350,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    measured = json.loads(figures.read_text())
    # One array is 20 MB, and all of them 600: the coordinator has none at any time, on its own or mapped.
    for kind in ("resident", "own"):
        grown = measured[f"coordinator, {kind}: most"] - measured[f"coordinator, {kind}: first"]
        assert grown < MB / 2, measured
    # The store's actor has one or two at a time of its own.
    assert measured["persistence, own: most"] - measured["persistence, own: first"] < 5 * MB, measured
