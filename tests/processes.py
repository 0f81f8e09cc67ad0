"""Finds the processes that a test session started, also those that left its process tree.

Linux only: it reads /proc. A daemon such as those of ``ray start`` is adopted by init and so is no descendant any
more; what it keeps is the environment with which it was started, so the session puts a mark there.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from dataclasses import dataclass
from pathlib import Path

MARK = "RAYFLOW_TEST_SESSION"

#: Helpers of Python's own that live as long as the session's process and end with it.
_OWN_HELPERS = ("multiprocessing.resource_tracker", "multiprocessing.forkserver")


@dataclass(frozen=True)
class Leftover:
    """A process that still runs."""

    pid: int
    command: str


def mark() -> str:
    """Mark this process's children-to-be, and answer the mark.

    A session inside a test of another session keeps the outer mark beside its own, so that either finds its own.
    """
    own = f"<{os.getpid()}-{time.time_ns()}>"
    os.environ[MARK] = os.environ.get(MARK, "") + own
    return own


def leftovers(own: str) -> list[Leftover]:
    """Running processes that carry the mark or descend from this one, by pid."""
    parents, marked = {}, set()
    for folder in Path("/proc").iterdir():
        # A process may end, or belong to another user, at any moment while it is looked at.
        with contextlib.suppress(OSError):
            if folder.name.isdigit() and (parent := _parent_if_running(folder)) is not None:
                parents[int(folder.name)] = parent
                if own.encode() in (folder / "environ").read_bytes():
                    marked.add(int(folder.name))
    found = marked | _descendants(parents)
    found.discard(os.getpid())
    running = [Leftover(pid, _command(pid)) for pid in sorted(found)]
    return [process for process in running if not any(helper in process.command for helper in _OWN_HELPERS)]


def wait_for_end(processes: list[Leftover], seconds: float) -> list[Leftover]:
    """Wait until the processes have ended, for so many seconds at most; answers those that have not."""
    until = time.monotonic() + seconds
    return [process for process in processes if not _ends_by(process.pid, until)]


def end(processes: list[Leftover]) -> None:
    """Kill the processes."""
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGKILL)


def _parent_if_running(folder: Path) -> int | None:
    # The name in parentheses may itself contain spaces and parentheses.
    state, parent = (folder / "stat").read_text().rpartition(")")[2].split()[:2]
    return None if state in "ZX" else int(parent)


def _descendants(parents: dict[int, int]) -> set[int]:
    found: set[int] = set()
    new = {os.getpid()}
    while new:
        found |= new
        new = {pid for pid, parent in parents.items() if parent in new} - found
    return found


def _command(pid: int) -> str:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return "(ended)"
    return b" ".join(words).decode(errors="replace").strip() or "(no command line)"


def _ends_by(pid: int, until: float) -> bool:
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        # Readable means ended, for somebody else's child as for our own.
        readable, _, _ = select.select([handle], [], [], max(0.0, until - time.monotonic()))
    finally:
        os.close(handle)
    return bool(readable)
