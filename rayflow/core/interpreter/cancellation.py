"""Detection of workflow code that swallows its cancellation.

A cancelled task may clean up for as long as it wants. One that waits again at the very place where the cancellation
reached it has swallowed the cancellation, as the bare ``except`` of a polling loop does, and would never end.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

Position = tuple[tuple[object, int], ...]

#: Places where a task waits for others, which may still clean up: the others are judged themselves.
_WAITS_FOR_OTHERS = ("asyncio.taskgroups", "asyncio.tasks", "anyio.")
_SLEEP = "sleep"


def position_of(task: asyncio.Task[Any]) -> Position | None:
    """Return where a suspended task waits; None where that cannot be told, or where the task waits for other tasks."""
    if isinstance(getattr(task, "_fut_waiter", None), asyncio.Task | asyncio.tasks._GatheringFuture):  # type: ignore[attr-defined]
        return None
    frames = list(_frames(task.get_coro()))
    if not frames or frames[-1] is None:
        return None
    last = frames[-1]
    if last.f_globals.get("__name__", "").startswith(_WAITS_FOR_OTHERS) and last.f_code.co_name != _SLEEP:
        return None
    return tuple((frame.f_code, frame.f_lasti) for frame in frames if frame is not None)


def place_of(task: asyncio.Task[Any]) -> str:
    """Return the line of user code at which a suspended task waits, for people."""
    frames = [frame for frame in _frames(task.get_coro()) if frame is not None]
    mine = [f for f in frames if not f.f_globals.get("__name__", "").startswith(("asyncio.", "rayflow.", "anyio."))]
    frame = (mine or frames)[-1]
    return f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}"


def _frames(awaited: Any) -> Iterator[FrameType | None]:
    """The frames of a chain of awaits, outermost first; None for what does not show its frame and is no future."""
    while awaited is not None:
        for prefix, inner in (("cr", "await"), ("gi", "yieldfrom"), ("ag", "await")):
            frame = getattr(awaited, f"{prefix}_frame", None)
            if frame is not None:
                yield frame
                awaited = getattr(awaited, f"{prefix}_{inner}")
                break
        else:
            if type(awaited).__name__ != "FutureIter":
                yield None
            return
