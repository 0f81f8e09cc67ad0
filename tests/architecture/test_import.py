"""`import rayflow` is light: it loads neither Ray nor the floors that need it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.architecture.tree import ROOT

#: Loaded only on first use.
HEAVY = ("ray", "rayflow.runtime", "rayflow.client.distributed", "rayflow.cli", "grpc")
#: Generous: on an idle machine it takes a fraction of it. Importing ray alone would add about a second.
SECONDS = 5.0
#: Of memory, over a bare interpreter. Importing ray alone would add about 60.
MEGABYTES = 60.0

_PROGRAM = """
import importlib, json, resource, sys
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
before = peak()
importlib.import_module(sys.argv[1])
print(json.dumps({"modules": sorted(sys.modules), "megabytes": peak() - before}))
"""


def heavy_modules(loaded: list[str]) -> list[str]:
    return [name for name in loaded if any(name == heavy or name.startswith(f"{heavy}.") for heavy in HEAVY)]


def load(module: str, root: Path) -> tuple[list[str], float, float]:
    """Import a module in a fresh interpreter; return the loaded modules, seconds, megabytes."""
    # Measuring coverage would be measured with it, and would report a made-up rayflow as the real one.
    environ = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}
    command = [sys.executable, "-c", _PROGRAM, module]
    began = time.monotonic()
    done = subprocess.run(command, cwd=root, env=environ, capture_output=True, text=True, check=False, timeout=60)
    seconds = time.monotonic() - began
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    return answer["modules"], seconds, answer["megabytes"]


def test_importing_rayflow_is_light() -> None:
    loaded, seconds, megabytes = load("rayflow", ROOT)
    assert "rayflow" in loaded
    assert heavy_modules(loaded) == []
    assert seconds < SECONDS
    assert megabytes < MEGABYTES


@pytest.mark.parametrize("name", ["definition", "core", "storage"])
def test_importing_a_pure_floor_is_light(name: str) -> None:
    loaded, _, _ = load(f"rayflow.{name}", ROOT)
    assert heavy_modules(loaded) == []


def test_tests_of_workflows_need_no_ray() -> None:
    loaded, _, _ = load("rayflow.testing", ROOT)
    assert [name for name in loaded if name == "ray" or name.startswith("ray.")] == []


def test_a_heavy_import_is_seen(tmp_path: Path) -> None:
    package = tmp_path / "rayflow"
    (package / "runtime").mkdir(parents=True)
    (package / "__init__.py").write_text("import rayflow.runtime.pool\nimport raymond\n")
    (package / "runtime" / "__init__.py").touch()
    (package / "runtime" / "pool.py").write_text("import ray.util\n")
    for stand_in in ("raymond.py", "ray/__init__.py", "ray/util.py"):  # not the real one, which takes a second
        (tmp_path / stand_in).parent.mkdir(exist_ok=True)
        (tmp_path / stand_in).touch()
    loaded, _, _ = load("rayflow", tmp_path)
    assert heavy_modules(loaded) == ["ray", "ray.util", "rayflow.runtime", "rayflow.runtime.pool"]
