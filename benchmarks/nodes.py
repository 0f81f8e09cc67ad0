"""How long executions stand still when a node, or a process of it, dies or hangs.

    python -m benchmarks.nodes               medians of several blows of each kind
    python -m benchmarks.nodes --runs 1      to see that it works

It starts a cluster of its own on this machine, a head and two nodes with the health-check settings of cluster.yaml, and
stops that one at the end. What is measured is the longest gap between two steps of a chain after the blow, of the
chains that it meets; a step takes 0.02 s.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import shutil
import signal
import statistics
import sys
import tempfile
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import rayflow as rf
from rayflow.client.engine import backend_of
from rayflow.runtime.actors import actor_names
from rayflow.runtime.actors.base import call_all
from rayflow.runtime.cluster import processes
from tests.clusters import ManyNodes, Node, lasting_gcs
from tests.faults.nodes.node_flows import noted_chain, read, stop_file

#: Seconds that a step takes, and chains that are under way at a blow.
PAUSE, CHAINS = 0.02, 4
#: Steps that each chain has run before the blow, and runs after it.
STEPS = 20
#: Seconds after which a chain counts as standing still for good.
PATIENCE = 90.0

POOL = actor_names.pool("default")


class Bench:
    """The cluster, an engine, and the chains of one blow.

    Args:
        folder: where everything lives.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.cluster = ManyNodes(folder, settings=lasting_gcs(folder))
        os.environ.update(self.cluster.environ)
        self.nodes: list[Node] = []
        self.complete()
        self.engine = rf.DistributedEngine(
            store=f"sqlite:///{folder}/bench.db",
            address=self.cluster.address,
            pool=rf.PoolConfig(workers=4, concurrency=2, resources={"room": 1}),
            max_coordinators=8,
        )
        self.ledgers: dict[str, Path] = {}
        self.stopped: list[Any] = []

    def complete(self) -> None:
        """Have two nodes."""
        self.nodes = [node for node in self.nodes if processes.running(node.raylet)]
        while len(self.nodes) < 2:
            self.nodes.append(self.cluster.add(resources={"room": 2}))

    def pids(self) -> dict[str, int]:
        """The processes of the actors that say."""
        system = self.engine._system
        found = call_all(system, system.names(), "pid", timeout=3.0, group="control")
        return {name: reply.value for name, reply in found.items() if reply.error is None}

    def workers(self) -> int:
        """How many workers are up; 0 while the pool is made anew."""
        try:
            return self.engine.pools.get().status().workers
        except rf.ClusterError:
            return 0

    def begin(self) -> None:
        """Have chains under way."""
        waiting(lambda: self.workers() == 4)
        for _ in range(CHAINS):
            name = uuid.uuid4().hex[:8]
            self.ledgers[name] = self.folder / name
            self.engine.start(noted_chain.options(id=name), str(self.ledgers[name]), PAUSE)
        waiting(lambda: all(len(read(ledger)) > STEPS for ledger in self.ledgers.values()))

    def struck_node(self) -> tuple[Node, list[str]]:
        """A node that has a coordinator, and its chains."""
        while True:
            pids = self.pids()
            on = {
                name: self.cluster.node_of(pids.get(self.engine.status(name).coordinator, 0)) for name in self.ledgers
            }
            for node in self.nodes:
                if struck := [name for name, pid in on.items() if pid == node.raylet.pid]:
                    return node, struck
            self.begin()

    def gap(self, names: list[str], struck: float) -> float:
        """The longest time for which one of these chains stood still since the blow."""
        waiting(lambda: all(sum(line.at > struck for line in read(self.ledgers[name])) > STEPS for name in names))
        gaps = [0.0]
        for name in names:
            after = [line.at for line in read(self.ledgers[name]) if line.at > struck]
            gaps += [later - earlier for earlier, later in itertools.pairwise([struck, *after])]
        return max(gaps)

    def end(self) -> None:
        """Let the chains end, and make good what was struck."""
        processes.kill(self.stopped, PATIENCE)  # the cluster has given the node up
        self.stopped = []
        for ledger in self.ledgers.values():
            stop_file(ledger).touch()
        for name in self.ledgers:
            self.engine.handle(name).result(timeout=PATIENCE)
        self.ledgers.clear()
        self.complete()


