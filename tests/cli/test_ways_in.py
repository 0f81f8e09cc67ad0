"""A submitted job, a notebook and the demo, on one cluster with its dashboard."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from rayflow.runtime.cluster import connection, processes
from tests.runtime.cluster_fixtures import ROOT, own_environment

pytestmark = pytest.mark.cluster

JOB = """
import rayflow as rf

@rf.step
def greet(name: str) -> str:
    print("greeting", name)
    return f"hello {name}"

@rf.workflow
async def greeting(name: str) -> str:
    return await greet(name)
"""


@pytest.fixture(scope="module")
def environ() -> Iterator[dict[str, str]]:
    """The environment of processes that connect to the cluster by its address."""
    folder = Path(tempfile.mkdtemp(prefix="rf-"))
    environ = own_environment(folder)
    started, _ = connection.up(num_cpus=2, dashboard=True, environ=environ)
    try:
        yield {**environ, "RAY_ADDRESS": started.address, "DASHBOARD": started.dashboard}
    finally:
        connection.down(environ=environ)
        assert processes.carrying(started.mark) == []
        shutil.rmtree(folder, ignore_errors=True)


def run(environ: dict[str, str], *command: str, cwd: Path) -> str:
    """Run a command to its end, and return its standard output."""
    done = subprocess.run(
        [sys.executable, *command], env=environ, cwd=cwd, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def test_a_submitted_job(environ: dict[str, str], tmp_path: Path) -> None:
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "flows.py").write_text(JOB)
    store = f"sqlite:///{tmp_path}/flows.db"
    said = run(
        {**environ, "RAY_API_SERVER_ADDRESS": environ["DASHBOARD"], "RAY_AUTH_MODE": "token"},
        "-m", "ray.scripts.scripts", "job", "submit", "--working-dir", str(folder), "--",
        "rayflow", "run", "flows.py:greeting", "--input", '"you"', "--id", "job-1", "--store", store,
        cwd=tmp_path,
    )  # fmt: skip
    assert "greeting you" in said
    assert "hello you" in said
    # The package is deleted here; the execution refers to its code by the package's content.
    shutil.rmtree(folder)
    shown = json.loads(run(environ, "-m", "rayflow", "show", "job-1", "--store", store, "--json", cwd=tmp_path))
    assert shown["status"] == "completed"
    assert shown["result"] == "hello you"


def test_the_notebook(environ: dict[str, str], tmp_path: Path) -> None:
    notebook = tmp_path / "first_workflow.ipynb"
    shutil.copy(ROOT / "notebooks" / "first_workflow.ipynb", notebook)
    run(environ, "-m", "jupyter", "execute", "--inplace", str(notebook), cwd=tmp_path)
    cells = json.loads(notebook.read_text())["cells"]
    outputs = [output for cell in cells if cell["cell_type"] == "code" for output in cell["outputs"]]
    assert not [output for output in outputs if output["output_type"] == "error"]
    text = json.dumps(outputs)
    assert "facts on rivers" in text
    assert "completed" in text


def test_the_demo_answers_what_the_local_engine_answers(environ: dict[str, str], tmp_path: Path) -> None:
    documents = tmp_path / "documents"
    documents.mkdir()
    for name in ("README.md", "docs/workflows.md", "docs/architecture.md"):
        shutil.copy(ROOT / name, documents)
    reports = {}
    for where, options in {"ray": [], "local": ["--local"]}.items():
        out = tmp_path / where
        said = run(environ, "examples/run_demo.py", str(documents), "--out", str(out), *options, cwd=ROOT)
        assert "3 documents" in said
        assert "status" in said
        assert "completed" in said
        reports[where] = json.loads((out / "report.json").read_text())
    assert reports["ray"] == reports["local"]
    assert {row["words"] > 100 for row in reports["ray"]["documents"]} == {True}


def test_the_demo_leaves_the_cluster_that_it_found(environ: dict[str, str]) -> None:
    assert connection.status(environ={**os.environ, **environ}).running
