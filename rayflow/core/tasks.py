"""Every attempt of an execution, from its journal and from whoever drives it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from rayflow.core.actions import LiveTask
from rayflow.core.events import AttemptFailed, Entry, StepCompleted, StepFailed
from rayflow.core.journal import effective
from rayflow.errors import Failure


class TaskState(StrEnum):
    """Where an attempt is."""

    #: It has not begun: it waits for a slot, for its retry, or for its time.
    WAITING = "waiting"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    #: Its worker died or was stopped; it costs the step no retry.
    LOST = "lost"
    #: The workflow stopped waiting for the step.
    DROPPED = "dropped"


@dataclass(frozen=True, slots=True)
class TaskStatus:
    """One attempt at a step.

    Args:
        step: the step's number in the execution.
        name: its name.
        attempt: from 1.
        status: where it is.
        worker: who runs it or ran it; "" if nobody did, or it is not known.
        started_at: when it began, in seconds since the epoch; None if it has not, or it is not known.
        completed_at: when its end was recorded; None before.
        retries: failed attempts of the step before this one.
        last_error: how it failed, or the one before it.
    """

    step: int
    name: str
    attempt: int
    status: TaskState
    worker: str = ""
    started_at: float | None = None
    completed_at: float | None = None
    retries: int = 0
    last_error: Failure | None = None


@dataclass(slots=True)
class _Step:
    """What is known of one step so far."""

    name: str
    attempts: int = 0
    failures: int = 0
    error: Failure | None = None
    open: bool = True
    dropped: bool = False


def tasks_of(entries: Sequence[Entry], live: Mapping[int, tuple[LiveTask, str]]) -> list[TaskStatus]:
    """All attempts: those that ended, in the order of their ends, then those that have not, by their steps.

    Args:
        entries: the execution's journal.
        live: what its coordinator says of unanswered steps, by their numbers: the task, and its worker.
    """
    steps: dict[int, _Step] = {}
    ended: list[TaskStatus] = []
    for entry in effective(entries):
        if isinstance(entry.event, StepCompleted | StepFailed | AttemptFailed):
            ended.append(_ended(steps[entry.event.step], entry.event))
        for name in entry.issued:
            steps[len(steps) + 1] = _Step(name)
        for seq in entry.dropped:
            steps[seq].open, steps[seq].dropped = False, True
    return ended + [_unanswered(seq, step, live.get(seq)) for seq, step in steps.items() if step.open or step.dropped]


def _ended(step: _Step, event: StepCompleted | StepFailed | AttemptFailed) -> TaskStatus:
    retries = step.failures
    if isinstance(event, StepCompleted):
        status = TaskState.COMPLETED
    else:
        step.error = event.failure
        lost = isinstance(event, AttemptFailed) and not event.counts
        status = TaskState.LOST if lost else TaskState.FAILED
        step.failures += not lost
    step.attempts = max(step.attempts, event.attempt)
    step.open = isinstance(event, AttemptFailed)
    started = event.began or None
    return TaskStatus(
        event.step, step.name, event.attempt, status, event.worker, started, event.at, retries, step.error
    )


def _unanswered(seq: int, step: _Step, live: tuple[LiveTask, str] | None) -> TaskStatus:
    status, attempt, worker, began = TaskState.WAITING, step.attempts + 1, "", None
    if step.dropped:
        status = TaskState.DROPPED
    elif live is not None:
        task, worker = live
        attempt, began = task.attempt, task.began
        status = TaskState.WAITING if began is None else TaskState.RUNNING
    return TaskStatus(seq, step.name, attempt, status, worker, began, None, step.failures, step.error)
