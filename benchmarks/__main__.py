"""Measures rayflow beside raw Ray calls on the same cluster, in one run.

    python -m benchmarks                 all figures, medians of several runs
    python -m benchmarks --quick         a short form, to see that it works

It starts a local cluster of its own and stops that one at the end. Run it with ``RAY_worker_niceness=0``: Ray runs its
workers at nice 15 otherwise, and any other load on the machine decides the figures. Absolute times are of one machine
on one day; the ratios to a raw call are what to compare.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import rayflow as rf
from benchmarks import recovery, waiting, workloads
from benchmarks.raw import RawRay
from rayflow.definition.options import Checkpoints
from rayflow.runtime.cluster import connection


@dataclass(frozen=True)
class Figure:
    """One measured figure."""

    name: str
    unit: str
    median: float
    least: float
    most: float
    runs: int


def measured(name: str, unit: str, runs: int, once: Callable[[], float]) -> Figure:
    """The median of several runs after one that does not count."""
    once()
    values = [once() for _ in range(runs)]
    return Figure(name, unit, statistics.median(values), min(values), max(values), runs)


def seconds(action: Callable[[], object]) -> float:
    """How long an action takes."""
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


def measure(engine: rf.DistributedEngine, raw: RawRay, *, runs: int, width: int, length: int) -> list[Figure]:
    """The first figures: fan-out, chain, one step; each beside the raw call."""
    modes: tuple[Checkpoints, ...] = ("sync", "async")
    return [
        measured("raw Ray actor call, round trip", "ms", runs, lambda: 1e3 * raw.round_trip(200)),
        measured("raw Ray: no-op calls to 4 actors, one each", "calls/s", runs, lambda: raw.fan_out(width)),
        measured(
            f"fan-out of {width} durable no-op steps, 4 workers",
            "steps/s",
            runs,
            lambda: width / seconds(lambda: engine.start(workloads.fan_out, width).result(300)),
        ),
        *(
            measured(
                f"chain of {length} steps, checkpoints={mode}",
                "ms/step",
                runs,
                partial(_chain, engine, length, mode),
            )
            for mode in modes
        ),
        *(
            measured(
                f"dispatch: a result to the next step's begin, commit and all, {name}",
                "ms",
                runs,
                partial(_dispatch, engine, length, share),
            )
            for name, share in (("p50", 0.5), ("p99", 0.99))
        ),
        measured(
            "one-step execution, start to result",
            "ms",
            max(runs, 15),
            lambda: 1e3 * seconds(lambda: engine.start(workloads.single, 1).result(60)),
        ),
    ]


def measure_waiting(engine: rf.DistributedEngine, *, runs: int, many: int) -> list[Figure]:
    """What executions cost that only wait, and how soon they go on."""
    late = waiting.timer_lateness(engine, max(5, 3 * runs))
    rows = [
        Figure("parked: its timer fires late by", "ms", statistics.median(late), min(late), max(late), len(late)),
        measured("parked: signal sent to result", "ms", runs, lambda: waiting.signal_to_end(engine)),
        measured("parked: the last of 100 timers due at once", "s", 2, lambda: waiting.waking_together(engine, 100)),
    ]
    for more in (10, many, many):
        used = waiting.memory_with_more_parked(engine, more)
        rows.append(Figure(f"parked: {more:,} more, memory of all actors but workers", "MB", used, used, used, 1))
    return rows


def _chain(engine: rf.DistributedEngine, length: int, checkpoints: Checkpoints) -> float:
    """Milliseconds of one step of a chain."""
    chain = workloads.chain.options(checkpoints=checkpoints)
    return 1e3 * seconds(lambda: engine.start(chain, length).result(300)) / length


def _dispatch(engine: rf.DistributedEngine, length: int, share: float) -> float:
    """Milliseconds from a result to the begin of the step after it, under which that share of the steps stays."""
    handle = engine.start(workloads.chain, length)
    handle.result(timeout=300)
    steps = handle.status().steps
    times = sorted((after.began or 0.0) - (before.ended or 0.0) for before, after in itertools.pairwise(steps))
    return 1e3 * times[int(share * (len(times) - 1))]


def shown(figures: list[Figure]) -> str:
    """A table for people."""
    lines = [f"{'figure':<66}{'median':>10}{'least':>10}{'most':>10}  unit"]
    lines += [f"{f.name:<66}{f.median:>10.2f}{f.least:>10.2f}{f.most:>10.2f}  {f.unit}" for f in figures]
    return "\n".join(lines)


def main() -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few and short runs")
    parser.add_argument("--json", type=Path, help="also write the figures into this file")
    parser.add_argument("--no-recovery", action="store_true", help="leave out the recovery times")
    options = parser.parse_args()
    runs, width, length = (2, 200, 20) if options.quick else (7, 1000, 100)
    if os.environ.get("RAY_worker_niceness") != "0":  # noqa: SIM112 - as Ray spells it
        print("note: RAY_worker_niceness is not 0; other load on this machine decides the figures", file=sys.stderr)
    with tempfile.TemporaryDirectory(prefix="rayflow-bench-") as folder:
        os.environ["RAYFLOW_HOME"] = folder  # what runs here otherwise is neither measured nor stopped
        try:
            own, _ = connection.up()
            store = f"sqlite:///{folder}/bench.db"
            with rf.DistributedEngine(store=store, address=own.address, park_idle_after=0.2) as engine:
                raw = RawRay(workers=4)
                figures = measure(engine, raw, runs=runs, width=width, length=length)
                raw.close()
                figures += measure_waiting(engine, runs=runs, many=100 if options.quick else 10_000)
                if not options.no_recovery:
                    for row in recovery.ROWS:
                        times = recovery.measure(engine, row, Path(folder), runs=max(2, runs - 2))
                        median = statistics.median(times)
                        figures.append(
                            Figure(f"recovery: {row} killed", "s", median, min(times), max(times), len(times))
                        )
        finally:
            connection.down()
    print(f"load average {os.getloadavg()[0]:.1f}, {os.cpu_count()} CPUs")
    print(shown(figures))
    if options.json:
        options.json.write_text(json.dumps([asdict(figure) for figure in figures], indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