def waiting(condition: Callable[[], object]) -> None:
    """Wait until something is so."""
    give_up = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > give_up:
            raise TimeoutError(f"waited {PATIENCE:g} s in vain")
        time.sleep(0.02)


# --- the blows: each answers the chains that it meets ---------------------------------------------------------------
def raylet_killed(bench: Bench) -> list[str]:
    """A node loses its raylet."""
    node, struck = bench.struck_node()
    node.kill()
    return struck


def node_lost(bench: Bench) -> list[str]:
    """All processes of a node are killed."""
    node, struck = bench.struck_node()
    node.lose()
    return struck


def node_hangs(bench: Bench) -> list[str]:
    """All processes of a node are stopped."""
    node, struck = bench.struck_node()
    bench.stopped = node.stop(whole=True)
    return struck


def coordinator_hangs(bench: Bench) -> list[str]:
    """One coordinator is stopped."""
    name = next(iter(bench.ledgers))
    coordinator = bench.engine.status(name).coordinator
    struck = [other for other in bench.ledgers if bench.engine.status(other).coordinator == coordinator]
    os.kill(backend_of(bench.engine).pid_of(coordinator), signal.SIGSTOP)
    return struck


def hangs(actor: str) -> Callable[[Bench], list[str]]:
    """A singleton is stopped; all chains may have to do with it."""

    def strike(bench: Bench) -> list[str]:
        os.kill(backend_of(bench.engine).pid_of(actor), signal.SIGSTOP)
        return list(bench.ledgers)

    return strike


def gcs_killed(bench: Bench) -> list[str]:
    """The GCS is killed, and started again after two seconds."""
    start_again = bench.cluster.kill_gcs()
    time.sleep(2.0)
    start_again()
    return list(bench.ledgers)


ROWS: dict[str, Callable[[Bench], list[str]]] = {
    "raylet of a node killed": raylet_killed,
    "all processes of a node killed": node_lost,
    "all processes of a node stopped": node_hangs,
    "coordinator stopped": coordinator_hangs,
    "persistence actor stopped": hangs(actor_names.STORE),
    "supervisor stopped": hangs(actor_names.SUPERVISOR),
    "pool stopped": hangs(POOL),
    "GCS killed, started again after 2 s": gcs_killed,
}


def once(bench: Bench, strike: Callable[[Bench], list[str]]) -> float:
    """Seconds for which the worst of the chains that one blow meets stood still."""
    bench.begin()
    bench.pids()  # so that nothing has to be looked up between the blow and the clock
    at = time.time()
    struck = strike(bench)
    found = bench.gap(struck, at)
    bench.end()
    return found


def main() -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.nodes", description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=5, help="blows of each kind; 5 if left out")
    parser.add_argument("--only", default="", metavar="TEXT", help="only the rows with that in their name")
    parser.add_argument("--json", type=Path, help="also write the figures into this file")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="rf-"))
    bench = Bench(folder)
    figures = []
    try:
        for name, strike in ROWS.items():
            if options.only not in name:
                continue
            times = [once(bench, strike) for _ in range(options.runs)]
            median, most, load = statistics.median(times), max(times), os.getloadavg()[0]
            figures.append({"name": name, "median": median, "most": most, "runs": len(times), "load": load})
            print(f"{name:<40}{median:>8.2f}{most:>8.2f}  s, at a load of {load:.0f}", flush=True)
        bench.engine.shutdown()
    finally:
        bench.engine.close()  # Ray ends a process that is in a cluster which is gone
        bench.cluster.down()
        shutil.rmtree(folder)
    print(f"{os.cpu_count()} CPUs")
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
