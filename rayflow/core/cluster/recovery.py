"""Who is to be recovered, and how: the decisions of the recovery, without any process or store. Pure.

:class:`FailoverCounter` owns how often each execution lost its coordinator without getting any further, and what
follows from that. :class:`HeartbeatTracker` owns who was asked for a sign of life, and who has been silent for too
long. Which executions nobody drives, and what is overdue, is read off their rows. The shells own the actors, the store
and the clock: :mod:`rayflow.runtime.supervisor.recovery`, :mod:`rayflow.runtime.actors.health`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Literal, Protocol, TypeVar

#: Takeovers of an execution without any progress in between: with so many it runs alone on a coordinator, and with
#: more than so many it is set aside.
TAKEOVERS_BEFORE_ALONE, MOST_TAKEOVERS = 2, 5

#: What the failure of an execution is called that was set aside.
CRASH_LOOP = "rayflow.errors.CrashLoop"


class Row(Protocol):
    """What has to be known of an unfinished execution."""

    @property
    def id(self) -> str:
        """The execution."""

    @property
    def owner(self) -> str:
        """The nonce of the coordinator that claimed it last; "" if it was given up."""

    @property
    def coordinator(self) -> str:
        """The name of that coordinator."""

    @property
    def runnable_at(self) -> float | None:
        """When it needs a coordinator; None if it has one, or waits for something from outside."""

    @property
    def updated_at(self) -> float:
        """When anything was last recorded of it."""

    @property
    def deadline(self) -> float | None:
        """When its time is up."""


R = TypeVar("R", bound=Row)


# --- takeovers --------------------------------------------------------------------------------------------
class FailoverAction(Enum):
    """How an execution goes on whose coordinator died."""

    #: On any coordinator, beside others.
    BESIDE_OTHERS = auto()
    #: On a coordinator of its own until it has got further: it may be what kills them.
    ALONE = auto()
    #: Not at all, until a person resumes it.
    ASIDE = auto()


class FailoverCounter:
    """See the module's docstring."""

    def __init__(self) -> None:
        self._lost: dict[str, tuple[int, int]] = {}

    def lost(self, execution_id: str, last_seq: int) -> FailoverAction:
        """Its coordinator died.

        Args:
            execution_id: the execution.
            last_seq: how far its journal has come.
        """
        before, times = self._lost.get(execution_id, (-1, 0))
        times = times + 1 if before == last_seq else 1
        self._lost[execution_id] = (last_seq, times)
        if times > MOST_TAKEOVERS:
            return FailoverAction.ASIDE
        return FailoverAction.ALONE if times >= TAKEOVERS_BEFORE_ALONE else FailoverAction.BESIDE_OTHERS

    def times(self, execution_id: str) -> int:
        """How often in a row it lost its coordinator without getting any further."""
        return self._lost.get(execution_id, (-1, 0))[1]

    def suspected(self, execution_id: str) -> bool:
        """Whether it has to run alone."""
        return self.times(execution_id) >= TAKEOVERS_BEFORE_ALONE

    def is_further(self, execution_id: str, last_seq: int) -> bool:
        """Whether it has got further since its coordinator died, or none of its did."""
        return last_seq > self._lost.get(execution_id, (-1, 0))[0]

    def forget(self, execution_id: str) -> None:
        """It is over, parked or set aside."""
        self._lost.pop(execution_id, None)

    def counted(self) -> dict[str, int]:
        """All executions that lost a coordinator and were not given up since, with how often in a row."""
        return {execution_id: times for execution_id, (_, times) in self._lost.items()}


# --- signs of life ----------------------------------------------------------------------------------------
@dataclass(slots=True)
class _Asked:
    """A question, or a row of them, without an answer: since when, and whether one is open now."""

    since: float
    open: bool = True


