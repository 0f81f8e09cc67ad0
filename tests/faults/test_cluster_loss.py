"""The whole cluster is killed in the middle; another one finishes what it had begun."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from rayflow.runtime import cluster, processes
from tests.faults.tools import kill, ledger_lines, until
from tests.runtime.cluster_fixtures import own_environment

pytestmark = pytest.mark.cluster
LENGTH = 60


def rayflow(environ: dict[str, str], *arguments: str) -> str:
    """Run the command line as a person would; answers what it printed."""
    done = subprocess.run(
        [sys.executable, "-m", "rayflow", *arguments],
        env=environ,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_another_cluster_finishes_it(short_folder: Path, tmp_path: Path) -> None:
    environ = own_environment(short_folder)
    store = f"sqlite:///{tmp_path}/flows.db"
    ledger = tmp_path / "ledger"
    target = f"{Path(__file__).with_name('flows.py')}:ledger_chain"
    first, _ = cluster.up(num_cpus=2, dashboard=False, environ=environ)
    try:
        rayflow(environ, "run", target, "--input", json.dumps([str(ledger), LENGTH]), "--id", "long", "--store", store,
                "--detach")  # fmt: skip
        until(lambda: len(ledger_lines(ledger)) > 10, "the execution is under way")
        for process in processes.carrying(first.mark):
            kill(process.pid)
        at = len(ledger_lines(ledger))
        assert at < LENGTH
        shown = json.loads(rayflow(environ, "show", "long", "--store", store, "--json"))
        assert shown["status"] == "running"
        recorded = {step["seq"] - 1 for step in shown["steps"] if step["status"] == "completed"}
        cluster.down(environ=environ)

        rayflow(environ, "recover", "--store", store, "--wait")
        shown = json.loads(rayflow(environ, "show", "long", "--store", store, "--json"))
        assert shown["status"] == "completed"
        assert shown["result"] == sum(range(LENGTH))
        assert not recorded & {int(number) for number, _ in ledger_lines(ledger)[at:]}
        runs = Counter(int(number) for number, _ in ledger_lines(ledger))
        assert set(runs) == set(range(LENGTH))
        assert sum(runs.values()) <= LENGTH + 1
    finally:
        second = cluster.status(environ=environ).cluster
        cluster.down(environ=environ)
    assert processes.carrying(first.mark) == []
    assert second is not None
    assert processes.carrying(second.mark) == []
