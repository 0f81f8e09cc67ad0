"""Deals the blows: finds a process of the kind that is due, kills or stops it, and lets the stopped ones go on."""

from __future__ import annotations

import contextlib
import heapq
import json
import os
import signal
import time
from dataclasses import asdict, replace
from pathlib import Path

from rayflow.runtime import naming
from tests.chaos.cluster import Cluster, Reading
from tests.chaos.evidence import Struck
from tests.chaos.ledger import Line, Tail, append
from tests.chaos.plan import Blow
from tests.chaos.settings import NOTICED
from tests.faults.tools import alive

_SINGLETONS = {
    "persistence": naming.PERSISTENCE,
    "supervisor": naming.SUPERVISOR,
    "pool": naming.pool("default"),
}
#: Seconds that a coordinator stays stopped at most until it has a successor, and between two looks for that.
LONGEST, LOOK = 20.0, 0.1
#: Seconds in which a claim is durable that a coordinator sent before it was met; its successor takes longer.
CLAIMS = 0.08
#: Lines of the ledger that are looked at for the workers that are busy.
RECENT = 400


class Striker:
    """See the module's docstring.

    Args:
        cluster: the run's.
        reading: its store.
        tail: its ledger.
        place: the file in which the blows are written down.

    Attributes:
        struck: the blows so far.
    """

    def __init__(self, cluster: Cluster, reading: Reading, tail: Tail, place: Path) -> None:
        self._cluster = cluster
        self._reading = reading
        self._tail = tail
        self._place = place
        self._stopped: list[tuple[float, int]] = []  # until when, and its place among the blows
        self.struck: list[Struck] = []

    def strike(self, blow: Blow, driver: int) -> bool:
        """Deal one blow; answers whether there was anybody to deal it to.

        Args:
            blow: which.
            driver: the driver's process.
        """
        driven = self._reading.driven()
        name, pid = ("driver", driver) if blow.victim == "driver" else self._victim(blow, driven)
        if not pid or pid in {self.struck[place].pid for _, place in self._stopped}:
            return False
        at = time.time()
        try:
            os.kill(pid, signal.SIGSTOP if blow.how == "stop" else signal.SIGKILL)
        except ProcessLookupError:
            return False
        if blow.how == "stop":
            heapq.heappush(self._stopped, (at + blow.seconds, len(self.struck)))
        drove = driven.get(name, {})
        if blow.victim == "coordinator":
            time.sleep(CLAIMS)
            drove = {**self._reading.driven().get(name, {}), **drove}
        struck = Struck(blow.number, blow.kind, at, at + blow.seconds, pid, name, drove)
        self.struck.append(struck)
        append(self._place, json.dumps(asdict(struck)))
        return True

    def _victim(self, blow: Blow, driven: dict[str, dict[str, int]]) -> tuple[str, int | None]:
        if blow.victim == "worker":
            return self._worker(blow.choice)
        if blow.victim == "coordinator":
            # Those that drive nothing are only standbys; those that drive most are met most often.
            names = sorted(driven, key=lambda name: (-len(driven[name]), name))
            name = names[int(blow.choice**2 * len(names))] if names else ""
        else:
            name = _SINGLETONS[blow.victim]
        return name, self._cluster.pid_of(name) if name else None

    def _worker(self, choice: float) -> tuple[str, int | None]:
        """A worker that runs a step, by the ledger; any if none does."""
        self._tail.look()
        running: dict[str, Line] = {}
        for line in self._tail.lines[-RECENT:]:
            if line.what == "begin":
                running[line.nonce] = line
            else:
                running.pop(line.nonce, None)
        busy = sorted({line.pid for line in running.values() if alive(line.pid)})
        if busy:
            return "worker", busy[int(choice * len(busy))]
        names = sorted(self._cluster.workers())
        return "worker", self._cluster.pid_of(names[int(choice * len(names))]) if names else None

    def let_go(self, *, everybody: bool = False) -> None:
        """Let those go on whose time is up. A process that was killed while it was stopped is no matter."""
        while self._stopped and (everybody or self._stopped[0][0] <= time.time()):
            _, place = heapq.heappop(self._stopped)
            struck = self.struck[place]
            if not everybody and self._is_to_be_noticed(struck):
                heapq.heappush(self._stopped, (time.time() + LOOK, place))
                return
            with contextlib.suppress(ProcessLookupError):
                os.kill(struck.pid, signal.SIGCONT)
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
