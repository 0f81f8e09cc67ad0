"""What declared steps come to: their results, and how they fail."""

from __future__ import annotations

import traceback
from dataclasses import dataclass, replace
from typing import Literal

from rayflow.definition.agent import AgentResult
from rayflow.errors import Failure, RayflowError, StepFailed, StepTimeout, class_name

StageStatus = Literal["running", "completed", "failed", "skipped"]


@dataclass(frozen=True, slots=True)
class StepResult:
    """What one declared step came to.

    Args:
        name: the step's name.
        index: its position in the workflow, from 0.
        status: "completed", "failed" or "skipped".
        results: the results of its agents, in their order; of a failed step those that there are.
        error: why it failed; None if it did not.
    """

    name: str
    index: int
    status: StageStatus
    results: tuple[AgentResult, ...] = ()
    error: Failure | None = None


def agent_failed(step: str, who: str, error: Exception) -> StepFailed:
    """The failure of a declared step whose agent failed; of the kind, and with the number, of the agent's call.

    Args:
        step: the declared step's name.
        who: the agent's id, and for which item.
        error: what its call raised.
    """
    cause = failure_from(error)
    attempts, seq = (error.attempts, error.seq) if isinstance(error, StepFailed) else (1, 0)
    cls = StepTimeout if isinstance(error, StepTimeout) else StepFailed
    failure = replace(cause, message=f"agent {who} failed: {cause.message or cause.type}")
    failed = cls(step, failure, attempts=attempts, seq=seq)
    failed.__cause__ = error
    return failed


def retries_exhausted(step: str, retries: int, last: StepFailed) -> StepFailed:
    """The failure of a RetryStep after its last run."""
    times = "retry" if retries == 1 else "retries"
    failure = replace(last.failure, message=f"failed after {retries} {times}: {last.failure.message}")
    failed = type(last)(step, failure, attempts=retries + 1, seq=last.seq)
    failed.__cause__ = last
    return failed


def failure_from(error: BaseException) -> Failure:
    """An exception as data; of a failed step, the failure that was recorded."""
    if isinstance(error, StepFailed):
        return error.failure
    return Failure(
        type=class_name(type(error)),
        message=str(error),
        traceback="".join(traceback.format_exception(error)),
        retryable=not isinstance(error, RayflowError),
        mro=tuple(class_name(c) for c in type(error).__mro__[:-1]),
    )
