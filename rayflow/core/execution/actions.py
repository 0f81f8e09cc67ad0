"""Commands of an execution to its shell, and the inbox items that it receives."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import NamedTuple

from rayflow.core.events import (
    AttemptFailed,
    CancelRequested,
    Entry,
    Paused,
    RequestCompleted,
    Resumed,
    SignalReceived,
    StepCompleted,
    StepFailed,
)
from rayflow.core.interpreter.effects import Outcome
from rayflow.definition.context import ChildCall, LockCall, SignalCall, StepCall
from rayflow.errors import Failure
from rayflow.ids import ExecutionStatus

#: Inbox items that are deferred while the execution is paused.
InboxOutcome = StepCompleted | StepFailed | AttemptFailed | SignalReceived | RequestCompleted
#: All items that an inbox row can hold.
InboxItem = Paused | Resumed | CancelRequested | InboxOutcome


class RunAttempt(NamedTuple):
    """Command to run one attempt of a step.

    Args:
        seq: number of the step.
        attempt: number of the attempt, from 1.
        call: the code's call.
        payload: encoded [args, kwargs].
        timeout: seconds that the attempt may take from when it is sent; None for no limit.
        exclusive: whether it needs a worker without other tasks, because it is suspected of killing workers.
        local: whether the coordinator runs it in its own process.
    """

    seq: int
    attempt: int
    call: StepCall
    payload: bytes
    timeout: float | None
    exclusive: bool
    local: bool


class StopAttempt(NamedTuple):
    """Command to withdraw an attempt that has not begun, or to stop one that has."""

    seq: int
    attempt: int


Action = RunAttempt | StopAttempt


class Request(NamedTuple):
    """Request to the store or to another execution, sent in the transaction of the entry that issued it.

    Args:
        seq: number of the call; the answer carries it.
        call: the code's call.
        payload: encoded arguments of a child, or payload of a signal.
        rewinds: number of rewinds before the code issued the call.
        token: for a lock that the code already holds, the execution's fencing token; otherwise 0.
    """

    seq: int
    call: ChildCall | SignalCall | LockCall
    payload: bytes
    rewinds: int = 0
    token: int = 0


class CancelRequest(NamedTuple):
    """Withdrawal of a request, or release of a lock; ``rewinds`` as in :class:`Request`."""

    seq: int
    call: ChildCall | SignalCall | LockCall
    rewinds: int = 0


class NewDeadLetter(NamedTuple):
    """Dead letter of a step that used up its attempts, or of a signal that did not fit.

    Args:
        seq: position of the journal entry of the failure.
        step: number of the step; the negative inbox number of a signal.
        name: its label.
        attempts: number of the last attempt.
        at: time of the permanent failure.
        began: start of the last attempt; 0 if unknown.
        worker: worker of the last attempt.
        failure: failure of the last attempt.
        payload: encoded [args, kwargs], or the signal's payload.
    """

    seq: int
    step: int
    name: str
    attempts: int
    at: float
    began: float
    worker: str
    failure: Failure
    payload: bytes


class LiveTask(NamedTuple):
    """A step without a recorded outcome, as of now.

    Args:
        seq: number of the step.
        name: its label.
        attempt: number of the running or next attempt.
        began: start of the running attempt; None if no attempt runs.
        failures: the step's own failed attempts.
        losses: attempts lost to infrastructure.
        due: time at which the running attempt times out; 0.0 if no attempt runs, or without a limit.
    """

    seq: int
    name: str
    attempt: int
    began: float | None
    failures: int
    losses: int
    due: float = 0.0


@dataclass(slots=True)
class Work:
    """Entries to append, and actions to perform after that.

    Args:
        entries: journal entries to append, in order.
        actions: actions to perform in order, once the entries are durable.
        deferred: outcomes that arrived during a pause, to be kept as inbox rows.
        requests: requests and cancellations of requests, in order.
        next_run: encoded (args, kwargs) of the next run, if the execution continues as new with these entries.
        status: the execution's status after the entries.
        outcome: result of the workflow's code, if it has ended.
        reason: reason of the pause, if the execution is paused.
        inbox_done: highest inbox row that the entries so far apply.
        counts: amounts to add to the store's totals.
        dead_letters: dead letters to write together with the entries.
    """

    entries: list[Entry] = field(default_factory=list)
    actions: list[Action] = field(default_factory=list)
    deferred: list[StepCompleted | AttemptFailed] = field(default_factory=list)
    requests: list[Request | CancelRequest] = field(default_factory=list)
    next_run: bytes | None = None
    status: ExecutionStatus = ExecutionStatus.RUNNING
    outcome: Outcome | None = None
    reason: Failure | None = None
    inbox_done: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    dead_letters: list[NewDeadLetter] = field(default_factory=list)

    def prepend(self, earlier: Work) -> None:
        """Put earlier work that was not done first, without its entries."""
        self.actions[:0] = earlier.actions
        self.deferred[:0] = earlier.deferred
        self.counts.update(earlier.counts)
        self.dead_letters[:0] = earlier.dead_letters
        self.requests[:0] = earlier.requests
