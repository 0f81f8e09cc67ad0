"""Workflows of scripts and notebooks: what ``__main__`` holds at a start is what runs."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.runtime.cluster_fixtures import RayCluster

CELLS = """
import rayflow as rf

LIMIT = 1

class Prompt:
    text = "old"

def prompt():
    return Prompt.text

@rf.step
def ask():
    return f"{prompt()} {LIMIT}"

@rf.workflow
async def flow():
    return await ask()

@rf.agent(id="answering")
def answering(question):
    return f"{question} {LIMIT}"

declared = rf.Workflow("declared").add_step(
    rf.SequentialStep("s", agent=answering, input=lambda state: prompt(), output_key="o")
)

def run():
    print(engine.start(flow).result(timeout=60), "|", engine.start(declared, {}).result(timeout=60)["o"])

with ENGINE as engine:
    run()
    LIMIT = 2
    run()

    class Prompt:
        text = "new class"

    run()

    def prompt():
        return "new helper"

    run()

    @rf.step
    def ask():
        return f"new step {LIMIT}"

    run()
    LIMIT = 1
    run()
"""

SAID = """old 1 | old 1
old 2 | old 2
new class 2 | new class 2
new helper 2 | new helper 2
new step 2 | new helper 2
new step 1 | new helper 1
"""


def run(script: Path, text: str, environ: Mapping[str, str] = os.environ) -> subprocess.CompletedProcess[str]:
    """Run a script, in a process of its own."""
    script.write_text(text)
    return subprocess.run(
        [sys.executable, str(script)], env=environ, capture_output=True, text=True, check=False, timeout=110
    )


def test_each_cell_that_is_run_again_counts(tmp_path: Path) -> None:
    done = run(tmp_path / "cells.py", CELLS.replace("ENGINE", "rf.LocalEngine()"))
    assert done.returncode == 0, done.stderr
    assert done.stdout == SAID


@pytest.mark.ray
def test_also_on_a_cluster(ray_cluster: RayCluster, tmp_path: Path) -> None:
    engine = f"rf.DistributedEngine(store='sqlite:///{tmp_path}/flows.db', pool=rf.PoolConfig(workers=1))"
    environ = {**os.environ, **ray_cluster.environ, "RAY_ADDRESS": ray_cluster.address}
    done = run(tmp_path / "cells.py", f"{CELLS}\n    engine.shutdown()\n".replace("ENGINE", engine), environ)
    assert done.returncode == 0, done.stderr
    assert [line for line in done.stdout.splitlines() if "|" in line] == SAID.splitlines()


STRICT = """
import logging, rayflow as rf
logging.basicConfig()

@rf.agent(id="a1")
def a1(x):
    return x

wf = rf.Workflow("declared").add_step(rf.SequentialStep("s", agent=a1, input=lambda state: 1, output_key="o"))
with rf.LocalEngine() as engine:
    print(engine.start(wf.options(strict_versions=True), {}).result(timeout=20))
    print(engine.start(wf, {}).result(timeout=20))
"""


def test_a_declared_workflow_has_not_changed_when_it_starts(tmp_path: Path) -> None:
    done = run(tmp_path / "declared.py", STRICT)
    assert (done.returncode, done.stdout) == (0, "{'o': 1}\n{'o': 1}\n"), done.stderr
    assert "changed" not in done.stderr
