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
class SignalReceived:
    """A signal was accepted. ``number`` is its inbox row's, and tells signals of one name apart."""

    at: float
    name: str
    payload: bytes
    number: int = 0


@dataclass(frozen=True, slots=True)
class Continued:
    """Another run of the execution begins: the first entry of its journal, before ``Started``.

    Args:
        at: when.
        run: number of the run, from 2.
        signals: those that the run before did not receive.
        state: what the run before had set.
        seed: seed of the new run's random numbers.
    """

    at: float
    run: int
    signals: tuple[SignalReceived, ...] = ()
    state: dict[str, bytes] = field(default_factory=dict)
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Started:
    """The workflow's code begins: entry 1, or 2 after ``Continued``."""

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
class RequestCompleted:
    """What the workflow asked of the store or of another execution is answered: a child, a signal, a lock.

    Args:
        at: when.
        step: the call's number.
        name: its label (:func:`label`).
        value: a lock's fencing token, or a started child's id.
        result: a child's encoded result.
        failure: why it is not what was asked for.
        began: when a child was started.
        worker: the child's id.
        run: number of the run that asked; 0 if that is not known. The numbers of calls begin anew with each run.
        rewinds: how often that run had been rewound when it asked; None if that is not known. A rewind gives the
            numbers of the calls that it supersedes to others.
    """

    at: float
    step: int
    name: str
    value: int | str | None = None
    result: bytes | None = None
    failure: Failure | None = None
    began: float = 0.0
    worker: str = ""
    run: int = 0
    rewinds: int | None = None


@dataclass(frozen=True, slots=True)
class RequestsReissued:
    """What is still unanswered of what the workflow asked for is asked again: after a rewind, or in a fork.

    The workflow's code does not see this event.
    """

    at: float
    steps: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Forked:
    """The execution goes on as a fork of another one, whose journal it took over up to here.

    Args:
        at: when.
        source: the other execution.
        to: the last position that was taken over.
        state: what was changed of the state, key by key, encoded.
        before: number of the call from which on everything is done again.
        seed: seed of the random numbers that are drawn after that call is issued. Those before it are the same as in
            the other execution, since recorded results may depend on them.
    """

    at: float
    source: str
    to: int
    state: dict[str, bytes] = field(default_factory=dict)
    before: int = 0
    seed: int = 0


@dataclass(frozen=True, slots=True)
class TimerFired:
    """A timer that the code made is due. Timers are numbered in the order in which they were made."""

    at: float
    timer: int


@dataclass(frozen=True, slots=True)
class CancelRequested:
    """Somebody asked for the execution to be cancelled.

    Args:
        at: when.
        reason: why.
        by: id of its parent, if that gave it up or ended; "" if anybody else asked.
    """

    at: float
    reason: str = ""
    by: str = ""


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
    """The execution is over.

    Args:
        at: when.
        status: how.
        result: the encoded result, if it completed.
        failure: why it did not.
        unconsumed: names of the signals that were applied and that nobody received, in order.
        compensated: whether compensations were run.
        given_up: whether it had been cancelled by its parent, and by nobody else.
    """

    at: float
    status: ExecutionStatus
    result: bytes | None = None
    failure: Failure | None = None
    unconsumed: tuple[str, ...] = ()
    compensated: bool = False
    given_up: bool = False


Event = (
    Continued
    | Started
    | SignalReceived
    | RequestCompleted
    | RequestsReissued
    | Forked
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
APPLIED = (
    Continued,
    Started,
    StepCompleted,
    StepFailed,
    TimerFired,
    CancelRequested,
    DeadlinePassed,
    SignalReceived,
    RequestCompleted,
    Forked,
)

#: Between the kind of a call and its name. No name has it: names are printable.
_SEPARATOR = "\t"


def label(kind: str, name: str) -> str:
    """What a journal calls a call: the name of a step, and the kind as well of anything else.

    Args:
        kind: "step", "undo" (a compensation), "child", "signal" or "lock".
        name: the step's name, the workflow's id, the name of the signal or lock.
    """
    return name if kind == "step" else f"{kind}{_SEPARATOR}{name}"


def kind_and_name(labelled: str) -> tuple[str, str]:
    """The kind and the name of a label."""
    kind, separator, name = labelled.partition(_SEPARATOR)
    return (kind, name) if separator else ("step", labelled)


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
        issued: labels (:func:`label`) of the calls that the code issued, in order: steps, and whatever else is
            asked of the outside. They are numbered over the whole run from 1, so their numbers follow from the
            entries before.
        dropped: numbers of the calls that the code stopped waiting for, and of the locks that it gave back.
        state: what the code set of its state, key by key, encoded; None for what it deleted.
        stages: what happened to declared steps.
        patches: ids of the changes that the code was told to follow (``rf.patched``).
        undos: names of the steps that the code registered as compensations.
    """

    seq: int
    event: Event
    issued: tuple[str, ...] = ()
    dropped: tuple[int, ...] = ()
    state: dict[str, bytes | None] = field(default_factory=dict)
    stages: tuple[StageNote, ...] = ()
    patches: tuple[str, ...] = ()
    undos: tuple[str, ...] = ()
