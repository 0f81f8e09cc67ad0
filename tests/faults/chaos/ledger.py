"""The ledger: what steps leave outside of rayflow, one line when they begin and one when they end.

All processes append to one file, each line by one write, so lines do not mix and their order is the order of what
happened, whatever the clocks say.
"""

from __future__ import annotations

import json
import os
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import rayflow as rf
from tests.faults.chaos import hooks


@dataclass(frozen=True, slots=True)
class Line:
    """One line.

    Args:
        at: when, in seconds since the epoch.
        what: "begin" or "end"; "failed" instead of "end" where the step failed as its program says.
        execution: whose step it is.
        seq: the step's number in its run.
        step: its name.
        attempt: which attempt.
        epoch: of the coordinator that sent it.
        key: the step's idempotency key.
        pid: the process.
        nonce: this very begin's own; its result carries it.
        lock: the lock under which it runs; "" for none.
        token: that lock's fencing token.
        coordinator: who sent it; "" where nobody knows.
    """

    at: float
    what: Literal["begin", "end", "failed"]
    execution: str
    seq: int
    step: str
    attempt: int
    epoch: int
    key: str
    pid: int
    nonce: str
    lock: str = ""
    token: int = 0
    coordinator: str = ""


def append(place: Path | str, line: str) -> None:
    """Append one line, by one write."""
    file = os.open(place, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(file, line.encode() + b"\n")
    finally:
        os.close(file)


@contextmanager
def noted(place: str, lock: str = "", token: int = 0) -> Iterator[str]:
    """A step's begin and end; answers the begin's nonce."""
    context, nonce = rf.step_context(), uuid.uuid4().hex[:12]
    sender = hooks.senders.get((context.execution_id, context.epoch), "")

    def note(what: Literal["begin", "end", "failed"]) -> None:
        about = (context.execution_id, context.seq, context.step, context.attempt, context.epoch)
        line = Line(time.time(), what, *about, context.idempotency_key, os.getpid(), nonce, lock, token, sender)
        append(place, json.dumps(asdict(line)))

    note("begin")
    try:
        yield nonce
    except BaseException:
        note("failed")
        raise
    note("end")


def parse(text: str) -> list[Line]:
    """The lines of a ledger."""
    return [Line(**json.loads(line)) for line in text.splitlines()]


def read(place: Path) -> list[Line]:
    """The lines of a ledger; none if there is no such file."""
    return parse(place.read_text()) if place.exists() else []


class Tail:
    """Follows a ledger that grows.

    Attributes:
        lines: what was read so far.
    """

    def __init__(self, place: Path) -> None:
        self._place = place
        self._read = 0
        self.lines: list[Line] = []

    def look(self) -> list[Line]:
        """What is new."""
        if not self._place.exists():
            return []
        with self._place.open("rb") as file:
            file.seek(self._read)
            data = file.read()
        whole = data[: data.rfind(b"\n") + 1]
        self._read += len(whole)
        new = parse(whole.decode())
        self.lines.extend(new)
        return new
