"""Exit codes, and which one an error or an ended execution comes to."""

from __future__ import annotations

from rayflow.errors import (
    DeadLetterNotFound,
    ExecutionAlreadyExists,
    ExecutionNotFound,
    InvalidArgument,
    InvalidTransition,
    PoolNotFound,
    RayflowError,
    RequiresCluster,
    ScheduleNotFound,
    SingletonConflict,
    WorkflowNotRegistered,
)
from rayflow.ids import ExecutionStatus

COMPLETED = 0
FAILED = 1
USAGE = 2
CANCELLED = 3
STOPPED_WAITING = 4
INTERRUPTED = 130
#: The reader of our output went away: what a shell reports for a program that SIGPIPE ended.
READER_GONE = 141


class UsageError(RayflowError):
    """The command cannot be meant like that; the message says what would be right."""


class StoppedWaiting(RayflowError):
    """Nobody knows any more how the execution does; it may well go on."""


_WRONG_USAGE = (
    UsageError,
    DeadLetterNotFound,
    InvalidArgument,
    ExecutionAlreadyExists,
    ExecutionNotFound,
    InvalidTransition,
    RequiresCluster,
    PoolNotFound,
    ScheduleNotFound,
    SingletonConflict,
    WorkflowNotRegistered,
)


def code_of(error: RayflowError) -> int:
    """The exit code of an error."""
    if isinstance(error, StoppedWaiting):
        return STOPPED_WAITING
    return USAGE if isinstance(error, _WRONG_USAGE) else FAILED


def code_for(status: ExecutionStatus) -> int:
    """The exit code of an execution in that status; of one that is not over, that nobody waits for it any more."""
    codes = {
        ExecutionStatus.COMPLETED: COMPLETED,
        ExecutionStatus.FAILED: FAILED,
        ExecutionStatus.CANCELLED: CANCELLED,
    }
    return codes.get(status, STOPPED_WAITING)
