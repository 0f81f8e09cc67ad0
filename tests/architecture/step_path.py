"""Files of rayflow that run between the start of an execution and its result, leg by leg.

A chain of two steps runs in a `LocalEngine` on SQLite, with a profiler in all threads. Only files count that run in
each of several executions: work by the clock that happens to fall into one of them does not.
"""

from __future__ import annotations

import sys
import tempfile
import threading
from types import FrameType
from typing import Any

import rayflow as rf
from tests.architecture.tree import ROOT

#: The legs of the path, in order; the profiler books a file under the one that is under way.
START, NEXT, END = "start to first step", "result to next step", "last result to end"
LEGS = (START, NEXT, END)
RUNS = 6

_PACKAGE = f"{ROOT / 'rayflow'}/"


class _Profile:
    """Profiler of calls in all threads that start after it was switched on."""

    def __init__(self) -> None:
        self.leg = ""
        self.files: dict[str, set[str]] = {leg: set() for leg in LEGS}

    def begin(self) -> None:
        self.files = {leg: set() for leg in LEGS}
        self.leg = START

    def __call__(self, frame: FrameType, event: str, arg: Any) -> None:
        name = frame.f_code.co_filename
        leg = self.leg
        if event == "call" and leg and name.startswith(_PACKAGE) and frame.f_code.co_name != "<module>":
            self.files[leg].add(name.removeprefix(f"{ROOT}/"))


_profile = _Profile()


@rf.step
def first(value: int) -> int:
    """Return the next number."""
    _profile.leg = NEXT
    return value + 1


@rf.step
def second(value: int) -> int:
    """Return the next number."""
    _profile.leg = END
    return value + 1


@rf.workflow
async def chain(value: int) -> int:
    """Run one step after another."""
    return await second(await first(value))


def step_path() -> dict[str, list[str]]:
    """Return for each leg the files that run in it, relative to the root."""
    runs = []
    threading.setprofile(_profile)
    sys.setprofile(_profile)
    try:
        with tempfile.TemporaryDirectory() as folder, rf.LocalEngine(f"sqlite:///{folder}/flows.db") as engine:
            engine.execute(chain, 0)  # loads the code, and registers the workflow
            _profile.leg = ""
            for number in range(RUNS):
                _profile.begin()
                engine.execute(chain, number)
                _profile.leg = ""
                runs.append(_profile.files)
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
    return {leg: sorted(set.intersection(*(run[leg] for run in runs))) for leg in LEGS}
