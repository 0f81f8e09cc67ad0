"""The failures of attempts that were lost with their workers."""

from __future__ import annotations

from rayflow.core.retry import WORKER_DIED, WORKER_STOPPED
from rayflow.errors import Failure
from rayflow.runtime.messages import TaskMessage


def worker_died(message: TaskMessage, *, worker: str, detail: str, alone: bool = False) -> Failure:
    """Its worker died: perhaps by the task's own doing."""
    company = "alone on it" if alone else "perhaps with others on it"
    what = f"worker {worker} died while it ran step {message.step!r} (attempt {message.attempt}), {company}: {detail}"
    return Failure(type=WORKER_DIED, message=what, mro=(WORKER_DIED,))


def worker_stopped(message: TaskMessage, *, worker: str, detail: str = "it was drained") -> Failure:
    """Its worker was stopped: not the task's doing."""
    what = f"worker {worker} was stopped before step {message.step!r} (attempt {message.attempt}) ended: {detail}"
    return Failure(type=WORKER_STOPPED, message=what, mro=(WORKER_STOPPED,))
