"""Ids, the execution status and the clock type, shared by all floors."""

from __future__ import annotations

import enum
import re
from collections.abc import Callable

from rayflow.errors import DefinitionError, InvalidArgument

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
            f"{kind} id {value!r} is not valid: use 1 to 200 letters, digits and . _ : @ + = -, starting with a "
            "letter or digit"
        )
    return value


def argument_error(kind: str) -> type[InvalidArgument]:
    """Return the class of error for a wrong value of a kind: its own for what belongs to a definition."""
    return DefinitionError if kind.partition(" ")[0] in {"workflow", "step", "agent"} else InvalidArgument
