"""Deals the blows: finds who is due and kills or stops it, or has the store fail; and lets the stopped ones go on."""

from __future__ import annotations

import contextlib
import heapq
import json
import os
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from rayflow.runtime.actors import actor_names
from rayflow.runtime.cluster import processes
from tests.faults.chaos import trouble
from tests.faults.chaos.cluster import Cluster, Reading
from tests.faults.chaos.collect import BLOWS
from tests.faults.chaos.evidence import Struck
from tests.faults.chaos.ledger import Line, Tail, append
from tests.faults.chaos.plan import Blow
from tests.faults.chaos.settings import NOTICED
from tests.faults.chaos.trouble import Trouble
from tests.faults.processes.tools import alive

_SINGLETONS = {
    "persistence": actor_names.STORE,
    "supervisor": actor_names.SUPERVISOR,
    "pool": actor_names.pool("default"),
}
#: Seconds that a coordinator stays stopped at most until it has a successor, and between two looks for that.
LONGEST, LOOK = 20.0, 0.1
#: Seconds in which a claim is durable that a coordinator sent before it was met; its successor takes longer.
CLAIMS = 0.08
#: Lines of the ledger that are looked at for the workers that are busy.
RECENT = 400
#: Seconds after which a killed GCS is started again, at most.
GCS_GONE = 2.0
#: Of the times in which the store refuses: in which all is refused, and the share of what is refused in the others.
OUTAGES, SHARE = 0.5, 0.4


@dataclass(frozen=True, slots=True)
class _Met:
    """Whom a blow meets: as in Struck."""

    name: str
    pid: int
    on: tuple[int, ...] = ()
    coordinators: tuple[str, ...] = ()


