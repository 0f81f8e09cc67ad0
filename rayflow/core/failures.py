"""Conversion between exceptions and recorded failures."""

from __future__ import annotations

import traceback
from collections.abc import Mapping
from types import MappingProxyType

from rayflow.core.events import DeadlinePassed, RequestCompleted, StepFailed, kind_and_name
from rayflow.errors import ChildFailed, Deadlock, Failure, StepTimeout, class_name
from rayflow.errors import StepFailed as StepFailedError

#: Members of an exception group that its message names.
_MEMBERS = 3


def step_error(event: StepFailed) -> StepFailedError:
    """Return the exception that the workflow's code sees for a failed step."""
    timed_out = event.failure.matches("rayflow.errors.StepTimeout")
    cls = StepTimeout if timed_out else StepFailedError
    return cls(event.name, event.failure, attempts=event.attempt, seq=event.step)


def request_error(event: RequestCompleted, failure: Failure) -> StepFailedError:
    """Return the exception that the workflow's code sees for a failed child, signal or lock call."""
    kind, name = kind_and_name(event.name)
    if kind == "child":
        return ChildFailed(name, failure, attempts=1, seq=event.step, execution_id=event.worker)
    cls = Deadlock if failure.matches(Deadlock) else StepFailedError
    return cls(f"{kind} {name}", failure, attempts=1, seq=event.step)


def failure_of(error: BaseException, failed: Mapping[int, int] = MappingProxyType({})) -> Failure:
    """Return an exception as data, with the number of the failed step that caused it, if there is one.

    Args:
        error: the exception.
        failed: rank of each failed step in the order of failures; of several causes, the first failure is named.
    """
    causes = _step_failures_in(error)
    try:
        message, trace = _message(error), "".join(traceback.format_exception(error))
        # User code may set any value; the journal records a bool.
        retryable = bool(getattr(error, "retryable", True))
    except Exception as broken:  # noqa: BLE001 - the exception's own __str__ may raise anything
        message, trace, retryable = f"<no message: its __str__ raised {type(broken).__name__}>", "", True
    return Failure(
        type=class_name(type(error)),
        message=message,
        traceback=trace,
        retryable=retryable,
        mro=tuple(class_name(c) for c in type(error).__mro__[:-1]),
        step=min(causes, key=lambda seq: failed.get(seq, len(failed)), default=None),
    )


def _message(error: BaseException) -> str:
    """Return the exception's own text; of a group, its first members as well."""
    if not isinstance(error, BaseExceptionGroup):
        return str(error)
    members = [f"{class_name(type(member))}: {_message(member)}" for member in error.exceptions[:_MEMBERS]]
    more = len(error.exceptions) - len(members)
    return f"{error}: {'; '.join(members)}{f'; and {more} more' if more else ''}"


def _step_failures_in(error: BaseException | None, depth: int = 0) -> list[int]:
    if error is None or depth > 20:
        return []
    if isinstance(error, StepFailedError):
        return [error.seq]
    found = _step_failures_in(error.__cause__ or error.__context__, depth + 1)
    if isinstance(error, BaseExceptionGroup):
        members = [seq for member in error.exceptions for seq in _step_failures_in(member, depth + 1)]
        return members or found
    return found


def deadlock_failure(message: str) -> Failure:
    """Return the failure of a lock claim that was chosen to resolve a deadlock."""
    name = class_name(Deadlock)
    return Failure(type=name, message=message, retryable=False, mro=tuple(class_name(c) for c in Deadlock.__mro__[:-1]))


def deadline_failure(event: DeadlinePassed) -> Failure:
    """Return the failure of an execution whose timeout or deadline passed."""
    return Failure(
        type="rayflow.errors.ExecutionTimeout",
        message=f"the execution's {event.limit or 'time'} is up",
        retryable=False,
        mro=("rayflow.errors.ExecutionTimeout", "TimeoutError"),
    )
