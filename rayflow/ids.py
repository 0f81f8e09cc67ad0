"""Ids and the small types that every floor shares."""

from __future__ import annotations

import enum
import re
from collections.abc import Callable

from rayflow.errors import DefinitionError, InvalidArgument

LONGEST_ID = 200

#: What an id may look like: it appears in URLs, file names, actor names and command lines.
_ID = re.compile(rf"[A-Za-z0-9][A-Za-z0-9._:@+=-]{{0,{LONGEST_ID - 1}}}")

Clock = Callable[[], float]
"""Seconds since the epoch. Floors below the runtime get one as an argument and never read it themselves."""


class ExecutionStatus(enum.StrEnum):
    """Where an execution is."""

    PENDING = "pending"
    RUNNING = "running"
    PAUSED = "paused"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def terminal(self) -> bool:
        """Whether nothing more will happen by itself."""
        return self in _TERMINAL


_TERMINAL = frozenset({ExecutionStatus.COMPLETED, ExecutionStatus.FAILED, ExecutionStatus.CANCELLED})


def check_id(kind: str, value: object) -> str:
    """Return ``value`` if it can be an id.

    Args:
        kind: what the id names, for the message: "execution", "workflow", "step".
        value: the id.

    Raises:
        InvalidArgument: it is not a string, empty, too long, or has characters that are not allowed. DefinitionError
            for the id of a workflow, step or agent.
    """
    wrong = argument_error(kind)
    if not isinstance(value, str):
        raise wrong(f"{kind} id must be a string, not {type(value).__name__}")
    if not value.strip():
        raise wrong(f"{kind} id must not be empty")
    if _ID.fullmatch(value) is None:
        raise wrong(
            f"{kind} id {value!r} does not fit: 1 to 200 letters, digits and . _ : @ + = -, beginning with a "
            "letter or digit"
        )
    return value


def argument_error(kind: str) -> type[InvalidArgument]:
    """Return the class of error for a wrong value of a kind: its own for what belongs to a definition."""
    return DefinitionError if kind.partition(" ")[0] in {"workflow", "step", "agent"} else InvalidArgument
