"""Holds the coverage floors, from the combined data that `make test` left in .coverage.

Run as ``python tests/coverage_floors.py``. Lines and branches count alike.
"""

from __future__ import annotations

import json
import re
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coverage import Coverage
from coverage.exceptions import CoverageException


@dataclass(frozen=True)
class Limit:
    """The files whose path fits ``pattern`` must be covered by more than ``percent``."""

    name: str
    pattern: str
    percent: float


LOWER = Limit("floors 0-3", r"^rayflow/((errors|ids)\.py|(definition|core|storage)/)", 90.0)
POOL = Limit("the machines of pools", r"^rayflow/core/(pool/|slots\.py|waiting\.py|limits\.py)", 99.9)
ALL = Limit("all of rayflow", r"^rayflow/", 80.0)


def covered(files: Mapping[str, Any], limit: Limit) -> float | None:
    """Percentage of lines and branches that ran, in the files of a limit; None if it has no files.

    Args:
        files: the "files" of coverage's JSON report.
        limit: which of them.
    """
    done = total = 0
    for path, entry in files.items():
        if re.search(limit.pattern, path):
            summary = entry["summary"]
            done += summary["covered_lines"] + summary["covered_branches"]
            total += summary["num_statements"] + summary["num_branches"]
    return 100 * done / total if total else None


def verdict(files: Mapping[str, Any], limit: Limit) -> tuple[bool, str]:
    """Whether a limit is kept, and the line that says so."""
    percent = covered(files, limit)
    if percent is None:
        return False, f"coverage of {limit.name}: no file was measured"
    kept = percent > limit.percent
    return kept, f"coverage of {limit.name}: {percent:.1f} %, {'over' if kept else 'must be over'} {limit.percent:g} %"


def measured() -> Mapping[str, Any]:
    """The "files" of coverage's JSON report on the data in the current folder."""
    data = Coverage()
    data.load()
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "coverage.json")
        data.json_report(outfile=str(report))
        files: Mapping[str, Any] = json.loads(report.read_text())["files"]
    return files


def main() -> int:
    """Print each limit's verdict; 0 if all are kept."""
    try:
        files = measured()
    except CoverageException as error:
        print(f"no coverage data ({error}): run `make test` first")
        return 1
    verdicts = [verdict(files, limit) for limit in (LOWER, POOL, ALL)]
    print(*(line for _, line in verdicts), sep="\n")
    return 0 if all(kept for kept, _ in verdicts) else 1


if __name__ == "__main__":
    sys.exit(main())
