"""A run's own cluster, and its actors and processes as they are seen from outside.

One node: on the two CPUs that this is made for, a second one takes more than the blows leave.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

from rayflow.errors import ClusterError, RayflowError
from rayflow.runtime import cluster, naming, processes
from rayflow.runtime._ray import RaySystem
from rayflow.storage.base import Filter, Store
from rayflow.storage.operations import ExecutionRecord
from rayflow.storage.urls import open_store
from tests.chaos.sabotage import VARIABLE
from tests.chaos.settings import NAMESPACE
from tests.faults.tools import alive
from tests.runtime.cluster_fixtures import ROOT, own_environment

T = TypeVar("T")

#: CPUs that the cluster says it has.
CPUS = 4
#: Seconds that an actor may take to say which process it is.
ANSWERS = 5.0
#: Seconds that what was killed may take to be gone at the end.
GONE = 30.0
#: How Ray calls a process that is an actor, and those that are none: one that may become one, and its own agents.
TITLE, OTHERS = "ray::", ("ray::IDLE", "ray::DashboardAgent", "ray::RuntimeEnvAgent")


class Cluster:
    """See the module's docstring.

    Args:
        folder: where it keeps everything; a short path, since Ray's sockets lie below it.
    """

    def __init__(self, folder: Path) -> None:
        self.environ = own_environment(folder)
        if os.environ.get(VARIABLE):
            self.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(Path(__file__).parent / "sabotaged")])
        os.environ.update(self.environ)
        os.environ.pop("RAY_ADDRESS", None)
        self.local, _ = cluster.up(num_cpus=CPUS, dashboard=False, environ=self.environ)
        self._connection = cluster.connect(self.local.address, environ=self.environ)
        self.system = RaySystem(NAMESPACE)

    def pid_of(self, actor: str) -> int | None:
        """An actor's process; None if it does not say."""
        try:
            pid: int = self.system.find(actor).call("pid", timeout=ANSWERS, group="control")
        except ClusterError:
            return None
        return pid if alive(pid) else None

    def workers(self) -> list[str]:
        """Names of the actors that are workers."""
        return [name for name in self.system.names() if naming.is_worker(name)]

    def orphans(self) -> list[str]:
        """Processes that are actors and that nobody finds by name, waited for: they may be on their way out."""
        give_up = time.monotonic() + GONE
        while found := self._orphans():
            if time.monotonic() > give_up:
                return found
            time.sleep(0.5)
        return []

    def _orphans(self) -> list[str]:
        known = {self.pid_of(name) for name in self.system.names()}
        found = []
        for process in processes.carrying(self.local.mark):
            title = " ".join(processes.command_of(process)).strip()
            if title.startswith(TITLE) and title not in OTHERS and process.pid not in known:
                found.append(f"process {process.pid} is {title!r}, and no actor of that process is known")
        return found

    def stop(self) -> list[str]:
        """Stop the run's actors and the cluster; answers what does not stop."""
        give_up = time.monotonic() + GONE
        while (names := self.system.names()) and time.monotonic() < give_up:
            # The supervisor first: it would have the others made anew.
            for name in sorted(names, key=lambda name: name != naming.SUPERVISOR):
                self.system.kill(name)
            time.sleep(0.2)
        return [f"actor {name} does not stop" for name in names]

    def down(self) -> list[str]:
        """Stop the cluster; answers the processes that are left."""
        self._connection.close()
        cluster.down(environ=self.environ)
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
