"""A run's own cluster of several nodes, and its actors and processes as they are seen from outside."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import threading
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

from rayflow.errors import ClusterError, RayflowError
from rayflow.runtime.actors import actor_names
from rayflow.runtime.actors.ray_system import RaySystem
from rayflow.runtime.cluster import connection, processes
from rayflow.storage.base import Filter, Store
from rayflow.storage.model import ExecutionRecord
from rayflow.storage.urls import open_store
from tests.clusters import ManyNodes
from tests.faults.chaos import hooks
from tests.faults.chaos.nodes import Nodes, title
from tests.faults.chaos.settings import NAMESPACE
from tests.faults.processes.tools import alive
from tests.runtime.cluster_fixtures import ROOT

log = logging.getLogger(__name__)
T = TypeVar("T")

#: CPUs that the head says it has.
HEAD_CPUS = 2
#: Seconds that an actor may take to say which process it is.
ANSWERS = 5.0
#: Seconds between two looks at nodes and coordinators.
LOOK = 0.5
#: Seconds that what was killed may take to be gone at the end.
GONE = 30.0
#: How soon the head takes a node for dead: two seconds after its raylet was killed, about eight after it hung. Those of
#: cluster.yaml are half of that, too little for two CPUs that are never idle.
_HEALTH = {"RAY_health_check_period_ms": "500", "RAY_health_check_timeout_ms": "1500"}
#: So many calls of actors each process has to fail at most, and in which share of them (in percent) it fails to send
#: the call, drops the answer, or says before the answer is there that none will come.
_CALLS = {"num_failures": 2, "req_failure_prob": 1, "resp_failure_prob": 1, "in_flight_failure_prob": 1}
_FAILING = "RAY_testing_rpc_failure"


def settings_of(folder: Path) -> dict[str, str]:
    """The variables of a run's processes, beside those that find its cluster."""
    return {
        **_HEALTH,
        _FAILING: json.dumps({"CoreWorkerService.grpc_client.PushTask": _CALLS}),
        hooks.VARIABLE: str(folder),
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(Path(__file__).parent / "outside")]),
        # What the head knows outlives its GCS.
        "RAY_gcs_storage": "rocksdb",
        "RAY_gcs_storage_path": str(folder / "gcs"),
    }


class Cluster:
    """See the module's docstring.

    Args:
        folder: where it keeps everything; a short path, since Ray's sockets lie below it.
    """

    def __init__(self, folder: Path) -> None:
        self.all = ManyNodes(folder, head_cpus=HEAD_CPUS, settings=settings_of(folder))
        self.environ, self.local = self.all.environ, self.all.local
        # Who watches has calls that do not fail.
        os.environ.update({name: value for name, value in self.environ.items() if name != _FAILING})
        os.environ.pop("RAY_ADDRESS", None)
        try:
            self._connection = connection.connect(self.local.address, environ=self.environ)
            self.system = RaySystem(NAMESPACE)
            self.nodes = Nodes(self.all, lambda: len(self.system.nodes()))
            self.nodes.first()
        except BaseException:
            self.all.down()  # nobody else would
            raise
        self.callers: dict[str, int] = {}
        self._over = threading.Event()
        self._watching = threading.Thread(target=self._watch, name="watch", daemon=True)

    def watch(self) -> None:
        """Replace nodes that are lost, and learn of coordinators, from now on."""
        self._watching.start()

    def unwatch(self) -> None:
        """No longer."""
        self._over.set()
        self._watching.join()
        self.nodes.wait()

    def _watch(self) -> None:
        while not self._over.wait(LOOK):
            try:
                self.nodes.see_to()
                self._look_at_coordinators()
            except Exception as error:  # noqa: BLE001 - whatever Ray says while its GCS is gone
                log.info("the cluster cannot be looked at: %r", error)

    def pid_of(self, actor: str) -> int | None:
        """An actor's process; None if it does not say."""
        try:
            pid: int = self.system.find(actor).call("pid", timeout=ANSWERS, group="control")
        except ClusterError:
            return None
        return pid if alive(pid) else None

    def workers(self) -> list[str]:
        """Names of the actors that are workers."""
        return [name for name in self.system.names() if actor_names.is_worker(name)]

    def _look_at_coordinators(self) -> None:
        for name in self.system.names():
            if actor_names.is_coordinator(name) and name not in self.callers:
                pid = self.pid_of(name)
                if pid is not None:
                    self.callers[name] = pid

    def orphans(self) -> list[str]:
        """Actors that nobody finds by name, and coordinators of no supervisor's; they may be on their way out."""
        give_up = time.monotonic() + GONE
        while found := self._orphans():
            if time.monotonic() > give_up:
                return found
            time.sleep(0.5)
        return []

    def _orphans(self) -> list[str]:
        names = self.system.names()
        known = {self.pid_of(name) for name in names}
        found = [
            f"process {process.pid} is {title(process)!r}, and no actor of that process is known"
            for process in processes.carrying(self.local.mark)
            if title(process) and process.pid not in known
        ]
        try:
            supervised = self.system.find(actor_names.SUPERVISOR).call("coordinators", timeout=ANSWERS)
        except ClusterError as error:
            return [*found, f"the supervisor does not say what it knows: {error}"]
        unknown = [name for name in names if actor_names.is_coordinator(name) and name not in supervised]
        return found + [f"{name} is a coordinator that the supervisor does not know" for name in unknown]

    def stop(self) -> list[str]:
        """Stop the run's actors and the cluster; answers what does not stop."""
        give_up = time.monotonic() + GONE
        while (names := self.system.names()) and time.monotonic() < give_up:
            # The supervisor first: it would have the others made anew.
            for name in sorted(names, key=lambda name: name != actor_names.SUPERVISOR):
                self.system.kill(name)
            time.sleep(0.2)
        return [f"actor {name} does not stop" for name in names]

    def down(self) -> list[str]:
        """Stop the cluster; answers the processes that are left."""
        self._connection.close()
        self.all.down()
        return [f"process {p.pid} ({processes.name_of(p)}) is left" for p in processes.carrying(self.local.mark)]


class Reading:
    """The store, read from outside of the cluster.

    Args:
        url: the store's URL.
    """

    def __init__(self, url: str) -> None:
        self._runner = asyncio.Runner()
        self._url = url
        self._store: Store | None = None

    def ask(self, question: Callable[[Store], Coroutine[Any, Any, T]], otherwise: T) -> T:
        """What the store answers; ``otherwise`` as long as there is none."""
        try:
            if self._store is None:
                store = open_store(self._url)
                self._runner.run(store.open(read_only=True))
                self._store = store
            return self._runner.run(question(self._store))
        except RayflowError:
            return otherwise

    def recorded(self) -> int:
        """How many steps' results were recorded so far."""
        none: dict[str, float] = {}
        return int(self.ask(lambda store: store.totals(), none).get("steps_completed", 0))

    def executions(self, **query: Any) -> list[ExecutionRecord]:
        """The rows that fit a filter."""
        none: list[ExecutionRecord] = []
        return self.ask(lambda store: store.executions(Filter(**{"limit": 1_000_000, **query})), none)

    def driven(self) -> dict[str, dict[str, int]]:
        """The executions that each coordinator drives, with their epochs."""
        found: dict[str, dict[str, int]] = {}
        for record in self.executions(driven=True):
            if record.owner:
                found.setdefault(record.coordinator, {})[record.id] = record.epoch
        return found

    def close(self) -> None:
        """Let go of it."""
        if self._store is not None:
            self._runner.run(self._store.close())
        self._runner.close()
