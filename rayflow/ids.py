"""Ids, the execution status and the clock type, shared by all floors."""

from __future__ import annotations

import enum
import re
from collections.abc import Callable

from rayflow.errors import DefinitionError

MAX_ID_LENGTH = 200

#: Ids appear in URLs, file names, actor names and command lines.
_ID = re.compile(rf"[A-Za-z0-9][A-Za-z0-9._:@+=-]{{0,{MAX_ID_LENGTH - 1}}}")

Clock = Callable[[], float]
"""Seconds since the epoch. Floors below the runtime receive the time as an argument."""


class ExecutionStatus(enum.StrEnum):
    """Status of an execution."""

    PENDING = "pending"
    RUNNING = "running"
    PAUSED = "paused"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def terminal(self) -> bool:
        """Whether the status is final: completed, failed or cancelled."""
        return self in _TERMINAL


_TERMINAL = frozenset({ExecutionStatus.COMPLETED, ExecutionStatus.FAILED, ExecutionStatus.CANCELLED})


def check_id(kind: str, value: object) -> str:
    """Return ``value`` if it is a valid id.

    Args:
        kind: kind of the named object, for the message: "execution", "workflow", "step".
        value: the id.

    Raises:
        DefinitionError: the value is not a string, is empty or too long, or contains a character that is not allowed.
    """
    if not isinstance(value, str):
        raise DefinitionError(f"{kind} id must be a string, not {type(value).__name__}")
    if not value.strip():
        raise DefinitionError(f"{kind} id must not be empty")
    if _ID.fullmatch(value) is None:
        raise DefinitionError(
            f"{kind} id {value!r} is not valid: use 1 to 200 letters, digits and . _ : @ + = -, starting with a "
            "letter or digit"
        )
    return value
