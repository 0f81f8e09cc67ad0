"""Translation of Ray's errors into those of the actor system interface."""

from __future__ import annotations

import re

from ray import exceptions as failures

from rayflow.errors import ClusterError
from rayflow.runtime.actors.base import ActorLost, ActorUnavailable, TaskCrashed

_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
#: Marks under lines of code, some of which Ray has removed.
_CARETS = re.compile(r"^[ ~^]*\^\n", re.MULTILINE)


def text_of(error: BaseException) -> str:
    """Return the message of an error, without colours."""
    return _COLOURS.sub("", str(error)).strip()


def _raised(name: str, error: failures.RayTaskError) -> BaseException:
    """Return what the method raised, with the remote traceback as a note."""
    cause: BaseException = error.cause
    trace = _CARETS.sub("", text_of(error))
    if isinstance(cause, failures.RayError):  # Ray's substitute for it
        return _cannot_be_sent(name, trace)
    cause.add_note(f"\nIn actor {name!r}:\n{trace}")
    return cause


def _cannot_be_sent(name: str, text: str) -> ClusterError:
    return ClusterError(f"actor {name!r} failed with an exception that cannot be sent to another process: {text}")


def translated(name: str, error: BaseException) -> BaseException:
    """Return the error for a caller of the named actor; an exception that is not Ray's stays as it is."""
    match error:
        case failures.RayTaskError():
            return _raised(name, error)
        case failures.UnserializableException():
            return _cannot_be_sent(name, text_of(error))
        case failures.ActorUnavailableError() | failures.PendingCallsLimitExceeded():
            return ActorUnavailable(name, text_of(error))
        case failures.WorkerCrashedError() | failures.OutOfMemoryError():
            return TaskCrashed(name, text_of(error))
        case failures.RayError() if isinstance(error, _GONE):
            return ActorLost(name, text_of(error))
        case failures.RayError():
            return ClusterError(f"calling actor {name!r} failed: {text_of(error)}")
    return error


_GONE = (
    failures.RayActorError,
    failures.ObjectLostError,
    failures.NodeDiedError,
    failures.ActorUnschedulableError,
    failures.RuntimeEnvSetupError,
    failures.TaskCancelledError,
    failures.LocalRayletDiedError,
)
