"""Detection of workflow code that swallows its cancellation.

A cancelled task may clean up for as long as it wants. One that waits again at the very place where the cancellation
reached it has swallowed the cancellation, as the bare ``except`` of a polling loop does, and would never end.
"""

from __future__ import annotations

import asyncio
from typing import Any

from rayflow.core.interpreter.source_lines import frames_of

Position = tuple[tuple[object, int], ...]

#: Places where a task waits for others, which may still clean up: the others are judged themselves.
_WAITS_FOR_OTHERS = ("asyncio.taskgroups", "asyncio.tasks", "anyio.")
_SLEEP = "sleep"


def position_of(task: asyncio.Task[Any]) -> Position | None:
    """Return where a suspended task waits; None where that cannot be told, or where the task waits for other tasks."""
    if isinstance(getattr(task, "_fut_waiter", None), asyncio.Task | asyncio.tasks._GatheringFuture):  # type: ignore[attr-defined]
        return None
    frames = list(frames_of(task.get_coro()))
    if not frames or frames[-1] is None:
        return None
    last = frames[-1]
    if last.f_globals.get("__name__", "").startswith(_WAITS_FOR_OTHERS) and last.f_code.co_name != _SLEEP:
        return None
    return tuple((frame.f_code, frame.f_lasti) for frame in frames if frame is not None)
