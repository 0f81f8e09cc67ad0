"""What every test session shares: Hypothesis profiles, and the check that no process is left behind."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

from tests.processes import Leftover, end, leftovers, mark, wait_for_end

# A slow machine is not a failing test, so there are no deadlines; CI draws the same examples in each run.
settings.register_profile("dev", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE") or ("ci" if os.environ.get("CI") else "dev"))

# Also for sessions that `make` did not start; the actors' processes inherit it.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

#: Seconds that processes which are on their way out may take after the last test.
LEFTOVER_GRACE = 10.0

_MARK = mark()


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail the session if it leaves a process behind, say which, and end it.

    This runs after the last fixture was torn down.
    """
    if not Path("/proc/self/environ").exists():
        return
    left = wait_for_end(leftovers(_MARK), LEFTOVER_GRACE)
    if left:
        _report(session, left)
        end(left)
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def _report(session: pytest.Session, left: list[Leftover]) -> None:
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if reporter is not None:
        reporter.ensure_newline()
        reporter.section("processes left behind", sep="=", red=True)
        for process in left:
            reporter.write_line(f"{process.pid}  {process.command}")
        reporter.write_line(
            f"The session ended {LEFTOVER_GRACE:g} s ago and these still ran; they were killed. Whoever starts a "
            "process in a test ends it in the same fixture."
        )
