"""The nodes of a run's cluster beside its head: killed and stopped by blows, replaced once the head misses them."""

from __future__ import annotations

import logging
import os
import subprocess
import threading
import time
from collections.abc import Callable
from typing import Any

from rayflow.runtime.cluster import processes
from tests.clusters import ManyNodes, Node, option
from tests.faults.chaos.hooks import BESIDE

log = logging.getLogger(__name__)

#: Nodes beside the head, and CPUs that each says it has.
NODES, CPUS = 1, 2
#: Nodes that are started before a run begins at most, until the first ones are there.
TRIES = 3
#: Seconds that what a lost node left behind may take to end by itself.
GONE = 5.0
#: How Ray calls a process that is an actor, and those that are none: one that may become one, and its own agents.
TITLE, OTHERS = "ray::", ("ray::IDLE", "ray::DashboardAgent", "ray::RuntimeEnvAgent")


def title(process: Any) -> str:
    """How Ray calls a process, if it is an actor; else ""."""
    words = " ".join(processes.command_of(process)).strip()
    return words if words.startswith(TITLE) and words not in OTHERS else ""


class Nodes:
    """See the module's docstring.

    Args:
        cluster: all of them.
        alive: answers how many nodes the head takes for alive, itself included.
    """

    def __init__(self, cluster: ManyNodes, alive: Callable[[], int]) -> None:
        self._cluster = cluster
        self._alive = alive
        self._head = cluster.raylets()[0].pid
        self._nodes: dict[Node, int] = {}  # with the sessions of their processes
        self._lost: list[tuple[float, int]] = []
        self._adding: threading.Thread | None = None

    def see_to(self) -> None:
        """Add a node where the head misses one, and end what a lost one left, as if its machine were gone."""
        self._look()
        while self._lost and self._lost[0][0] < time.monotonic():
            self._sweep(self._lost.pop(0)[1])
        if self._adding is not None and not self._adding.is_alive():
            self._adding = None
        if self._adding is None and self._alive() < 1 + NODES:
            self._adding = threading.Thread(target=self._add, name="add-node", daemon=True)
            self._adding.start()

    def _look(self) -> None:
        """Which nodes there are; one may have come although who was to start it gave up, since the GCS was gone."""
        for node in [node for node in self._nodes if not processes.running(node.raylet)]:
            self._lost.append((time.monotonic() + GONE, self._nodes.pop(node)))
        known = {node.raylet.pid for node in self._nodes} | {self._head}
        for raylet in self._cluster.raylets():
            if raylet.pid not in known:
                self._nodes[Node(option(raylet, "node_id"), raylet)] = _session(raylet.pid)

    def _add(self) -> None:
        try:
            self._cluster.add(cpus=CPUS, resources={BESIDE: 1})
        except (subprocess.SubprocessError, ValueError) as error:
            log.warning("a node did not start, another one will: %s", error)

    def _sweep(self, session: int) -> None:
        """End the daemons of a lost node. Its actors are none: those have to end by themselves."""
        found = [p for p in processes.carrying(self._cluster.local.mark) if _session(p.pid) == session]
        processes.kill([p for p in found if not title(p)], GONE)

    def at_work(self) -> list[tuple[Node, list[Any]]]:
        """The nodes on which there are actors, with all of their processes: any of them may be about to be one."""
        found = []
        for node in list(self._nodes):
            there = node.everything()[1:]
            if any(title(process) for process in there):
                found.append((node, there))
        return found

    def first(self) -> None:
        """Add the first ones, and wait for them; on a machine that is too slow now, the run begins without."""
        for _ in range(TRIES):
            if self._alive() < 1 + NODES:
                self._add()

    def wait(self) -> None:
        """Wait for the one that is being added."""
        if self._adding is not None:
            self._adding.join()


def _session(pid: int) -> int:
    try:
        return os.getsid(pid)
    except OSError:
        return 0
