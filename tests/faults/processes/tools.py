"""Waiting for progress, reading ledgers, killing processes."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

#: Seconds after which a test gives up; nothing here is measured.
PATIENCE = 60.0


def until(condition: Callable[[], object], what: str) -> None:
    """Wait until something is so."""
    give_up = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < give_up, f"waited {PATIENCE:g} s in vain until {what}"
        time.sleep(0.01)


def ledger_lines(ledger: Path) -> list[list[str]]:
    """The lines of a ledger, in words."""
    return [line.split() for line in ledger.read_text().splitlines()] if ledger.exists() else []


def kill(pid: int) -> None:
    """SIGKILL, and wait until the process is gone."""
    os.kill(pid, signal.SIGKILL)
    until(lambda: not alive(pid), f"process {pid} is gone")


def alive(pid: int) -> bool:
    """Whether a process runs (a zombie does not)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def until_longer(ledger: Path, lines: int) -> None:
    """Wait until a ledger has more than so many lines."""
    until(lambda: len(ledger_lines(ledger)) > lines, f"{ledger.name} has more than {lines} lines")
