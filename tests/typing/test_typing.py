"""A step's call site keeps its parameters and its result, as mypy --strict sees it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]

#: A line that is wrong, and what mypy says of it.
WRONG = {
    'plain("one")': 'Argument 1 to "__call__" of "Step" has incompatible type "str"; expected "int"',
    "plain()": 'Missing positional argument "n" in call to "__call__" of "Step"',
    "asynchronous(1, spare=2)": 'Unexpected keyword argument "spare" for "__call__" of "Step"',
    'tuned.with_options(timeout="3")': 'Argument "timeout" to "with_options" of "Step" has incompatible type "str"',
    "rf.step(retri=1)": "No overload variant",
    "execute(flow, 3)": 'Argument 2 to "execute" has incompatible type "int"; expected "str"',
    'execute(flow, "a", limits=2)': 'Unexpected keyword argument "limits" for "execute"',
    "rf.workflow(plain.fn and print)": "No overload variant",
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


def test_parameters_and_results_are_kept(cache: Path, tmp_path: Path) -> None:
    assert mypy(HERE / "sample.py", cache) == []


def test_wrong_calls_are_seen(cache: Path, tmp_path: Path) -> None:
    text = (HERE / "sample.py").read_text()
    first = len(text.splitlines()) + 1
    file = tmp_path / "wrong.py"
    file.write_text(text + "\n".join(WRONG) + "\n")
    errors = [line for line in mypy(file, cache) if ": error:" in line]
    found = {int(line.split(":")[1]): line for line in reversed(errors)}
    assert sorted(found) == list(range(first, first + len(WRONG)))
    for number, (call, message) in enumerate(WRONG.items(), first):
        assert message in found[number], call
