"""What can happen to an execution, and the journal entry that records it.

An *event* is what happened; an *entry* is one row of the journal: the event, and what the workflow's code
did when the event was applied (the steps it issued, the steps it gave up, the state that it set). The
effects are recorded beside the event for two reasons: a snapshot can be folded from the journal without
the workflow's code, and replay can be compared with them, name by name, to find code that does not repeat
itself.

Times are seconds since the epoch. Payloads are bytes written by the codec; nothing here reads them.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from rayflow.errors import Failure
from rayflow.ids import ExecutionStatus


@dataclass(frozen=True, slots=True)
class Started:
    """The execution begins. Always entry 1."""

    at: float


@dataclass(frozen=True, slots=True)
class StepCompleted:
    """A step's result is recorded: from here on it is never run again."""

    at: float
    step: int
    name: str
    attempt: int
    result: bytes
    began: float = 0.0
    worker: str = ""


@dataclass(frozen=True, slots=True)
class StepFailed:
    """A step used up its attempts. ``issued`` is the number of steps that had been issued before this."""

    at: float
    step: int
    name: str
    attempt: int
    failure: Failure
    issued: int
    began: float = 0.0
    worker: str = ""


@dataclass(frozen=True, slots=True)
class AttemptFailed:
    """One attempt failed and another follows at ``retry_at``.

    ``counts`` tells the step's own failures, which use up its retries, from attempts that were lost to
    infrastructure, which have a limit of their own. The workflow's code does not see this event.
    """

    at: float
    step: int
    name: str
    attempt: int
    failure: Failure
    retry_at: float
    counts: bool
    began: float = 0.0
    worker: str = ""


@dataclass(frozen=True, slots=True)
class TimerFired:
    """A timer that the code made is due. Timers are numbered in the order in which they were made."""

    at: float
    timer: int


@dataclass(frozen=True, slots=True)
class CancelRequested:
    """Somebody asked for the execution to be cancelled."""

    at: float
    reason: str = ""


@dataclass(frozen=True, slots=True)
class DeadlinePassed:
    """The execution's own timeout or deadline passed."""

    at: float
    limit: str = ""


@dataclass(frozen=True, slots=True)
class Paused:
    """Nothing new is applied from here on, until ``Resumed``."""

    at: float
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Resumed:
    """A paused execution goes on."""

    at: float


@dataclass(frozen=True, slots=True)
class Rewound:
    """A failed execution goes on from its failure: the entries after ``to`` are superseded (kept, marked)."""

    at: float
    to: int
    deadline: float | None = None


@dataclass(frozen=True, slots=True)
class Ended:
    """The execution is over."""

    at: float
    status: ExecutionStatus
    result: bytes | None = None
    failure: Failure | None = None


Event = (
    Started
    | StepCompleted
    | StepFailed
    | AttemptFailed
    | TimerFired
    | CancelRequested
    | DeadlinePassed
    | Paused
    | Resumed
    | Rewound
    | Ended
)

#: Events that the workflow's code sees; the others only change what the shell and the snapshot know.
APPLIED = (Started, StepCompleted, StepFailed, TimerFired, CancelRequested, DeadlinePassed)


@dataclass(frozen=True, slots=True)
class StageNote:
    """A declared step began, completed, failed or was skipped. ``result`` is its encoded ``StepResult``."""

    index: int
    name: str
    status: str
    result: bytes | None = None


@dataclass(frozen=True, slots=True)
class Entry:
    """One row of the journal: an event and what the code did when it was applied.

    Args:
        seq: position in the journal, from 1, without gaps.
        event: what happened.
        issued: names of the steps that the code issued, in order. Steps are numbered over the whole
            execution from 1, so their numbers follow from the entries before.
        dropped: numbers of the steps that the code stopped waiting for.
        state: what the code published, key by key, encoded.
        stages: what happened to declared steps.
    """

    seq: int
    event: Event
    issued: tuple[str, ...] = ()
    dropped: tuple[int, ...] = ()
    state: dict[str, bytes] = field(default_factory=dict)
    stages: tuple[StageNote, ...] = ()
