"""The chaos program in its short form, and that it notices a rule that was taken out (tests/faults/chaos/README.md).

The full form is ``make chaos``: ten minutes, 20 blows of each kind, 500 executions, 20,000 steps.
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.faults.chaos.sabotage import VARIABLE
from tests.runtime.cluster_fixtures import ROOT

pytestmark = [pytest.mark.system, pytest.mark.cluster, pytest.mark.timeout(600)]

#: What the short form has to have done: a round of blows, and executions of every kind.
SHORT = ("--minutes", "1.5", "--blows", "1", "--executions", "60", "--steps", "1000")
#: Blows that are enough to see that: each other one lasts until the coordinator has a successor, and it goes on then.
STALE = ("--only", "stop coordinator")


def chaos(*arguments: str, sabotage: str = "") -> subprocess.CompletedProcess[str]:
    """Run the program."""
    return subprocess.run(
        [sys.executable, "-m", "tests.faults.chaos", *arguments],
        cwd=ROOT,
        env={**os.environ, VARIABLE: sabotage},
        capture_output=True,
        text=True,
        check=False,
    )


def test_nothing_is_lost_whatever_is_killed() -> None:
    done = chaos("--seed", "7", *SHORT)
    assert done.returncode == 0, done.stdout + done.stderr


def test_it_fails_where_fencing_is_taken_out() -> None:
    done = chaos("--seed", "7", "--minutes", "0.75", "--last", "15", *STALE, sabotage="fencing")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "FAIL  4" in done.stdout
