"""Lines of user code in messages: where a task waits, and where a coroutine was made."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

_PACKAGE = str(Path(__file__).parents[2])
_NOT_USER_CODE = ("asyncio.", "rayflow.", "anyio.")


def line_of(frame: FrameType) -> str:
    """Return a frame's file and line."""
    return f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}"


def frames_of(awaited: Any) -> Iterator[FrameType | None]:
    """Yield the frames of a chain of awaits, outermost first.

    The last item is absent, a None, if the chain continues in an object without frames that is not a future.
    """
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


def place_of(task: asyncio.Task[Any]) -> str:
    """Return the line of user code at which a suspended task waits."""
    frames = [frame for frame in frames_of(task.get_coro()) if frame is not None]
    mine = [frame for frame in frames if not frame.f_globals.get("__name__", "").startswith(_NOT_USER_CODE)]
    return line_of((mine or frames)[-1])


def origin_of(coro: Any) -> str:
    """Return where a coroutine was made, as " at file:line"; "" if it does not know."""
    for file, line, _ in getattr(coro, "cr_origin", None) or ():
        if not file.startswith(_PACKAGE):
            return f" at {Path(file).name}:{line}"
    return ""
