"""Test of the check of the coverage floors."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.architecture.tree import PURE, ROOT, modules
from tests.coverage_floors import ALL, LOWER, Limit, covered, verdict


def entry(*, lines: tuple[int, int], branches: tuple[int, int] = (0, 0)) -> dict[str, dict[str, int]]:
    """Return the entry of one file in coverage's report, with (covered, all) of each kind."""
    return {
        "summary": {
            "covered_lines": lines[0],
            "num_statements": lines[1],
            "covered_branches": branches[0],
            "num_branches": branches[1],
        }
    }


def test_lines_and_branches_of_all_files_count_alike() -> None:
    files = {
        "rayflow/ids.py": entry(lines=(10, 10), branches=(1, 2)),
        "rayflow/core/execution/attempts.py": entry(lines=(20, 30), branches=(8, 8)),
        "rayflow/runtime/pool/actor.py": entry(lines=(0, 50)),
    }
    assert covered(files, LOWER) == pytest.approx(100 * 39 / 50)
    assert covered(files, ALL) == pytest.approx(100 * 39 / 100)


@pytest.mark.parametrize("limit", [LOWER, ALL], ids=lambda limit: limit.name)
def test_a_limit_must_be_passed_not_only_reached(limit: Limit) -> None:
    at, over = int(limit.percent), int(limit.percent) + 1
    assert verdict({"rayflow/errors.py": entry(lines=(at, 100))}, limit)[0] is False
    assert verdict({"rayflow/errors.py": entry(lines=(over, 100))}, limit)[0] is True


def test_nothing_measured_is_not_enough() -> None:
    kept, message = verdict({"rayflow/client/distributed.py": entry(lines=(10, 10))}, LOWER)
    assert (kept, message) == (False, "coverage of floors 0-3: no file was measured")


def test_the_lower_limit_is_about_exactly_the_pure_floors() -> None:
    known = modules(ROOT).values()
    matched = {m.path.as_posix() for m in known if covered({m.path.as_posix(): entry(lines=(1, 1))}, LOWER)}
    assert matched == {m.path.as_posix() for m in known if m.floor <= PURE}


def test_without_data_it_fails_and_says_what_to_do(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "tests" / "coverage_floors.py")],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 1
    assert "run `make test` first" in done.stdout
