"""Exit codes of errors and of execution statuses."""

from __future__ import annotations

from rayflow.errors import (
    DeadLetterNotFound,
    ExecutionAlreadyExists,
    ExecutionNotFound,
    InvalidArgument,
    InvalidTransition,
    PoolExists,
    PoolInUse,
    PoolNotFound,
    RayflowError,
    RequiresCluster,
    ScheduleExists,
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
#: The reader of stdout closed it: the code that a shell reports for a program ended by SIGPIPE.
READER_GONE = 141


class UsageError(RayflowError):
    """The command line is wrong; the message names the allowed forms."""


class StoppedWaiting(RayflowError):
    """The engine stopped responding; the execution may continue."""


_WRONG_USAGE = (
    UsageError,
    DeadLetterNotFound,
    ExecutionAlreadyExists,
    ExecutionNotFound,
    InvalidArgument,
    InvalidTransition,
    PoolExists,
    PoolInUse,
    PoolNotFound,
    RequiresCluster,
    ScheduleExists,
    ScheduleNotFound,
    SingletonConflict,
    WorkflowNotRegistered,
)


def code_of(error: RayflowError) -> int:
    """Return the exit code of an error."""
    if isinstance(error, StoppedWaiting):
        return STOPPED_WAITING
    return USAGE if isinstance(error, _WRONG_USAGE) else FAILED


def code_for(status: ExecutionStatus) -> int:
    """Return the exit code of an execution's status; STOPPED_WAITING if the execution has not finished."""
    codes = {
        ExecutionStatus.COMPLETED: COMPLETED,
        ExecutionStatus.FAILED: FAILED,
        ExecutionStatus.CANCELLED: CANCELLED,
    }
    return codes.get(status, STOPPED_WAITING)