class HeartbeatTracker:
    """See the module's docstring.

    Whoever is asked has one question open at most, however often it is time to ask: one that was stopped finds one,
    not a heap, when it goes on.

    Args:
        patience: seconds without a sign of life after which somebody counts as hung.
    """

    def __init__(self, patience: float) -> None:
        self._patience = patience
        self._asked: dict[str, _Asked] = {}

    def ask(self, name: str, now: float) -> bool:
        """It is time to ask; answers whether to: no question may be open. ``now`` in seconds of any steady clock."""
        asked = self._asked.get(name)
        if asked is None:
            self._asked[name] = _Asked(now)
            return True
        if asked.open:
            return False
        asked.open = True
        return True

    def answered(self, name: str, *, alive: bool = True) -> None:
        """The open question is answered; by an error that is no sign of life, where not ``alive``."""
        asked = self._asked.get(name)
        if asked is not None and alive:
            del self._asked[name]
        elif asked is not None:
            asked.open = False

    def forget(self, name: str) -> None:
        """Nobody asks it any more."""
        self._asked.pop(name, None)

    def pardon(self, seconds: float) -> None:
        """Whoever asks has not listened for so long: that counts against nobody."""
        for asked in self._asked.values():
            asked.since += seconds

    def silent(self, now: float) -> dict[str, float]:
        """Who has given no sign of life for longer than the patience lasts, with the seconds since it was asked."""
        return {name: now - a.since for name, a in self._asked.items() if now - a.since > self._patience}


# --- rows -------------------------------------------------------------------------------------------------
def stale(rows: Iterable[R], driven: Collection[str], *, now: float, older_than: float = 0.0) -> list[R]:
    """The executions that need a coordinator and have none.

    Args:
        rows: unfinished executions.
        driven: ids of those that a live coordinator drives, or that wait for one.
        now: in seconds since the epoch.
        older_than: only those for which nothing was done for so many seconds.
    """
    found = []
    for row in rows:
        if row.id in driven:
            continue
        # One that was given up, and is not due yet, needs nobody.
        since = row.updated_at if row.owner else row.runnable_at
        if since is not None and max(since, row.updated_at) + older_than <= now:
            found.append(row)
    return found


@dataclass(frozen=True, slots=True)
class OverdueItem:
    """Something whose time was up, and that was still there when it was looked at.

    Args:
        execution_id: the execution.
        kind: "deadline": the execution's own time; "wake": the timer, retry or message for which it was given up;
            "step": an attempt at a step.
        what: the step's name; "" otherwise.
        due: when its time was up, in seconds since the epoch.
        late: seconds since then.
        coordinator: who was to see to it; "" if nobody was.
    """

    execution_id: str
    kind: Literal["deadline", "wake", "step"]
    what: str
    due: float
    late: float
    coordinator: str


def overdue(rows: Iterable[Row], *, now: float, grace: float) -> list[OverdueItem]:
    """What of these executions is overdue, by their rows.

    Args:
        rows: unfinished executions.
        now: in seconds since the epoch.
        grace: seconds that whoever sees to it may take.
    """
    found: list[OverdueItem] = []
    for row in rows:
        coordinator = row.coordinator if row.owner else ""
        if row.deadline is not None and row.deadline + grace < now:
            found.append(OverdueItem(row.id, "deadline", "", row.deadline, now - row.deadline, coordinator))
        elif not row.owner and row.runnable_at is not None and row.runnable_at + grace < now:
            found.append(OverdueItem(row.id, "wake", "", row.runnable_at, now - row.runnable_at, ""))
    return found


# --- what is said of it -----------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class CoordinatorStatus:
    """A coordinator, as the supervisor knows it.

    Args:
        name: its actor's name.
        executions: how many executions it drives.
        ready: whether it has started.
        silent: seconds for which it has owed an answer, if that is longer than it may take; else 0.
        reserved: whether it drives one execution alone, which may be what killed the coordinators before.
    """

    name: str
    executions: int
    ready: bool
    silent: float = 0.0
    reserved: bool = False


@dataclass(frozen=True, slots=True)
class RecoveryStatus:
    """What the recovery knows and does now.

    Args:
        coordinators: all of them, by name.
        driven: unfinished executions that have a live coordinator.
        waiting: ids of those that are to get one as soon as there is one.
        stale: ids of those that need one, and that nobody has seen to yet.
        takeovers: how often in a row an execution lost its coordinator without getting any further.
        needs_environment: of each that waits for an engine with its runtime environment: that environment, with the
            names of its variables.
        set_aside: ids of those that are paused because their coordinators died again and again, or because a record of
            them is damaged.
    """

    coordinators: tuple[CoordinatorStatus, ...] = ()
    driven: int = 0
    waiting: tuple[str, ...] = ()
    stale: tuple[str, ...] = ()
    takeovers: Mapping[str, int] = field(default_factory=dict)
    needs_environment: Mapping[str, str] = field(default_factory=dict)
    set_aside: tuple[str, ...] = ()
