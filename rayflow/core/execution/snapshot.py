"""What a journal folds to: the execution as a person sees it, readable without the workflow's code."""

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
        seq: its number, in the order in which the code issued the steps, from 1.
        name: its name; of a child workflow, the workflow's id.
        status: "running" (issued, not answered), "completed", "failed", "dropped" (the code stopped waiting)
            or "released" (a lock was given back).
        attempts: attempts that ended so far.
        result: its decoded result, once completed.
        error: how it failed, or how its newest attempt failed.
        began: when the counting attempt began, in seconds since the epoch.
        ended: when its outcome was recorded.
        retry_at: when the next attempt is due, while it waits for one.
        worker: who ran the newest attempt.
        progress: what it last said of its progress, by ``rf.step_context().heartbeat(progress)``.
        waits_for: what it waits for that the cluster does not have, in words; "" if it does not.
        kind: "step", "undo" (a compensation), "child", "signal" (one that was sent) or "lock".
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
    """A child of an execution: its id, workflow and status, and the number of the call that waits for it, or 0."""

    step: int
    execution_id: str
    workflow_id: str
    status: ExecutionStatus


@dataclass(slots=True)
class ExecutionSnapshot:
    """An execution as its committed journal tells it.

    Args:
        execution_id: the execution.
        workflow_id: its workflow.
        version: the version that it started with.
        status: where it is.
        state: what its code published, or the state of a declared workflow.
        steps: every step that was issued, by number.
        stages: the declared steps, by index; empty for a durable function.
        result: the decoded result, once completed.
        error: how it failed, why it is paused, or the reason of its cancellation.
        created_at: when its start was accepted, in seconds since the epoch.
        updated_at: when it last changed.
        deadline: when its time is up, or None.
        priority: 0 to 9.
        epoch: number of its newest coordinator.
        coordinator: name of that coordinator's actor, as in the Ray dashboard.
        run: how often it has continued as new, and one.
        parent: id of the execution that started it as its child; "" if none did.
        forked_from: id of the execution that it is a fork of; "" if it is none.
        children: the executions that it started and waits for or waited for, by the numbers of its calls, then those
            that it only started.
        parked: whether it only waits, and holds no process.
        wakes_at: when it goes on by itself if nothing else wakes it: a timer, its delayed start, its deadline.
        waiting_for: what it waits for from outside, in words, such as ``signal review`` or ``lock ledger``.
        unconsumed_signals: names of the signals that nobody had received when it ended.
        attributes: the values by which lists find the execution, by name.
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
        """Numbers of the completed steps: indices of a declared workflow's, sequence numbers of a function's."""
        if self.stages:
            return [stage.index for stage in self.stages if stage.status == "completed"]
        return [step.seq for step in self.steps if step.status == "completed"]

    @property
    def current_steps(self) -> list[str]:
        """Names of the steps that are under way."""
        return [step.name for step in self.steps if step.status == "running"]

    @property
    def results(self) -> list[Any]:
        """A declared workflow's ``StepResult``s in order; a function's step results in the order of its steps."""
        if self.stages:
            return [stage.result for stage in self.stages if stage.result is not None]
        return [step.result for step in self.steps if step.status == "completed"]


def fold(snapshot: ExecutionSnapshot, entries: Sequence[Entry], decode: Decode) -> ExecutionSnapshot:
    """Fill a snapshot from its journal.

    Args:
        snapshot: made from the execution's record; changed and returned.
        entries: the journal's entries, in order.
        decode: reads payloads.
    """
    steps: dict[int, StepSnapshot] = {}
    stages: dict[int, StageSnapshot] = {}
    state: dict[str, bytes] = {}
    for entry in effective(entries):
        _fold_event(snapshot, steps, state, entry, decode)
        for labelled in entry.issued:
            kind, name = kind_and_name(labelled)
            steps[len(steps) + 1] = StepSnapshot(len(steps) + 1, name, kind=kind)
        for seq in entry.dropped:
            given_back = steps[seq].kind == "lock" and steps[seq].status == "completed"
            steps[seq].status = "released" if given_back else "dropped"
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
