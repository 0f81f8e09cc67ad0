"""What the driver did and what was accepted, outside of its process: the next life of it goes on from there."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TypeVar

from rayflow.errors import ClusterError, StorageUnavailable
from tests.faults.chaos.evidence import Act
from tests.faults.chaos.ledger import append

T = TypeVar("T")

#: Seconds between two tries of something that is to be accepted.
AGAIN = 0.1
#: Seconds after which a driver takes no more tries for an answer.
PATIENCE = 90.0


class Acts:
    """The acts that were accepted. Written by the driver, read by everybody.

    Args:
        place: their file.
    """

    def __init__(self, place: Path) -> None:
        self._place = place
        self._known = {_key(act) for act in read(place)}

    def has(self, what: str, execution: str, sender: int = 0, number: int = 0) -> bool:
        """Whether that was accepted."""
        return (what, execution, sender, number) in self._known

    def accepted(self, what: str, execution: str, sender: int = 0, number: int = 0) -> None:
        """Note that it was."""
        act = Act(time.time(), what, execution, sender, number)
        append(self._place, json.dumps(asdict(act)))
        self._known.add(_key(act))


def _key(act: Act) -> tuple[str, str, int, int]:
    return act.what, act.execution, act.sender, act.number


def read(place: Path) -> list[Act]:
    """The acts in a file; none if there is no such file."""
    if not place.exists():
        return []
    return [Act(**json.loads(line)) for line in place.read_text().splitlines()]


def insist(act: Callable[[], T]) -> T:
    """Do something again until it is answered: an actor may be dead, or hang, for a while."""
    give_up = time.monotonic() + PATIENCE
    while True:
        try:
            return act()
        except (ClusterError, StorageUnavailable):
            if time.monotonic() > give_up:
                raise
            time.sleep(AGAIN)
