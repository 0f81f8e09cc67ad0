"""Views of an execution, folded from its journal without the workflow's code: snapshot and list of attempts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from rayflow.core.events import (
    AttemptFailed,
    Continued,
    Ended,
    Entry,
    Forked,
    RequestCompleted,
    StepCompleted,
    StepFailed,
    kind_and_name,
)
from rayflow.core.execution.actions import LiveTask
from rayflow.core.execution.journal import effective
from rayflow.errors import Failure
from rayflow.ids import ExecutionStatus

Decode = Callable[[bytes], Any]


@dataclass(slots=True)
class StepSnapshot:
    """One step of an execution.

    Args:
        seq: number of the step, from 1, in the order in which the code issued its calls.
        name: name of the step; for a child workflow, the workflow's id.
        status: "running" (issued, without an outcome), "completed", "failed", "dropped" (the code stopped waiting)
            or "released" (a lock was released).
        attempts: number of attempts that ended.
        result: decoded result, once completed.
        error: failure of the step, or of its newest attempt.
        began: start of the recorded attempt, in seconds since the epoch.
        ended: time at which the outcome was recorded.
        retry_at: time of the next attempt, while the step waits for it.
        worker: worker of the newest attempt.
        progress: newest progress reported by ``rf.step_context().heartbeat(progress)``.
        waits_for: resources that the cluster lacks for the step, as text; "" if none.
        kind: "step", "undo" (a compensation), "child", "signal" (a sent signal) or "lock".
    """

    seq: int
    name: str
    status: str = "running"
    attempts: int = 0
    result: Any = None
    error: Failure | None = None
    began: float | None = None
    ended: float | None = None
    retry_at: float | None = None
    worker: str = ""
    progress: Any = None
    waits_for: str = ""
    kind: str = "step"


@dataclass(slots=True)
class StageSnapshot:
    """One declared step of an execution; ``result`` is its ``StepResult``."""

    index: int
    name: str
    status: str
    result: Any = None


@dataclass(frozen=True, slots=True)
class ChildSnapshot:
    """A child of an execution. ``step`` is the number of the call that waits for it, or 0."""

    step: int
    execution_id: str
    workflow_id: str
    status: ExecutionStatus


@dataclass(slots=True)
class ExecutionSnapshot:
    """State of an execution, folded from its committed journal.

    Args:
        execution_id: id of the execution.
        workflow_id: id of its workflow.
        version: version of the workflow at the start.
        status: status of the execution.
        state: values that the code published, or the state of a declared workflow.
        steps: all issued calls, by number.
        stages: the declared steps, by index; empty for a durable function.
        result: decoded result, once completed.
        error: failure, reason of the pause, or reason of the cancellation.
        created_at: time at which the start was accepted, in seconds since the epoch.
        updated_at: time of the last change.
        deadline: time at which the execution times out, or None.
        priority: 0 to 9.
        epoch: number of the newest claim by a coordinator.
        coordinator: name of that coordinator's actor, as in the Ray dashboard.
        run: number of the current run: 1, plus 1 for each continuation as new.
        parent: id of the execution that started this one as a child; "" if none.
        forked_from: id of the execution that this one is a fork of; "" if none.
        children: executions that this one started: first those with a call that waits for the result, by call number.
        parked: whether the execution only waits and uses no process.
        wakes_at: time at which a parked execution continues without an outside event: timer, delayed start or deadline.
        waiting_for: outside events that it waits for, as text, such as ``signal review`` or ``lock ledger``.
        unconsumed_signals: names of the signals that were not received before the end.
        attributes: values by which lists find the execution, by name.
    """

    execution_id: str
    workflow_id: str
    version: str
    status: ExecutionStatus
    created_at: float
    updated_at: float
    priority: int = 5
    epoch: int = 0
    coordinator: str = ""
    deadline: float | None = None
    run: int = 1
    parent: str = ""
    forked_from: str = ""
    children: list[ChildSnapshot] = field(default_factory=list)
    parked: bool = False
    wakes_at: float | None = None
    waiting_for: list[str] = field(default_factory=list)
    unconsumed_signals: list[str] = field(default_factory=list)
    state: dict[str, Any] = field(default_factory=dict)
    steps: list[StepSnapshot] = field(default_factory=list)
    stages: list[StageSnapshot] = field(default_factory=list)
    result: Any = None
    error: Failure | None = None
    attributes: dict[str, str | int | float | bool] = field(default_factory=dict)

    @property
    def completed_steps(self) -> list[int]:
        """Completed steps: indices for a declared workflow, sequence numbers for a durable function."""
        if self.stages:
            return [stage.index for stage in self.stages if stage.status == "completed"]
        return [step.seq for step in self.steps if step.status == "completed"]

    @property
    def current_steps(self) -> list[str]:
        """Names of the running steps."""
        return [step.name for step in self.steps if step.status == "running"]

    @property
    def results(self) -> list[Any]:
        """``StepResult`` values of a declared workflow, or step results of a durable function, in order."""
        if self.stages:
            return [stage.result for stage in self.stages if stage.result is not None]
        return [step.result for step in self.steps if step.status == "completed"]


def fold(snapshot: ExecutionSnapshot, entries: Sequence[Entry], decode: Decode) -> ExecutionSnapshot:
    """Fill a snapshot, made from the execution's record, from the journal's entries, and return it."""
    steps: dict[int, StepSnapshot] = {}
    stages: dict[int, StageSnapshot] = {}
    state: dict[str, bytes] = {}
    for entry in effective(entries):
        _fold_event(snapshot, steps, state, entry, decode)
        for labelled in entry.issued:
            kind, name = kind_and_name(labelled)
            steps[len(steps) + 1] = StepSnapshot(len(steps) + 1, name, kind=kind)
        for seq in entry.dropped:
            released = steps[seq].kind == "lock" and steps[seq].status == "completed"
            steps[seq].status = "released" if released else "dropped"
        for note in entry.stages:
            result = None if note.result is None else decode(note.result)
            stages[note.index] = StageSnapshot(note.index, note.name, note.status, result)
        for key, value in entry.state.items():
            if value is None:
                state.pop(key, None)
            else:
                state[key] = value
    snapshot.steps = list(steps.values())
    snapshot.stages = [stages[index] for index in sorted(stages)]
    snapshot.state = {key: decode(value) for key, value in state.items()}
    return snapshot


def _fold_event(
    snapshot: ExecutionSnapshot,
    steps: dict[int, StepSnapshot],
    state: dict[str, bytes],
    entry: Entry,
    decode: Decode,
) -> None:
    event = entry.event
    match event:
        case StepCompleted():
            step = steps[event.step]
            step.status, step.result, step.error = "completed", decode(event.result), None
            step.ended, step.retry_at = event.at, None
        case StepFailed():
            step = steps[event.step]
            step.status, step.error, step.ended, step.retry_at = "failed", event.failure, event.at, None
        case AttemptFailed():
            step = steps[event.step]
            step.error, step.retry_at = event.failure, event.retry_at
        case RequestCompleted():
            step = steps[event.step]
            step.status, step.ended = ("completed" if event.failure is None else "failed"), event.at
            step.result = event.value if event.result is None else decode(event.result)
            step.error, step.began, step.worker = event.failure, event.began or None, event.worker
            return
        case Continued():
            snapshot.run = event.run
            state.update(event.state)
            return
        case Forked():
            snapshot.forked_from = event.source
            state.update(event.state)
            return
        case Ended():
            snapshot.unconsumed_signals = list(event.unconsumed)
            snapshot.result = None if event.result is None else decode(event.result)
            return
        case _:
            return
    step.attempts, step.began, step.worker = event.attempt, event.began or None, event.worker


class TaskState(StrEnum):
    """State of an attempt."""

    #: Not begun: waits for a slot, for its retry time, or for the step's ``not_before``.
    WAITING = "waiting"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    #: The worker died or was stopped; the step loses no retry.
    LOST = "lost"
    #: The workflow stopped waiting for the step.
    DROPPED = "dropped"


@dataclass(frozen=True, slots=True)
class TaskStatus:
    """One attempt at a step.

    Args:
        step: number of the step in the execution.
        name: name of the step.
        attempt: number of the attempt, from 1.
        status: state of the attempt.
        worker: worker of the attempt; "" if none, or unknown.
        started_at: start, in seconds since the epoch; None if not started, or unknown.
        completed_at: time at which the outcome was recorded; None before that.
        retries: failed attempts of the step before this one.
        last_error: failure of this attempt, or of the one before it.
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
    """One step, folded from the entries so far."""

    name: str
    attempts: int = 0
    failures: int = 0
    error: Failure | None = None
    open: bool = True
    dropped: bool = False


