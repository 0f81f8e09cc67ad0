"""Conducts a run: starts the driver, deals blow after blow, waits for the end, and gathers what is left.

A blow waits for progress: results were recorded after the one before, and a driver that was killed is at work again. So
the blows are as many as the product gets over, and none is dealt to what lies on the floor already.
"""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import IO

from tests.chaos import collect, plan
from tests.chaos.cluster import Cluster, Reading
from tests.chaos.evidence import Evidence
from tests.chaos.ledger import Tail
from tests.chaos.settings import NOTICED, Settings
from tests.chaos.striker import Striker
from tests.runtime.cluster_fixtures import ROOT

log = logging.getLogger(__name__)

#: Steps that are recorded after a blow before the next one is dealt.
PROGRESS = 8
#: Seconds between two looks, and between two blows at least.
LOOK, BREATH = 0.05, 0.25
#: Seconds after which a run that does not go on is given up: longer than any recovery that is promised.
PATIENCE = 60.0
#: Seconds after the last start in which everything has to end.
LAST = 60.0
#: Seconds before its end in which a run deals no blows any more.
CALM = 4.0


class Conductor:
    """See the module's docstring.

    Args:
        settings: the run.
        cluster: its cluster.
    """

    def __init__(self, settings: Settings, cluster: Cluster) -> None:
        self._settings = settings
        self._cluster = cluster
        self._reading = Reading(settings.store)
        self._tail = Tail(settings.ledger)
        self._striker = Striker(cluster, self._reading, self._tail, Path(settings.folder, "blows.jsonl"))
        self._file = settings.save()
        self._driver: subprocess.Popen[bytes] | None = None
        self._killed = False
        self._ready_before = 0
        self.gave_up: list[str] = []

    def run(self) -> Evidence:
        """The whole run; answers what it left behind."""
        output = Path(self._settings.folder, "driver.log")
        try:
            with output.open("ab") as file:
                self._begin_driver(file)
                self._blows(file)
                self._striker.let_go(everybody=True)
                self._end(file)
        finally:
            self._striker.let_go(everybody=True)
            if self._driver is not None:
                self._driver.kill()
                self._driver.wait()
        left = self._cluster.orphans()
        left += self._cluster.stop()
        left += self._cluster.down()
        found = collect.evidence(self._settings, self._reading, self._striker.struck, left, self.gave_up)
        self._reading.close()
        return found

    # --- the driver ----------------------------------------------------------------------------------------
    def _begin_driver(self, output: IO[bytes]) -> None:
        self._ready_before = self._readies()
        self._killed = False
        self._driver = subprocess.Popen(
            [sys.executable, "-m", "tests.chaos.driver", str(self._file)],
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
        for blow in plan.blows(self._settings.seed, noticed=NOTICED):
            recorded, dealt_at = self._reading.recorded(), time.time()

            def progress(since: int = recorded, at: float = dealt_at) -> bool:
                went_on = self._reading.recorded() >= since + PROGRESS and time.time() >= at + BREATH
                return went_on and self._readies() > self._ready_before

            if not self._wait(progress, output, f"blow {blow.number} ({blow.kind})"):
                return
            assert self._driver is not None
            driver = self._driver.pid
            if not self._wait(lambda blow=blow, driver=driver: self._striker.strike(blow, driver), output, blow.kind):  # type: ignore[misc]
                return
            self._killed = self._killed or blow.kind == "kill driver"
            log.info("%s", blow)

    def _wait(self, condition: Callable[[], bool], output: IO[bytes], what: str) -> bool:
        """Wait for something; False if the time for blows is up, or if it was in vain, which is noted."""
        give_up = time.monotonic() + PATIENCE
        while time.time() < self._settings.until - CALM:
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

    # --- the end -------------------------------------------------------------------------------------------
    def _end(self, output: IO[bytes]) -> None:
        """Wait until the driver has seen everything end, and until the executions have that it does not know."""
        give_up = max(time.time(), self._settings.until) + LAST
        while self._see_to_driver(output) and time.time() < give_up:
            time.sleep(0.2)
        unfinished: list[str] = ["?"]
        while unfinished and time.time() < give_up:
            unfinished = [r.id for r in self._reading.executions() if not r.status.terminal]
            time.sleep(0.2)
        if time.time() >= give_up:
            self.gave_up.append(f"not everything ended within {LAST:g} s of the last start")
        time.sleep(2.0)  # what is answered and not yet durable, where that was sabotaged


def save(found: Evidence, folder: Path) -> None:
    """Keep what has to be there; the blows, the acts and the ledger are in the folder already."""
    expected = {name: asdict(one) for name, one in found.expected.items()}
    (folder / "expected.json").write_text(json.dumps(expected, indent=1))
