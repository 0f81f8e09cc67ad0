"""A Ray cluster of several nodes on this machine, whose nodes can be killed, stopped, and added.

Each node is what ``ray start`` makes on a machine of its own: a raylet with its agents and workers. All of them carry
the mark of the head's cluster, so ``rayflow down`` ends them together, and nothing else.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rayflow.runtime.cluster import connection, processes
from tests.faults.processes.tools import until
from tests.runtime.cluster_fixtures import ROOT, own_environment

#: Seconds that a node may take to start, and tries.
START, TRIES = 90.0, 2
#: What `ray start` says after 30 s in which its raylet was not known to the GCS. On a busy machine it is, later.
TOO_SLOW = "timed out during startup"

#: Health checks for a machine that others use, too, where a node that starts, or is only busy, is late for seconds:
#: looser than those of cluster.yaml, and as quick where a raylet was killed, whose port refuses. One that hangs is
#: noticed by our own pings first.
PATIENT = {
    "RAY_health_check_initial_delay_ms": "10000",
    "RAY_health_check_timeout_ms": "3000",
    "RAY_raylet_start_wait_time_s": "120",
}


def health_checks() -> dict[str, str]:
    """The health-check settings of cluster.yaml: how soon the head takes a silent node for dead."""
    return dict(re.findall(r"(RAY_health_check_\w+)=(\d+)", (ROOT / "cluster.yaml").read_text()))


def lasting_gcs(folder: Path) -> dict[str, str]:
    """Settings by which the head's GCS keeps what it knows on disk, so that it can be killed and started again."""
    return {"RAY_gcs_storage": "rocksdb", "RAY_gcs_storage_path": str(folder / "gcs")}


@dataclass(frozen=True)
class Node:
    """A node that was added.

    Args:
        id: what Ray calls it.
        raylet: its raylet.
    """

    id: str
    raylet: Any

    def everything(self) -> list[Any]:
        """All of its processes that run, the raylet first; none any more once the raylet is gone."""
        if not processes.running(self.raylet):
            return []
        return [self.raylet, *(p for p in self.raylet.children(recursive=True) if processes.running(p))]

    def kill(self) -> None:
        """SIGKILL the raylet alone; its workers and agents notice."""
        self.raylet.kill()
        until(lambda: not processes.running(self.raylet), f"raylet {self.raylet.pid} is gone")

    def lose(self) -> None:
        """SIGKILL all of its processes, as when a machine loses its power."""
        victims = self.everything()
        for process in victims:
            process.kill()
        until(lambda: not any(processes.running(p) for p in victims), f"node {self.id} is gone")

    def stop(self, *, whole: bool = False) -> list[Any]:
        """SIGSTOP the raylet, or all of its processes; answers those, for :meth:`go_on`."""
        victims = self.everything() if whole else [self.raylet]
        for process in victims:
            process.send_signal(signal.SIGSTOP)
        return victims


def go_on(stopped: list[Any]) -> None:
    """SIGCONT processes; those that were killed meanwhile are no matter."""
    for process in stopped:
        if processes.running(process):
            process.send_signal(signal.SIGCONT)


class ManyNodes:
    """A head, and nodes that are added to it. This process is not in the cluster.

    Args:
        folder: where the cluster lives; a short path, since Ray's sockets lie below it.
        head_cpus: CPUs that the head has.
        settings: environment variables on top of the health-check settings of cluster.yaml, PATIENT for one.

    Attributes:
        environ: the environment of whoever is to find the cluster.
        local: its head, as ``rayflow up`` made it.
    """

    def __init__(self, folder: Path, *, head_cpus: int = 1, settings: Mapping[str, str] | None = None) -> None:
        self.environ = {**own_environment(folder), **health_checks(), **(settings or {})}
        self._gcs: subprocess.Popen[bytes] | None = None
        self.local, _ = connection.up(num_cpus=head_cpus, dashboard=False, environ=self.environ)

    @property
    def address(self) -> str:
        """The cluster's address."""
        return self.local.address

    def raylets(self) -> list[Any]:
        """The raylets that run, the head's first."""
        return processes.programs(processes.carrying(self.local.mark), "raylet")

    def gcs(self) -> Any:
        """The process that holds what the cluster knows."""
        [found] = processes.programs(processes.carrying(self.local.mark), "gcs_server")
        return found

    def add(self, *, cpus: int = 1, resources: Mapping[str, float] | None = None) -> Node:
        """Add a node."""
        words = ["ray.scripts.scripts", "start", f"--address={self.address}", f"--num-cpus={cpus}"]
        words += ["--disable-usage-stats", "--dashboard-agent-listen-port=0"]
        words += ["--min-worker-port=0", "--max-worker-port=0"]
        if resources:
            words.append(f"--resources={json.dumps(dict(resources))}")
        before, new = {p.pid for p in self.raylets()}, []
        for left in reversed(range(TRIES)):
            done = subprocess.run(
                [sys.executable, "-m", *words],
                env={**self.environ, processes.MARK: self.local.mark, "RAY_AUTH_MODE": "token"},
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                start_new_session=True,
                timeout=START,
                check=False,
            )
            new = [p for p in self.raylets() if p.pid not in before]
            if done.returncode == 0 or (new and TOO_SLOW in done.stderr):
                break
            assert left, f"a node does not start: {done.stdout[-2000:]}{done.stderr[-2000:]}"
        [raylet] = new
        return Node(option(raylet, "node_id"), raylet)

    def kill_gcs(self) -> Callable[[], None]:
        """SIGKILL the head's GCS; answers what starts it again as it was started, on the same port."""
        gcs = self.gcs()
        port = self.address.rpartition(":")[2]
        words = [f"--gcs_server_port={port}" if "gcs_server_port" in w else w for w in processes.command_of(gcs)]
        environ = gcs.environ()
        gcs.kill()
        until(lambda: not processes.running(gcs), "the GCS is gone")

        def again() -> None:
            nowhere = subprocess.DEVNULL
            self._gcs = subprocess.Popen(
                words, env=environ, cwd="/", stdin=nowhere, stdout=nowhere, stderr=nowhere, start_new_session=True
            )

        return again

    def lose_head(self) -> None:
        """SIGKILL all processes of the head; the nodes that were added are left without it."""
        head = os.getsid(self.gcs().pid)
        victims = [p for p in processes.carrying(self.local.mark) if _session(p.pid) == head]
        for process in victims:
            process.kill()
        until(lambda: not any(processes.running(p) for p in victims), "the head is gone")

    def node_of(self, pid: int) -> int:
        """The pid of the raylet on whose node a process runs; 0 if on none."""
        raylets = {raylet.pid: raylet for raylet in self.raylets()}
        return next((node for node, raylet in raylets.items() if pid in {p.pid for p in raylet.children()}), 0)

    def down(self) -> None:
        """Stop all nodes."""
        connection.down(environ=self.environ)
        if self._gcs is not None:
            self._gcs.wait()


def _session(pid: int) -> int:
    try:
        return os.getsid(pid)
    except ProcessLookupError:
        return 0


def option(process: Any, name: str) -> str:
    """An option in a process's command line; "" if it has none of that name."""
    words = (word.lstrip("-").partition("=") for word in processes.command_of(process))
    return next((value for key, _, value in words if key.replace("-", "_") == name), "")