class Striker:
    """See the module's docstring.

    Args:
        cluster: the run's.
        reading: its store.
        tail: its ledger.
        folder: where it keeps everything; the blows are written down there.

    Attributes:
        struck: the blows so far.
    """

    def __init__(self, cluster: Cluster, reading: Reading, tail: Tail, folder: Path) -> None:
        self._cluster = cluster
        self._reading = reading
        self._tail = tail
        self._folder = folder
        self._place = folder / BLOWS
        # Until when, its place among the blows, and how it goes on.
        self._lying: list[tuple[float, int, Callable[[], None]]] = []
        self._gcs_again: threading.Timer | None = None
        self.struck: list[Struck] = []

    def strike(self, blow: Blow, driver: int) -> bool:
        """Deal one blow; answers whether there was anybody to deal it to.

        Args:
            blow: which.
            driver: the driver's process.
        """
        driven = self._reading.driven()
        met = self._met(blow, driver, driven)
        if met is None or met.name in self._names_of_lying():
            return False
        at = time.time()
        until = self._deal(blow, met, at)
        if until is None:
            return False
        if met.coordinators:
            time.sleep(CLAIMS)
        drove: dict[str, int] = {}
        for name in met.coordinators:
            drove |= {**self._reading.driven().get(name, {}), **driven.get(name, {})}
        struck = Struck(blow.number, blow.kind, at, until, met.pid, met.name, drove, met.on, met.coordinators)
        self.struck.append(struck)
        append(self._place, json.dumps(asdict(struck)))
        return True

    def _deal(self, blow: Blow, met: _Met, at: float) -> float | None:
        """Do it; answers until when it lasts, None if its victim is gone."""
        if blow.victim == "store":
            trouble.begin(self._folder, Trouble(met.name, at + blow.seconds, 1.0 if blow.choice < OUTAGES else SHARE))
            return at + blow.seconds
        if blow.victim == "gcs":
            # By a thread of its own: whoever calls Ray meanwhile, waits for it.
            again = threading.Timer(blow.choice * GCS_GONE, self._cluster.all.kill_gcs())
            again.start()
            self._gcs_again = again
            return at + blow.choice * GCS_GONE
        try:
            os.kill(met.pid, signal.SIGSTOP if blow.how == "stop" else signal.SIGKILL)
        except ProcessLookupError:
            return None
        if blow.how == "stop":
            self._lay(at + blow.seconds, lambda: os.kill(met.pid, signal.SIGCONT))
        return at + blow.seconds

    def _lay(self, until: float, goes_on: Callable[[], None]) -> None:
        heapq.heappush(self._lying, (until, len(self.struck), goes_on))

    def _met(self, blow: Blow, driver: int, driven: dict[str, dict[str, int]]) -> _Met | None:
        match blow.victim:
            case "driver":
                return _Met("driver", driver)
            case "worker":
                return self._worker(blow.choice)
            case "node":
                return self._node(blow.choice)
            case "gcs":
                return self._gcs()
            case "store":
                return _Met(self._trouble(blow), 0)
            case "coordinator":
                return self._coordinator(blow.choice, driven)
            case victim:
                return self._actor(_SINGLETONS[victim])

    def _gcs(self) -> _Met | None:
        if self._gcs_again is not None and self._gcs_again.is_alive():
            return None
        found = processes.programs(processes.carrying(self._cluster.local.mark), "gcs_server")
        return _Met("gcs", found[0].pid) if found else None

    def _names_of_lying(self) -> set[str]:
        return {self.struck[place].name for _, place, _ in self._lying}

    def _actor(self, name: str) -> _Met | None:
        # One that lies there would not answer.
        pid = None if name in self._names_of_lying() else self._cluster.pid_of(name)
        return None if pid is None else _Met(name, pid)

    def _coordinator(self, choice: float, driven: dict[str, dict[str, int]]) -> _Met | None:
        # Those that drive nothing are only standby_coordinators; those that drive most are met most often.
        callers = self._cluster.callers
        names = sorted((n for n in driven if alive(callers.get(n, 0))), key=lambda name: (-len(driven[name]), name))
        name = names[int(choice**2 * len(names))] if names else ""
        return _Met(name, callers[name], coordinators=(name,)) if name else None

    def _trouble(self, blow: Blow) -> str:
        if blow.how == "doubt":
            return "doubt"
        return "busy" if blow.choice % 0.5 < 0.25 else "full"

    def _node(self, choice: float) -> _Met | None:
        """A node that is at work, with what runs there."""
        found = self._cluster.nodes.at_work()
        if not found:
            return None
        node, running = found[int(choice * len(found))]
        there = {process.pid for process in running}
        names = tuple(name for name, pid in self._cluster.callers.items() if pid in there)
        return _Met(node.id, node.raylet.pid, tuple(sorted(there)), names)

    def _worker(self, choice: float) -> _Met | None:
        """A worker that runs a step, by the ledger; any if none does."""
        self._tail.look()
        running: dict[str, Line] = {}
        for line in self._tail.lines[-RECENT:]:
            if line.what == "begin":
                running[line.nonce] = line
            else:
                running.pop(line.nonce, None)
        lying = {self.struck[place].pid for _, place, _ in self._lying}
        busy = sorted({line.pid for line in running.values() if alive(line.pid)} - lying)
        if busy:
            pid = busy[int(choice * len(busy))]
            return _Met(f"worker {pid}", pid)
        names = sorted(self._cluster.workers())
        return self._actor(names[int(choice * len(names))]) if names else None

    def let_go(self, *, everybody: bool = False) -> None:
        """Let those go on whose time is up. A process that was killed while it was stopped is no matter."""
        if everybody and self._gcs_again is not None:
            self._gcs_again.join()
        while self._lying and (everybody or self._lying[0][0] <= time.time()):
            _, place, goes_on = heapq.heappop(self._lying)
            struck = self.struck[place]
            if not everybody and self._is_to_be_noticed(struck):
                heapq.heappush(self._lying, (time.time() + LOOK, place, goes_on))
                return
            with contextlib.suppress(ProcessLookupError):
                goes_on()
            self.struck[place] = replace(struck, until=time.time())
            append(self._place, json.dumps({"number": struck.number, "went on": time.time()}))

    def _is_to_be_noticed(self, struck: Struck) -> bool:
        """Whether a coordinator is stopped until it has a successor, and has none: who is to see it may lie there, too.

        So it goes on when its successor has just begun, before it is killed.
        """
        if struck.victim != "coordinator" or struck.until < struck.at + NOTICED:
            return False
        if time.time() > struck.at + LONGEST:
            return False
        epochs = {record.id: record.epoch for record in self._reading.executions(ids=tuple(struck.drove))}
        return all(epochs.get(name, 0) <= epoch for name, epoch in struck.drove.items())
