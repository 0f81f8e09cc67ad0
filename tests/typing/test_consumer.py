"""The public API under mypy --strict and under basedpyright: results keep their types, wrong calls are errors."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]

#: Statements that are wrong, each for another reason.
WRONG = (
    "_engine.start(research)",
    "_engine.start(research, 3)",
    '_engine.start(research, "rivers", depht=2)',
    '_engine.start("research", "rivers")',
    '_engine.execute(child, "rivers", 1)',
    "research.options(priorty=3)",
    'research.options(priority="high")',
    "research.call()",
    '_number: int = _engine.execute(child, "rivers")',
    'ask.options(timeout="3")',
)


def mypy(file: Path) -> set[int]:
    """Return the lines in which mypy --strict finds an error."""
    command = [
        sys.executable,
        "-m",
        "mypy",
        "--strict",
        "--no-error-summary",
        "--cache-dir",
        str(file.parent / "cache"),
    ]
    done = subprocess.run([*command, str(file)], cwd=ROOT, capture_output=True, text=True, check=False, timeout=140)
    assert not done.stderr, done.stderr
    return {int(line.split(":")[1]) for line in done.stdout.splitlines() if ": error:" in line}


def basedpyright(file: Path) -> set[int]:
    """Return the lines in which basedpyright finds an error."""
    settings = file.parent / "pyrightconfig.json"
    settings.write_text(json.dumps({"typeCheckingMode": "standard", "extraPaths": [str(ROOT)], "include": [str(file)]}))
    command = [sys.executable, "-m", "basedpyright", "--outputjson", "--project", str(settings)]
    command += ["--pythonpath", sys.executable]
    done = subprocess.run(command, cwd=file.parent, capture_output=True, text=True, check=False, timeout=140)
    found = json.loads(done.stdout)["generalDiagnostics"]
    return {one["range"]["start"]["line"] + 1 for one in found if one["severity"] == "error"}


@pytest.mark.timeout(300)  # both read all of rayflow without a cache
@pytest.mark.parametrize("check", [mypy, basedpyright])
def test_a_users_program_is_clean_and_wrong_calls_are_errors(check: Callable[[Path], set[int]], tmp_path: Path) -> None:
    text = (HERE / "consumer.py").read_text()
    right = tmp_path / "right.py"
    right.write_text(text)
    assert check(right) == set()
    first = len(text.splitlines()) + 2
    wrong = tmp_path / "wrong.py"
    wrong.write_text("\n".join([text.rstrip("\n"), "_engine = rf.LocalEngine()", *WRONG]) + "\n")
    assert check(wrong) == set(range(first, first + len(WRONG)))
