"""What an execution asks of its shell, and what can arrive for it from outside."""

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

#: What an inbox row can hold for an execution.
InboxItem = (
    Paused | Resumed | CancelRequested | StepCompleted | StepFailed | AttemptFailed | SignalReceived | RequestCompleted
)
#: What of it is kept for later while the execution is paused.
Outcomes = StepCompleted | StepFailed | AttemptFailed | SignalReceived | RequestCompleted


class RunAttempt(NamedTuple):
    """Run one attempt of a step.

    Args:
        seq: the step's number.
        attempt: from 1.
        call: what the code called.
        payload: the encoded [args, kwargs].
        timeout: seconds that the attempt may take, from when it is sent; None for any.
        alone: run it with no other task on the same worker: it is suspected of killing workers.
        local: run it in the coordinator.
    """

    seq: int
    attempt: int
    call: StepCall
    payload: bytes
    timeout: float | None
    alone: bool
    local: bool


class StopAttempt(NamedTuple):
    """Nobody waits for this attempt any more: withdraw it if it has not begun, else have it stopped."""

    seq: int
    attempt: int


Action = RunAttempt | StopAttempt


class Request(NamedTuple):
    """Something is asked of the store or of another execution, in the transaction of the entry that issued it.

    Args:
        seq: the call's number, under which it is answered.
        call: what is asked.
        payload: the encoded arguments of a child, or payload of a signal.
        rewinds: how often the execution had been rewound when its code issued the call.
        token: of a lock that the code takes for its own: the token that the execution had; 0 for none.
    """

    seq: int
    call: ChildCall | SignalCall | LockCall
    payload: bytes
    rewinds: int = 0
    token: int = 0


class CancelRequest(NamedTuple):
    """Nobody waits for the answer any more, or the lock is given back; ``rewinds`` as in :class:`Request`."""

    seq: int
    call: ChildCall | SignalCall | LockCall
    rewinds: int = 0


class BuryStep(NamedTuple):
    """A step that used up its attempts, with what it was given: to be kept until somebody deals with it.

    Args:
        seq: position of the journal entry of its failure.
        step: the step's number.
        name: its name.
        attempts: number of its last attempt.
        at: when it failed for good.
        began: when its last attempt began; 0 if that is not known.
        worker: who ran that.
        failure: how that failed.
        payload: the encoded [args, kwargs].
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
    """An unanswered step at this moment.

    Args:
        seq: the step's number.
        name: its name.
        attempt: the attempt that is under way or comes next.
        began: since when that runs; None if it does not.
        failures: attempts that it failed.
        losses: attempts that were lost to infrastructure.
        due: when the attempt's time is up; 0.0 if it does not run, or may take any time.
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
    """What the shell has to do: append the entries, then perform the actions.

    Args:
        entries: to append to the journal, in order.
        actions: to perform once the entries are durable, in order.
        holds: outcomes to keep as inbox rows, since they arrived during a pause.
        status: the execution's status after the entries.
        outcome: how it ended, if it did.
        reason: why it is paused, if it is.
        inbox_done: inbox rows up to this number are applied by the entries so far.
        counts: what this adds to the store's totals.
        letters: steps that failed for good and signals that fit nothing, to be kept together with the entries.
        asks: what is asked of others, and what is not any more, in order.
        run: set if the execution continues as new with these entries: the encoded (args, kwargs) of the next run.
    """

    entries: list[Entry] = field(default_factory=list)
    actions: list[Action] = field(default_factory=list)
    holds: list[StepCompleted | AttemptFailed] = field(default_factory=list)
    asks: list[Request | CancelRequest] = field(default_factory=list)
    run: bytes | None = None
    status: ExecutionStatus = ExecutionStatus.RUNNING
    outcome: Outcome | None = None
    reason: Failure | None = None
    inbox_done: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    letters: list[BuryStep] = field(default_factory=list)

    def put_after(self, earlier: Work) -> None:
        """What was to be done before and has not been done comes first; its entries are somebody else's."""
        self.actions[:0] = earlier.actions
        self.holds[:0] = earlier.holds
        self.counts.update(earlier.counts)
        self.letters[:0] = earlier.letters
        self.asks[:0] = earlier.asks
