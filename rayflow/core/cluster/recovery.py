"""Recovery decisions: failover of executions, heartbeats of actors, stale and overdue executions.

:class:`FailoverCounter` owns how often each execution lost its coordinator without progress, and what follows.
:class:`HeartbeatTracker` owns which actors were pinged, and which have been silent for too long. The functions find
stale and overdue executions by their rows. The shells (:mod:`rayflow.runtime.supervisor.recovery`,
:mod:`rayflow.runtime.actors.health`) own the actors, the store and the clock.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Literal, Protocol, TypeVar

#: Takeovers of an execution in a row without progress, from which on it runs on a separate coordinator, and above which
#: it is quarantined.
TAKEOVERS_BEFORE_ISOLATION, MAX_TAKEOVERS = 2, 5

#: Failure type of an execution that was quarantined after MAX_TAKEOVERS.
CRASH_LOOP = "rayflow.errors.CrashLoop"


class Row(Protocol):
    """Fields of an unfinished execution's record that recovery reads."""

    @property
    def id(self) -> str:
        """Id of the execution."""

    @property
    def owner(self) -> str:
        """Nonce of the coordinator that claimed it last; "" if it was released."""

    @property
    def coordinator(self) -> str:
        """Name of that coordinator."""

    @property
    def runnable_at(self) -> float | None:
        """When it needs a coordinator; None if it has one, or waits for an outside event."""

    @property
    def updated_at(self) -> float:
        """Time of its last record."""

    @property
    def deadline(self) -> float | None:
        """When it times out."""


R = TypeVar("R", bound=Row)


class FailoverAction(Enum):
    """How an execution continues after its coordinator died."""

    #: On any coordinator, next to other executions.
    SHARED = auto()
    #: On a separate coordinator until it has made progress, because it may be the cause of the deaths.
    EXCLUSIVE = auto()
    #: Not at all, until a person resumes it.
    QUARANTINE = auto()


class FailoverCounter:
    """Counter of each execution's takeovers without progress."""

    def __init__(self) -> None:
        #: The journal's last position at the newest loss, and the number of losses at that position.
        self._losses: dict[str, tuple[int, int]] = {}

    def record_loss(self, execution_id: str, last_seq: int) -> FailoverAction:
        """Count the death of an execution's coordinator; ``last_seq`` is the journal's last position."""
        before, times = self._losses.get(execution_id, (-1, 0))
        times = times + 1 if before == last_seq else 1
        self._losses[execution_id] = (last_seq, times)
        if times > MAX_TAKEOVERS:
            return FailoverAction.QUARANTINE
        return FailoverAction.EXCLUSIVE if times >= TAKEOVERS_BEFORE_ISOLATION else FailoverAction.SHARED

    def times(self, execution_id: str) -> int:
        """Return the number of losses in a row without progress."""
        return self._losses.get(execution_id, (-1, 0))[1]

    def suspected(self, execution_id: str) -> bool:
        """Return whether the execution has to run on a separate coordinator."""
        return self.times(execution_id) >= TAKEOVERS_BEFORE_ISOLATION

    def has_progressed(self, execution_id: str, last_seq: int) -> bool:
        """Return whether the execution has progressed since its last loss, or had none."""
        return last_seq > self._losses.get(execution_id, (-1, 0))[0]

    def forget(self, execution_id: str) -> None:
        """Drop the count of an execution that has finished, parked or been quarantined."""
        self._losses.pop(execution_id, None)

    def counts(self) -> dict[str, int]:
        """Return the number of losses in a row, by execution."""
        return {execution_id: times for execution_id, (_, times) in self._losses.items()}


@dataclass(slots=True)
class _Unanswered:
    """Pings of an actor without an answer: time of the first, and whether one is open now."""

    since: float
    open: bool = True


