"""What executions cost that only wait, and how soon they go on."""

from __future__ import annotations

import os
import time
from pathlib import Path

import rayflow as rf
from benchmarks.workloads import awaiting, sleeping
from rayflow.client.engine import backend_of
from rayflow.storage.base import Filter

#: Seconds until the timers fire: long enough for their executions to be parked.
SLEEP = 6.0
#: Seconds that thousands of executions may take to be parked.
PATIENCE = 600.0


def timer_lateness(engine: rf.DistributedEngine, count: int) -> list[float]:
    """By how many ms the timers of parked executions fire late, one after the other."""
    begun = time.time()
    due = [begun + SLEEP + 0.3 * number for number in range(count)]
    handles = engine.start_many(sleeping.call(moment) for moment in due)
    return [1e3 * handle.result(timeout=60) for handle in handles]


def waking_together(engine: rf.DistributedEngine, count: int) -> float:
    """By how many seconds the last of so many timers fires late that are due at the same moment."""
    moment = time.time() + SLEEP
    handles = engine.start_many([sleeping.call(moment)] * count)
    return max(float(handle.result(timeout=120)) for handle in handles)


def signal_to_end(engine: rf.DistributedEngine) -> float:
    """Milliseconds from a signal to the result of a parked execution that waits for it."""
    handle = engine.start(awaiting)
    while not handle.status().parked:
        time.sleep(0.02)
    began = time.perf_counter()
    handle.signal("go")
    handle.result(timeout=60)
    return 1e3 * (time.perf_counter() - began)


def memory_with_more_parked(engine: rf.DistributedEngine, count: int) -> float:
    """Megabytes that all actors but the workers have on their own once so many more executions are parked."""
    for first in range(0, count, 500):
        engine.start_many([awaiting.call()] * min(500, count - first))
    give_up = time.monotonic() + PATIENCE
    while backend_of(engine).executions(Filter(driven=True, limit=1)):
        if time.monotonic() > give_up:
            raise TimeoutError(f"{count} executions were not parked within {PATIENCE:g} s")
        time.sleep(0.2)
    return sum(actors_memory(engine).values())


def actors_memory(engine: rf.DistributedEngine) -> dict[int, float]:
    """Megabytes that each actor of an engine's namespace has on its own, by process; but for the workers."""
    found = {}
    for name in backend_of(engine).system.names():
        if name.startswith("rayflow:worker"):
            continue
        try:
            pid = backend_of(engine).pid_of(name)
        except rf.ClusterError:  # a spare coordinator that was dropped
            continue
        resident, shared = Path(f"/proc/{pid}/statm").read_text().split()[1:3]
        found[pid] = (int(resident) - int(shared)) * os.sysconf("SC_PAGE_SIZE") / 1e6
    return found
