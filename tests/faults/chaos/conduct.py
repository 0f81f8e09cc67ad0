"""Conducts a run: starts the driver, deals blow after blow, waits for the end, and gathers what is left.

A blow waits for progress: results were recorded after the one before. So the blows are as many as the product gets
over, and none is dealt to what lies on the floor already. One whose victim is not there (a node is being added, a
driver has only begun) lets the next few of the plan pass.
"""

from __future__ import annotations

import itertools
import logging
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import IO

from tests.faults.chaos import collect, plan
from tests.faults.chaos.cluster import Cluster, Reading
from tests.faults.chaos.figures import Minimum
from tests.faults.chaos.ledger import Tail
from tests.faults.chaos.plan import Blow
from tests.faults.chaos.settings import NODE_NOTICED, NOTICED, Settings
from tests.faults.chaos.striker import Striker
from tests.runtime.cluster_fixtures import ROOT

log = logging.getLogger(__name__)

#: Steps that are recorded after a blow before the next one is dealt.
PROGRESS = 8
#: Seconds between two looks, and between two blows at least.
LOOK, BREATH = 0.05, 0.25
#: Seconds after which a run that does not go on is given up: longer than any recovery that is promised.
PATIENCE = 60.0
#: Blows of the plan of which the first that can be is dealt next, and seconds after which one more is looked at if none
#: can be: those that wait for a node to have work may be many.
AHEAD, FURTHER = 4, 1.0
#: Seconds before its end in which a run deals no blows any more.
CALM = 4.0
#: Seconds between two looks whether enough was done.
ENOUGH = 1.0


class Coordinator:
    """See the module's docstring.

    Args:
        settings: the run.
        cluster: its cluster.
        minimum: what it has to have done; it goes on until then, but not for more than twice its time.
        last: seconds after the last start in which everything has to end.
        kinds: the blows that are dealt.
    """

    def __init__(
        self, settings: Settings, cluster: Cluster, minimum: Minimum, last: float, kinds: Sequence[str]
    ) -> None:
        self._settings = settings
        self._minimum = minimum
        self._last = last
        self._kinds = kinds
        self._cluster = cluster
        self._reading = Reading(settings.store)
        self._tail = Tail(settings.ledger)
        self._striker = Striker(cluster, self._reading, self._tail, Path(settings.folder))
        self._file = settings.save()
        self._driver: subprocess.Popen[bytes] | None = None
        self._killed = False
        self._ready_before = 0
        self._looked = 0.0
        self._struck_at = time.monotonic()
        self.gave_up: list[str] = []

    def run(self) -> None:
        """The whole run; what it leaves behind is in its folder."""
        output = Path(self._settings.folder, "driver.log")
        try:
            with output.open("ab") as file:
                self._cluster.watch()
                self._begin_driver(file)
                self._blows(file)
                self._striker.let_go(everybody=True)
                self._calm(file)
                self._end(file)
        finally:
            self._striker.let_go(everybody=True)
            if self._driver is not None:
                self._driver.kill()
                self._driver.wait()
        self._cluster.unwatch()
        left = self._cluster.orphans()
        left += self._cluster.stop()
        left += self._cluster.down()
        self._reading.close()
        collect.keep(self._settings, left, self.gave_up, self._cluster.callers)

    # --- the driver ----------------------------------------------------------------------------------------
    def _begin_driver(self, output: IO[bytes]) -> None:
        self._ready_before = self._readies()
        self._killed = False
        self._driver = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.chaos.driver", str(self._file)],
            cwd=ROOT,
            env=self._cluster.environ,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )

    def _readies(self) -> int:
        # Looked at all the time, so it is not read line by line.
        place = self._settings.acts
        return place.read_bytes().count(b'"what": "ready"') if place.exists() else 0

    def _see_to_driver(self, output: IO[bytes]) -> bool:
        """Begin another one where it was killed; answers whether one is to be waited for."""
        assert self._driver is not None
        code = self._driver.poll()
        if code is None:
            return True
        if not self._killed:
            told = f"the driver ended by itself with exit code {code}; see driver.log"
            if code and told not in self.gave_up:
                self.gave_up.append(told)
            return False
        self._begin_driver(output)
        return True

    # --- blows ---------------------------------------------------------------------------------------------
    def _blows(self, output: IO[bytes]) -> None:
        planned = plan.blows(self._settings.seed, noticed=NOTICED, node_noticed=NODE_NOTICED, kinds=self._kinds)
        due: list[Blow] = []
        while True:
            due.extend(itertools.islice(planned, max(0, AHEAD - len(due))))
            recorded, dealt_at = self._reading.recorded(), time.time()

            def progress(since: int = recorded, at: float = dealt_at) -> bool:
                return self._reading.recorded() >= since + PROGRESS and time.time() >= at + BREATH

            if not self._wait(progress, output, f"blow {due[0].number} ({due[0].kind})"):
                return
            self._struck_at = time.monotonic()
            if not self._wait(partial(self._strike, due, planned), output, "any of them could be dealt"):
                return

    def _strike(self, due: list[Blow], planned: Iterator[Blow]) -> bool:
        assert self._driver is not None
        at_work = self._readies() > self._ready_before
        for blow in due:
            if blow.victim == "driver" and not at_work:
                continue
            if self._striker.strike(blow, self._driver.pid):
                due.remove(blow)
                self._killed = self._killed or blow.kind == "kill driver"
                log.info("%s", blow)
                self._struck_at = time.monotonic()
                return True
        if time.monotonic() > self._struck_at + FURTHER:
            self._struck_at = time.monotonic()
            due.append(next(planned))
        return False

    def _wait(self, condition: Callable[[], bool], output: IO[bytes], what: str) -> bool:
        """Wait for something; False if the time for blows is up, or if it was in vain, which is noted."""
        give_up = time.monotonic() + PATIENCE
        while not self._is_time_up():
            self._striker.let_go()
            if not self._see_to_driver(output):
                return False
            if condition():
                return True
            if time.monotonic() > give_up:
                self.gave_up.append(f"nothing went on for {PATIENCE:g} s before {what}")
                return False
            time.sleep(LOOK)
        return False

    def _is_time_up(self) -> bool:
        """Whether no further blow is due: the time is up, and enough was done."""
        now = time.time()
        if now < self._settings.until - CALM or self._looked > now - ENOUGH:
            return False
        self._looked = now
        self._tail.look()
        steps = {line.key for line in self._tail.lines}
        done = len(self._reading.executions())
        return now > self._settings.latest or not self._minimum.lacking(self._striker.struck, done, len(steps))

    # --- the end -------------------------------------------------------------------------------------------
    def _calm(self, output: IO[bytes]) -> None:
        """Let it run for a moment without any blow."""
        calm = time.monotonic() + CALM
        while time.monotonic() < calm and self._see_to_driver(output):
            time.sleep(LOOK)

    def _end(self, output: IO[bytes]) -> None:
        """Wait until the driver has seen everything end, and until the executions have that it does not know."""
        self._settings.over.touch()
        give_up = max(time.time(), self._settings.until) + self._last
        while self._see_to_driver(output) and time.time() < give_up:
            time.sleep(0.2)
        unfinished: list[str] = ["?"]
        while unfinished and time.time() < give_up:
            unfinished = [r.id for r in self._reading.executions() if not r.status.terminal]
            time.sleep(0.2)
        if time.time() >= give_up:
            self.gave_up.append(f"not everything ended within {self._last:g} s of the last start")
        time.sleep(2.0)  # what is answered and not yet durable, where that was sabotaged