class HeartbeatTracker:
    """Tracker of the pings of actors.

    An actor has at most one open ping, so that an actor that was stopped finds one ping, not many, when it continues.

    Args:
        patience: seconds without an answer after which an actor counts as hung.
    """

    def __init__(self, patience: float) -> None:
        self._patience = patience
        self._unanswered: dict[str, _Unanswered] = {}

    def ask(self, name: str, now: float) -> bool:
        """Note a ping that is due; return whether to send it. ``now`` is in seconds of any steady clock."""
        unanswered = self._unanswered.get(name)
        if unanswered is None:
            self._unanswered[name] = _Unanswered(now)
            return True
        if unanswered.open:
            return False
        unanswered.open = True
        return True

    def answered(self, name: str, *, alive: bool = True) -> None:
        """Note the end of the open ping; not ``alive`` for an error that is not a sign of life."""
        unanswered = self._unanswered.get(name)
        if unanswered is not None and alive:
            del self._unanswered[name]
        elif unanswered is not None:
            unanswered.open = False

    def forget(self, name: str) -> None:
        """Stop tracking an actor."""
        self._unanswered.pop(name, None)

    def extend_deadlines(self, seconds: float) -> None:
        """Extend all deadlines by a time in which the asking process did not listen."""
        for unanswered in self._unanswered.values():
            unanswered.since += seconds

    def silent(self, now: float) -> dict[str, float]:
        """Return the hung actors, with the seconds since their first unanswered ping."""
        return {name: now - u.since for name, u in self._unanswered.items() if now - u.since > self._patience}


def stale(rows: Iterable[R], driven: Collection[str], *, now: float, older_than: float = 0.0) -> list[R]:
    """Return the executions that need a coordinator and have none.

    Args:
        rows: unfinished executions.
        driven: ids of the executions that a live coordinator drives, or that wait for one.
        now: seconds since the epoch.
        older_than: minimum time in seconds since the last record or wake time.
    """
    found = []
    for row in rows:
        if row.id in driven:
            continue
        # A parked execution needs no coordinator before its time.
        since = row.updated_at if row.owner else row.runnable_at
        if since is not None and max(since, row.updated_at) + older_than <= now:
            found.append(row)
    return found


@dataclass(frozen=True, slots=True)
class OverdueItem:
    """A deadline, wake time or attempt that is past its time.

    Args:
        execution_id: id of the execution.
        kind: "deadline" (the execution's timeout), "wake" (the timer, retry or message for which it was parked) or
            "step" (an attempt at a step).
        what: name of the step; "" for the other kinds.
        due: time at which it was due, in seconds since the epoch.
        late: seconds since then.
        coordinator: coordinator that should have acted; "" if there was none.
    """

    execution_id: str
    kind: Literal["deadline", "wake", "step"]
    what: str
    due: float
    late: float
    coordinator: str


def overdue(rows: Iterable[Row], *, now: float, grace: float) -> list[OverdueItem]:
    """Return the overdue deadlines and wake times of unfinished executions.

    Args:
        rows: unfinished executions.
        now: seconds since the epoch.
        grace: seconds that a coordinator may take to act.
    """
    found: list[OverdueItem] = []
    for row in rows:
        coordinator = row.coordinator if row.owner else ""
        if row.deadline is not None and row.deadline + grace < now:
            found.append(OverdueItem(row.id, "deadline", "", row.deadline, now - row.deadline, coordinator))
        elif not row.owner and row.runnable_at is not None and row.runnable_at + grace < now:
            found.append(OverdueItem(row.id, "wake", "", row.runnable_at, now - row.runnable_at, ""))
    return found


@dataclass(frozen=True, slots=True)
class CoordinatorStatus:
    """Status of a coordinator, as the supervisor knows it.

    Args:
        name: name of its actor.
        executions: number of executions that it drives.
        ready: whether it has started.
        silent: seconds without an answer to a ping, if more than allowed; otherwise 0.
        reserved: whether it drives one execution exclusively, which may have killed the coordinators before.
    """

    name: str
    executions: int
    ready: bool
    silent: float = 0.0
    reserved: bool = False


@dataclass(frozen=True, slots=True)
class RecoveryStatus:
    """Status of recovery.

    Args:
        coordinators: all coordinators, by name.
        driven: number of unfinished executions with a live coordinator.
        waiting: ids of the executions that get the next free coordinator.
        stale: ids of the executions that need a coordinator and that recovery has not found yet.
        takeovers: number of takeovers in a row without progress, by execution id.
        needs_environment: the environment that an execution waits for, with the names of its variables, by execution
            id. The execution continues when an engine with that environment is opened.
        quarantined: ids of the executions that are paused because their coordinators died repeatedly, or because one
            of their records is damaged.
    """

    coordinators: tuple[CoordinatorStatus, ...] = ()
    driven: int = 0
    waiting: tuple[str, ...] = ()
    stale: tuple[str, ...] = ()
    takeovers: Mapping[str, int] = field(default_factory=dict)
    needs_environment: Mapping[str, str] = field(default_factory=dict)
    quarantined: tuple[str, ...] = ()
