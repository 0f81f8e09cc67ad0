"""What a chain of steps costs that hand on a large array: time, and memory of the coordinator and the store.

    python -m benchmarks.large                      200 steps of 50 MB: 10 GB in the store
    python -m benchmarks.large --steps 30 --mb 20   a short form

Each step gets the array, changes one element, and answers it, so each result is another value. It starts a local
cluster of its own and stops that one at the end.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

import rayflow as rf
from rayflow.client.engine import backend_of
from rayflow.runtime.actors import actor_names
from rayflow.runtime.cluster import connection

#: Seconds between two looks at the memory.
LOOK = 0.25


@rf.step(timeout=600)
def made(size: int) -> np.ndarray[Any, Any]:
    """An array of so many bytes."""
    return np.zeros(size // 8)


@rf.step(timeout=600)
def changed(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The array with one element changed."""
    array[0] += 1
    return array


@rf.workflow
async def handed_on(size: int, steps: int) -> Any:
    """A chain of steps that hand on the array."""
    array = await made(size)
    for _ in range(steps - 1):
        array = await changed(array)
    return array


def memory(pid: int) -> tuple[float, float]:
    """Megabytes that a process has in memory, and those that it has on its own."""
    resident = own = 0
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        name, _, rest = line.partition(":")
        if name == "Rss":
            resident = int(rest.split()[0])
        elif name in {"Private_Clean", "Private_Dirty"}:
            own += int(rest.split()[0])
    return resident / 1024, own / 1024


def looks(engine: rf.DistributedEngine, handle: rf.ExecutionHandle[Any]) -> Iterator[dict[str, tuple[float, float]]]:
    """The memory of the coordinator and the store's actor, again and again until the execution is over."""
    coordinator = ""
    while not (snapshot := handle.status()).status.terminal:
        coordinator = coordinator or snapshot.coordinator
        if coordinator:
            names = {"coordinator": coordinator, "persistence": actor_names.STORE}
            yield {role: memory(backend_of(engine).pid_of(name)) for role, name in names.items()}
        time.sleep(LOOK)


def measure(engine: rf.DistributedEngine, steps: int, size: int) -> dict[str, float]:
    """Run the chain; answers seconds for each step, and megabytes."""
    began = time.perf_counter()
    handle = engine.start(handed_on, size, steps)
    seen = list(looks(engine, handle))
    taken = time.perf_counter() - began
    if float(handle.result(timeout=600)[0]) != steps - 1:
        raise AssertionError("the last array is not what all steps make of it")
    figures = {"seconds a step": taken / steps}
    for role in ("coordinator", "persistence"):
        for index, kind in enumerate(("resident", "own")):
            each = [look[role][index] for look in seen]
            figures[f"{role}, {kind}: first"] = each[0]
            figures[f"{role}, {kind}: most"] = max(each)
    return figures


def main() -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.large", description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--mb", type=int, default=50, help="megabytes of the array")
    parser.add_argument("--json", type=Path, help="also write the figures into this file")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="rayflow-bench-") as folder:
        os.environ["RAYFLOW_HOME"] = folder  # what runs here otherwise is neither measured nor stopped
        try:
            own, _ = connection.up()
            with rf.DistributedEngine(store=f"sqlite:///{folder}/bench.db", address=own.address) as engine:
                figures = measure(engine, options.steps, options.mb * 1_000_000)
        finally:
            connection.down()
    print(f"{options.steps} steps, {options.mb} MB each; load average {os.getloadavg()[0]:.1f}, {os.cpu_count()} CPUs")
    for name, value in figures.items():
        print(f"{name:<40}{value:>10.2f}")
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
