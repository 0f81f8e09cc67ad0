"""What runs on several nodes while they are killed, and the ledger from which one sees what ran. Workers import it."""

from __future__ import annotations

import os
import time
import uuid
from dataclasses import dataclass
from pathlib import Path

import rayflow as rf


@dataclass(frozen=True)
class Line:
    """One begin of a step, as it was noted outside of rayflow.

    Args:
        at: when, in seconds since the epoch.
        number: which step of the chain.
        attempt: which attempt.
        epoch: of the coordinator that sent it.
        pid: the worker's process.
        nonce: this very begin's own; it is the step's result.
    """

    at: float
    number: int
    attempt: int
    epoch: int
    pid: int
    nonce: str


def stop_file(ledger: str | Path) -> Path:
    """The file that tells a chain to end."""
    return Path(f"{ledger}.stop")


@rf.step(timeout=60)
def noted(ledger: str, number: int, pause: float) -> tuple[str, bool]:
    """Leaves a line, takes a moment, and answers which line that was, and whether the chain is to end."""
    context, nonce = rf.step_context(), uuid.uuid4().hex[:12]
    line = f"{time.time():.6f} {number} {context.attempt} {context.epoch} {os.getpid()} {nonce}\n"
    file = os.open(ledger, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(file, line.encode())  # by one write, so that lines do not mix
    finally:
        os.close(file)
    time.sleep(pause)
    return nonce, stop_file(ledger).exists()


@rf.workflow
async def noted_chain(ledger: str, pause: float) -> list[str]:
    """A chain of noted steps that ends when it is told to; answers whose results counted."""
    nonces: list[str] = []
    over = False
    while not over:
        nonce, over = await noted(ledger, len(nonces), pause)
        nonces.append(nonce)
    return nonces


def read(ledger: Path) -> list[Line]:
    """The lines of a ledger, in the order in which they were written."""
    words = (line.split() for line in ledger.read_text().splitlines()) if ledger.exists() else ()
    return [Line(float(w[0]), int(w[1]), int(w[2]), int(w[3]), int(w[4]), w[5]) for w in words]


def check(lines: list[Line], result: list[str], recorded: dict[int, str]) -> None:
    """Whether what ran is what may have run.

    Args:
        lines: the ledger of one chain.
        result: what it answered.
        recorded: results that were recorded before something was killed.
    """
    begun: dict[int, list[Line]] = {}
    for line in lines:
        begun.setdefault(line.number, []).append(line)
    assert sorted(begun) == list(range(len(result)))
    for number, nonce in enumerate(result):
        tries = begun[number]
        [counted] = [line for line in tries if line.nonce == nonce]
        assert counted.epoch == max(line.epoch for line in tries), (
            f"step {number}: what a fenced coordinator had counts"
        )
        assert len({(line.epoch, line.attempt) for line in tries}) == len(tries), f"step {number}: an attempt ran twice"
    for number, nonce in recorded.items():
        assert result[number] == nonce
        after = begun[number][[line.nonce for line in begun[number]].index(nonce) + 1 :]
        assert not after, f"step {number} was recorded, and ran again: {after}"
    newest: dict[int, int] = {}
    for line in lines:
        assert line.epoch >= newest.get(line.pid, 0), f"worker {line.pid} began {line} although it knew a newer epoch"
        newest[line.pid] = line.epoch