def tasks_of(entries: Sequence[Entry], live: Mapping[int, tuple[LiveTask, str]]) -> list[TaskStatus]:
    """Return all attempts: ended ones in the order of their ends, then open ones by step.

    Args:
        entries: the execution's journal.
        live: the coordinator's view of pending steps, by number: the task, and its worker.
    """
    steps: dict[int, _Step] = {}
    ended: list[TaskStatus] = []
    for entry in effective(entries):
        if isinstance(entry.event, StepCompleted | StepFailed | AttemptFailed):
            ended.append(_ended_attempt(steps[entry.event.step], entry.event))
        for name in entry.issued:
            steps[len(steps) + 1] = _Step(name)
        for seq in entry.dropped:
            steps[seq].open, steps[seq].dropped = False, True
    return ended + [_open_attempt(seq, step, live.get(seq)) for seq, step in steps.items() if step.open or step.dropped]


def _ended_attempt(step: _Step, event: StepCompleted | StepFailed | AttemptFailed) -> TaskStatus:
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


def _open_attempt(seq: int, step: _Step, live: tuple[LiveTask, str] | None) -> TaskStatus:
    status, attempt, worker, began = TaskState.WAITING, step.attempts + 1, "", None
    if step.dropped:
        status = TaskState.DROPPED
    elif live is not None:
        task, worker = live
        attempt, began = task.attempt, task.began
        status = TaskState.WAITING if began is None else TaskState.RUNNING
    return TaskStatus(seq, step.name, attempt, status, worker, began, None, step.failures, step.error)
