"""Events of an execution, and the journal entries that record them.

An *event* is something that happened to an execution. An *entry* is one row of the journal: the event, and what the
workflow's code did when the event was applied (calls issued, calls dropped, state set). The entry records both, so that
a snapshot folds from the journal without the workflow's code, and a replay can be compared with the journal.

Times are seconds since the epoch. Payloads are bytes written by the codec; this module does not read them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from rayflow.errors import Failure
from rayflow.ids import ExecutionStatus


@dataclass(frozen=True, slots=True)
class SignalReceived:
    """A signal was accepted. ``number`` is its inbox row's number, which distinguishes signals of one name."""

    at: float
    name: str
    payload: bytes
    number: int = 0


@dataclass(frozen=True, slots=True)
class Continued:
    """The execution continues as new: first entry of the next run's journal, before ``Started``.

    Args:
        at: time of the event.
        run: number of the next run, from 2.
        signals: signals that the previous run did not receive.
        state: the previous run's state, encoded.
        seed: seed of the new run's random numbers.
    """

    at: float
    run: int
    signals: tuple[SignalReceived, ...] = ()
    state: dict[str, bytes] = field(default_factory=dict)
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Started:
    """The workflow's code starts: entry 1, or entry 2 after ``Continued``."""

    at: float


@dataclass(frozen=True, slots=True)
class StepCompleted:
    """A step's result is recorded; the step never runs again."""

    at: float
    step: int
    name: str
    attempt: int
    result: bytes
    began: float = 0.0
    worker: str = ""


@dataclass(frozen=True, slots=True)
class StepFailed:
    """A step used up its attempts. ``issued`` is the number of calls that were issued before this event."""

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
    """An attempt failed, and the next attempt begins at ``retry_at``.

    ``counts`` is True for the step's own failures, which use up its retries. It is False for attempts lost to
    infrastructure, which have a separate limit.
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
    """A request to the store or to another execution (child, signal, lock) completed or failed.

    Args:
        at: time of the event.
        step: number of the call.
        name: label of the call (:func:`label`).
        value: a lock's fencing token, or a started child's id.
        result: a child's encoded result.
        failure: why the request failed; None if it did not.
        began: start time of a child.
        worker: id of the child.
        run: number of the run that issued the call; 0 if unknown. Call numbers restart with each run.
        rewinds: number of rewinds before the call was issued; None if unknown. A rewind reuses the numbers of the
            calls that it supersedes.
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
    """Open requests are sent again, after a rewind or in a fork."""

    at: float
    steps: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Forked:
    """The execution continues as a fork of another execution, whose journal it copied up to here.

    Args:
        at: time of the event.
        source: id of the other execution.
        to: last position that was copied.
        state: values that the fork changes in the state, by key, encoded.
        before: number of the first call that runs again.
        seed: seed of the random numbers drawn after that call. Those before it are the source's: recorded results
            may depend on them.
    """

    at: float
    source: str
    to: int
    state: dict[str, bytes] = field(default_factory=dict)
    before: int = 0
    seed: int = 0


@dataclass(frozen=True, slots=True)
class TimerFired:
    """A timer of the workflow's code is due. Timers are numbered in the order of their creation."""

    at: float
    timer: int


@dataclass(frozen=True, slots=True)
class CancelRequested:
    """A person or the parent execution requested a cancellation.

    Args:
        at: time of the event.
        reason: text for people.
        by: id of the parent, if the parent dropped this execution or ended; "" for any other requester.
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
    """The execution is paused: outcomes are kept in the inbox until ``Resumed``."""

    at: float
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Resumed:
    """A paused execution resumes."""

    at: float


@dataclass(frozen=True, slots=True)
class Rewound:
    """A failed execution continues from its failure: the entries after ``to`` are superseded, not deleted."""

    at: float
    to: int
    deadline: float | None = None


@dataclass(frozen=True, slots=True)
class Ended:
    """The execution finished.

    Args:
        at: time of the event.
        status: final status.
        result: encoded result of a completed execution.
        failure: reason if the execution did not complete.
        unconsumed: names of the signals that were applied and never received, in order.
        compensated: whether compensations ran.
        cancelled_by_parent: whether only the parent had cancelled the execution.
    """

    at: float
    status: ExecutionStatus
    result: bytes | None = None
    failure: Failure | None = None
    unconsumed: tuple[str, ...] = ()
    compensated: bool = False
    cancelled_by_parent: bool = False


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


class EventTraits(NamedTuple):
    """Treatment of one kind of event.

    Args:
        kind: number of the kind in the journal's format. A number is never reused.
        applied: whether the workflow's code sees the event; the others change only the shell and the snapshot.
        always: whether the event is recorded even with ``checkpoints="off"``.
        copied: whether a fork copies the event together with the entries before the fork.
    """

    kind: int
    applied: bool = True
    always: bool = False
    copied: bool = True


#: Registry of all events: a new event needs one row here, and its place in ``Event``.
EVENT_TRAITS: Mapping[type[Event], EventTraits] = {
    Started: EventTraits(1, always=True),
    StepCompleted: EventTraits(2),
    StepFailed: EventTraits(3),
    AttemptFailed: EventTraits(4, applied=False),
    TimerFired: EventTraits(5),
    CancelRequested: EventTraits(6),
    DeadlinePassed: EventTraits(7),
    Paused: EventTraits(8, applied=False, always=True, copied=False),
    Resumed: EventTraits(9, applied=False, always=True, copied=False),
    Rewound: EventTraits(10, applied=False, copied=False),
    Ended: EventTraits(11, applied=False, always=True),
    SignalReceived: EventTraits(12),
    RequestCompleted: EventTraits(13),
    RequestsReissued: EventTraits(14, applied=False, always=True, copied=False),
    Forked: EventTraits(15),
    Continued: EventTraits(16, always=True),
}

#: Separates the kind of a call from its name in a label. Names are printable, so none contains a tab.
_SEPARATOR = "\t"


def label(kind: str, name: str) -> str:
    """Return a call's label in the journal: the name of a step, and kind and name of any other call.

    Args:
        kind: "step", "undo" (a compensation), "child", "signal" or "lock".
        name: the step's name, the workflow's id, or the name of the signal or lock.
    """
    return name if kind == "step" else f"{kind}{_SEPARATOR}{name}"


def kind_and_name(labelled: str) -> tuple[str, str]:
    """Return the kind and the name of a label."""
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
    """One row of the journal: an event, and what the workflow's code did when it was applied.

    Args:
        seq: position in the journal, from 1, without gaps.
        event: the event.
        issued: labels (:func:`label`) of the calls that the code issued, in order. Calls are numbered from 1 over the
            whole run, so their numbers follow from the entries before.
        dropped: numbers of the calls that the code stopped waiting for, and of the locks that it released.
        state: changes of the state, by key, encoded; None for a deleted key.
        stages: what happened to declared steps.
        patches: ids of the changes that the code follows (``rf.patched``).
        compensations: names of the steps that the code registered as compensations.
    """

    seq: int
    event: Event
    issued: tuple[str, ...] = ()
    dropped: tuple[int, ...] = ()
    state: dict[str, bytes | None] = field(default_factory=dict)
    stages: tuple[StageNote, ...] = ()
    patches: tuple[str, ...] = ()
    compensations: tuple[str, ...] = ()
