"""A store that fails when a run says so: a file in the run's folder says how, and until when.

"busy" and "full" fail before anything is written; "doubt" writes, and says afterwards that it has not. Each failure
leaves a line, so that they can be counted.
"""

from __future__ import annotations

import json
import os
import random
import sqlite3
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

#: What the store says, by the kind of trouble, and the statement that fails.
SAYS = {"busy": "database is locked", "full": "database or disk is full", "doubt": "disk I/O error"}
FAILS = {"busy": "BEGIN IMMEDIATE", "full": "COMMIT", "doubt": "COMMIT"}


@dataclass(frozen=True, slots=True)
class Trouble:
    """What is wrong with the store.

    Args:
        what: one of SAYS.
        until: until when, in seconds since the epoch.
        share: of the transactions that fail.
    """

    what: str
    until: float
    share: float


def place_of(folder: Path) -> Path:
    """The file that says what is wrong with the store."""
    return folder / "trouble.json"


def begin(folder: Path, trouble: Trouble) -> None:
    """From now on the store fails."""
    new = folder / "trouble.new"
    new.write_text(json.dumps(asdict(trouble)))
    new.replace(place_of(folder))


def current(folder: Path, now: float) -> Trouble | None:
    """What is wrong with the store now."""
    try:
        trouble = Trouble(**json.loads(place_of(folder).read_text()))
    except FileNotFoundError:
        return None
    return trouble if now < trouble.until else None


def counted(folder: Path) -> dict[str, int]:
    """How many transactions failed so far, by the kind of trouble."""
    place = folder / "troubles.log"
    words = place.read_text().split() if place.exists() else []
    return {what: words.count(what) for what in SAYS}


def install(store: Any, folder: Path) -> None:
    """Have a class of stores fail when the file says so.

    Args:
        store: the class; its connections are of its ``connection_class``.
        folder: where the file is.
    """

    class Failing(sqlite3.Connection):
        def execute(self, statement: str, parameters: Any = (), /) -> sqlite3.Cursor:
            if statement not in FAILS.values():
                return super().execute(statement, parameters)
            trouble = current(folder, time.time())
            if trouble is None or FAILS[trouble.what] != statement or random.random() >= trouble.share:
                return super().execute(statement, parameters)
            if trouble.what == "doubt":
                super().execute(statement, parameters)
            _note(folder, trouble.what)
            raise sqlite3.OperationalError(SAYS[trouble.what])

    store.connection_class = Failing


def _note(folder: Path, what: str) -> None:
    file = os.open(folder / "troubles.log", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(file, f"{what}\n".encode())
    finally:
        os.close(file)
