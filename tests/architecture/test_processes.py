"""Test of the check that a test session leaves no process behind."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.processes import MARK, Leftover, end, leftovers, mark, wait_for_end

pytestmark = pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="needs /proc")

#: Runs until its input ends.
WAITING = [sys.executable, "-S", "-c", "import sys; print('up', flush=True); sys.stdin.read()"]


@contextmanager
def running(command: list[str]) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        yield process
        process.kill()


@pytest.fixture
def own(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv(MARK, os.environ.get(MARK, ""))  # so that it is put back
    return mark()


def test_a_child_is_found_with_its_command_and_not_after_its_end(own: str) -> None:
    with running(WAITING) as child:
        [found] = [process for process in leftovers(own) if process.pid == child.pid]
        assert "sys.stdin.read()" in found.command
    assert child.pid not in {process.pid for process in leftovers(own)}


def test_a_daemon_is_found_by_its_mark(own: str) -> None:
    daemon = (
        "import os, sys\n"
        "if os.fork(): os._exit(0)\n"  # its parent is gone: init adopts it
        "os.setsid()\n"
        "print(os.getpid(), flush=True)\n"
        "sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-S", "-c", daemon], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        parent.wait()
        [found] = [process for process in leftovers(own) if process.pid == pid]
        assert wait_for_end([found], 0.0) == [found]
        end([found])
        assert wait_for_end([found], 10.0) == []


def test_waiting_answers_only_what_still_runs() -> None:
    with running(WAITING) as ended, running(WAITING) as staying:
        end([Leftover(ended.pid, "ended")])
        both = [Leftover(ended.pid, "ended"), Leftover(staying.pid, "staying")]
        assert wait_for_end([both[0]], 10.0) == []
        assert wait_for_end(both, 0.0) == [both[1]]


def test_a_session_that_leaves_a_process_fails_and_ends_it(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text(
        "import tests.conftest\ntests.conftest.LEFTOVER_GRACE = 0.1\nfrom tests.conftest import pytest_sessionfinish\n"
    )
    (tmp_path / "test_leaves.py").write_text(
        "import subprocess, sys\n"
        "def test_passes_and_leaves():\n"
        "    subprocess.Popen([sys.executable, '-S', '-c', 'import signal; signal.pause()'])\n"
    )
    ini = tmp_path / "pytest.ini"
    ini.write_text(f"[pytest]\npythonpath = {Path(__file__).parents[2]}\n")
    inner = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-c", str(ini), str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert inner.returncode == pytest.ExitCode.TESTS_FAILED, inner.stdout + inner.stderr
    assert "1 passed" in inner.stdout
    assert "processes left behind" in inner.stdout
    assert "signal.pause()" in inner.stdout
