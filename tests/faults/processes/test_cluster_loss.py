"""The whole cluster is killed in the middle; another one finishes what it had begun."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from rayflow.runtime.cluster import connection, processes
from tests.faults.processes.tools import PATIENCE, ledger_lines, until
from tests.runtime.cluster_fixtures import own_environment

pytestmark = pytest.mark.cluster


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


def submitted(environ: dict[str, str], dashboard: str, folder: Path, *arguments: str) -> None:
    """Submit a job whose code nobody else has: its folder is gone afterwards."""
    folder.mkdir()
    shutil.copy(Path(__file__).with_name("flows.py"), folder)
    subprocess.run(
        [sys.executable, "-m", "ray.scripts.scripts", "job", "submit", "--working-dir", str(folder), "--",
         "rayflow", *arguments],
        env={**environ, "RAY_API_SERVER_ADDRESS": dashboard, "RAY_AUTH_MODE": "token"},
        capture_output=True, timeout=120, check=True,
    )  # fmt: skip
    shutil.rmtree(folder)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("how", ["run", pytest.param("job", marks=pytest.mark.system)])
def test_another_cluster_finishes_it(short_folder: Path, tmp_path: Path, how: str) -> None:
    environ = own_environment(short_folder)
    store = f"sqlite:///{tmp_path}/flows.db"
    ledger, stop = tmp_path / "ledger", tmp_path / "stop"
    arguments = ["--input", json.dumps([str(ledger), str(stop)]), "--id", "long", "--store", store, "--detach"]
    first, _ = connection.up(num_cpus=2, dashboard=how == "job", environ=environ)
    try:
        if how == "run":
            rayflow(environ, "run", f"{Path(__file__).with_name('flows.py')}:chain_until", *arguments)
        else:
            del environ["PYTHONPATH"]  # the code comes with the job alone
            submitted(environ, first.dashboard, tmp_path / "job", "run", "flows.py:chain_until", *arguments)
        until(lambda: len(ledger_lines(ledger)) > 10, "the execution is under way")
        whole = processes.carrying(first.mark)
        for process in whole:  # all at once, so that none of them takes over from another
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGSTOP)
        assert processes.kill(whole, PATIENCE) == []
        at = len(ledger_lines(ledger))
        shown = json.loads(rayflow(environ, "show", "long", "--store", store, "--json"))
        assert shown["status"] == "running"
        recorded = {step["seq"] - 1 for step in shown["steps"] if step["status"] == "completed"}
        connection.down(environ=environ)

        stop.touch()
        rayflow(environ, "recover", "--store", store, "--wait")
        shown = json.loads(rayflow(environ, "show", "long", "--store", store, "--json"))
        assert shown["status"] == "completed"
        length = shown["result"]
        assert not recorded & {int(number) for number, _ in ledger_lines(ledger)[at:]}
        runs = Counter(int(number) for number, _ in ledger_lines(ledger))
        assert set(runs) == set(range(length))
        assert sum(runs.values()) <= length + 1
    finally:
        second = connection.status(environ=environ).cluster
        connection.down(environ=environ)
    assert processes.carrying(first.mark) == []
    assert second is not None
    assert processes.carrying(second.mark) == []
