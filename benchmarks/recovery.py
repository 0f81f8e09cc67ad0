"""How long an execution stands still when a process of it is killed."""

from __future__ import annotations

import itertools
import os
import signal
import time
import uuid
from pathlib import Path

import rayflow as rf
from benchmarks.workloads import ledger_chain
from rayflow.client.engine import backend_of
from rayflow.runtime.actors import actor_names

#: What is killed, with SIGKILL, in the middle of a chain of steps.
ROWS = ("worker", "coordinator", "persistence", "pool", "supervisor")


def lines(ledger: Path) -> list[tuple[int, float, int]]:
    """The ledger's lines: step, time, process."""
    if not ledger.exists():
        return []
    rows = (line.split() for line in ledger.read_text().splitlines())
    return [(int(number), float(at), int(pid)) for number, at, pid in rows]


def measure(engine: rf.DistributedEngine, row: str, folder: Path, *, runs: int) -> list[float]:
    """Seconds from each kill to the next step that begins after it (0.02 s of which are the step's own)."""
    return [_once(engine, row, folder) for _ in range(runs)]


def _once(engine: rf.DistributedEngine, row: str, folder: Path) -> float:
    ledger = folder / f"{row}-{uuid.uuid4().hex}.txt"
    handle = engine.start(ledger_chain, str(ledger), 60)
    while len(lines(ledger)) < 20:
        time.sleep(0.01)
    victim = lines(ledger)[-1][2] if row == "worker" else backend_of(engine).pid_of(actor_name(engine, row, handle.id))
    killed = time.time()
    os.kill(victim, signal.SIGKILL)
    handle.result(timeout=120)
    # Steps that were on their way at the kill still begin at once: the longest gap after it is the recovery.
    times = [at for _, at, _ in lines(ledger) if at >= killed - 0.1]
    return max((later - earlier for earlier, later in itertools.pairwise(times)), default=0.0)


def actor_name(engine: rf.DistributedEngine, row: str, execution_id: str) -> str:
    """The name of the actor of that kind that has to do with the execution."""
    names = {
        "persistence": actor_names.STORE,
        "supervisor": actor_names.SUPERVISOR,
        "pool": actor_names.pool(engine.config.pool.name),
    }
    return names.get(row) or engine.status(execution_id).coordinator
