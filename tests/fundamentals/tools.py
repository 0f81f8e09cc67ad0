"""What the tests hold in their hands: a ledger of what ran, a gate to hold a step, and waiting with a deadline."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import rayflow as rf

#: Seconds after which something that should happen counts as not happening.
PATIENCE = 20.0


def eventually(condition: Callable[[], object], what: str) -> None:
    """Wait until the condition holds; fail saying what did not come if it does not in time."""
    give_up = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < give_up, f"within {PATIENCE:g} s it never came that {what}"
        time.sleep(0.005)


class Ledger:
    """A file in which steps write that they ran: it outlives engines and processes, and no journal hides a line."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def lines(self) -> list[str]:
        path = Path(self.path)
        return path.read_text().split() if path.exists() else []

    def count(self, line: str) -> int:
        return Counter(self.lines())[line]


class Gate:
    """Holds a step until the test lets it go on. Steps of a LocalEngine are threads of this process."""

    def __init__(self) -> None:
        self._reached = threading.Event()
        self._open = threading.Event()

    def wait_until_reached(self) -> None:
        assert self._reached.wait(PATIENCE), "no step came to the gate"

    def open(self) -> None:
        self._open.set()

    def go_through(self) -> None:
        self._reached.set()
        assert self._open.wait(PATIENCE), "nobody opened the gate"


#: Steps know their gate by its name, since their arguments are recorded.
GATES: dict[str, Gate] = {}


@contextmanager
def gate_named(name: str) -> Iterator[Gate]:
    """A gate under a name; it is opened at the end, so that no step is left behind it."""
    made = GATES[name] = Gate()
    try:
        yield made
    finally:
        made.open()
        del GATES[name]


@rf.step
def note(ledger: str, line: str) -> str:
    """Writes a line into the ledger and answers it."""
    with Path(ledger).open("a") as file:
        file.write(line + "\n")
    return line


@rf.step
def hold(gate: str) -> str:
    """Waits at a gate."""
    GATES[gate].go_through()
    return "through"
