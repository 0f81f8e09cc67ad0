"""A step's call site keeps its parameters and its result, as mypy --strict sees it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]

#: A line that is wrong, and what mypy calls that. Its texts change from version to version.
WRONG = {
    'plain("one")': "arg-type",
    "plain()": "call-arg",
    "asynchronous(1, spare=2)": "call-arg",
    'tuned.options(timeout="3")': "arg-type",
    "rf.step(retri=1)": "call-overload",
    "rf.workflow(print)": "arg-type",
    "execute(flow, 3)": "arg-type",
    'execute(flow, "a", limits=2)': "call-arg",
}


def mypy(file: Path, cache: Path) -> list[str]:
    """What mypy --strict says of one file."""
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(cache), "--no-error-summary", str(file)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=110,
    )
    assert not done.stderr, done.stderr
    return [line for line in done.stdout.splitlines() if line.startswith(f"{file}:") or file.name in line]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("mypy")


def test_parameters_and_results_are_kept(cache: Path) -> None:
    assert mypy(HERE / "sample.py", cache) == []


def test_wrong_calls_are_seen(cache: Path, tmp_path: Path) -> None:
    text = (HERE / "sample.py").read_text()
    first = len(text.splitlines()) + 1
    file = tmp_path / "wrong.py"
    file.write_text(text + "\n".join(WRONG) + "\n")
    errors = [line for line in mypy(file, cache) if ": error:" in line]
    found: dict[int, str] = {}
    for line in errors:
        number = int(line.split(":")[1])
        found[number] = found.get(number, "") + line
    assert sorted(found) == list(range(first, first + len(WRONG)))
    for number, (call, code) in enumerate(WRONG.items(), first):
        assert f"[{code}]" in found[number], call
