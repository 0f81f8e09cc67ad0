"""What a journal folds to: the execution as a person sees it, readable without the workflow's code."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from rayflow.core.events import AttemptFailed, Ended, Entry, StepCompleted, StepFailed
from rayflow.core.journal import effective
from rayflow.errors import Failure
from rayflow.ids import ExecutionStatus

Decode = Callable[[bytes], Any]


@dataclass(slots=True)
class StepSnapshot:
    """One step of an execution.

    Args:
        seq: its number, in the order in which the code issued the steps, from 1.
        name: its name.
        status: "running" (issued, not answered), "completed", "failed" or "dropped" (the code stopped waiting).
        attempts: attempts that ended so far.
        result: its decoded result, once completed.
        error: how it failed, or how its newest attempt failed.
        began: when the counting attempt began, in seconds since the epoch.
        ended: when its outcome was recorded.
        retry_at: when the next attempt is due, while it waits for one.
        worker: who ran the newest attempt.
        progress: what it last said of its progress, by ``rf.step_context().heartbeat(progress)``.
        waits_for: what it waits for that the cluster does not have, in words; "" if it does not.
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


@dataclass(slots=True)
class StageSnapshot:
    """One declared step of an execution; ``result`` is its ``StepResult``."""

    index: int
    name: str
    status: str
    result: Any = None


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
    state: dict[str, Any] = field(default_factory=dict)
    steps: list[StepSnapshot] = field(default_factory=list)
    stages: list[StageSnapshot] = field(default_factory=list)
    result: Any = None
    error: Failure | None = None

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
        _fold_event(snapshot, steps, entry, decode)
        for name in entry.issued:
            steps[len(steps) + 1] = StepSnapshot(len(steps) + 1, name)
        for seq in entry.dropped:
            steps[seq].status = "dropped"
        for note in entry.stages:
            result = None if note.result is None else decode(note.result)
            stages[note.index] = StageSnapshot(note.index, note.name, note.status, result)
        state.update(entry.state)
    snapshot.steps = list(steps.values())
    snapshot.stages = [stages[index] for index in sorted(stages)]
    snapshot.state = {key: decode(value) for key, value in state.items()}
    return snapshot


def _fold_event(snapshot: ExecutionSnapshot, steps: dict[int, StepSnapshot], entry: Entry, decode: Decode) -> None:
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
        case Ended():
            snapshot.result = None if event.result is None else decode(event.result)
            return
        case _:
            return
    step.attempts, step.began, step.worker = event.attempt, event.began or None, event.worker
