"""What a run left behind, as plain data: the plan, the ledger, the store, the acts of the driver, the blows. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from tests.faults.chaos.expected import Expected
from tests.faults.chaos.ledger import Line

#: Seconds that a message may take to arrive: what was sent before a blow begins so much later at most, and the answer
#: of what ended so long before it may have been lost with it.
SLACK = 5.0


@dataclass(frozen=True, slots=True)
class Recorded:
    """A step's result as the journal has it.

    Args:
        position: of its entry in the journal.
        at: when it was applied.
        seq: the step's number.
        name: its name.
        attempt: whose answer it is.
        nonce: of that attempt's begin in the ledger.
    """

    position: int
    at: float
    seq: int
    name: str
    attempt: int
    nonce: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """An execution as the store has it.

    Args:
        id: the execution.
        status: how it ended, or that it has not.
        result: its decoded result.
        failure: what it failed by, or why it is paused.
        schedule: which schedule started it; "" if none did.
        origin: the execution that it is a fork of, whose results it took over; "" if it is none.
        recorded: its steps' results, in the journal's order.
    """

    id: str
    status: str
    result: Any = None
    failure: str = ""
    schedule: str = ""
    origin: str = ""
    recorded: tuple[Recorded, ...] = ()


@dataclass(frozen=True, slots=True)
class Struck:
    """A blow that was dealt.

    Args:
        number: its place in the plan.
        kind: which kind.
        at: when, in seconds since the epoch.
        until: when a stopped process was let go on, the GCS was started again, or the store had to write again; else
            ``at``.
        pid: the process; of a node, its raylet. 0 for the store.
        name: the actor, the node, "driver", "gcs" or what is wrong with the store.
        drove: what the coordinators that it met drove, with the epochs.
        on: of a node: the processes that ran there.
        coordinators: the names of the coordinators that it met.
    """

    number: int
    kind: str
    at: float
    until: float
    pid: int
    name: str
    drove: Mapping[str, int] = field(default_factory=dict)
    on: Sequence[int] = ()
    coordinators: Sequence[str] = ()

    @property
    def victim(self) -> str:
        """Which kind of process it met."""
        return self.kind.partition(" ")[2]

    @property
    def is_stop(self) -> bool:
        """Whether the process was stopped, not killed."""
        return self.kind.startswith("stop")

    @property
    def processes(self) -> set[int]:
        """All that it met."""
        return {self.pid, *self.on}

    def late(self, line: Line) -> bool:
        """Whether a line is of a worker that goes on although nobody counts on it: it was stopped, or its node lost.

        The processes of a node whose raylet is stopped or killed run on for a while.
        """
        met = line.pid in self.processes and (self.is_stop or self.victim == "node")
        return met and self.at <= line.at <= self.until + SLACK


@dataclass(frozen=True, slots=True)
class Unanswered:
    """A call of an actor that Ray was told to fail, although caller and actor live.

    Args:
        at: when.
        pid: the caller's process.
        how: "request" (it was not sent), "response" (it was done, and the answer dropped) or "in flight".
    """

    at: float
    pid: int
    how: str


@dataclass(frozen=True, slots=True)
class Act:
    """Something that the driver did and that was accepted.

    Args:
        at: when it knew.
        what: "start", "signal", "fork", "schedule" or "ready" (it began).
        execution: of whom; a schedule's name.
        sender: of a signal.
        number: of a signal; of a life of the driver.
    """

    at: float
    what: str
    execution: str
    sender: int = 0
    number: int = 0


@dataclass(frozen=True)
class Evidence:
    """All of it.

    Args:
        expected: every execution that there has to be, by id: as far as the driver's starts were accepted.
        lines: the ledger.
        outcomes: the store's executions, by id.
        acts: what was accepted.
        struck: the blows.
        slots: how many steps run at once: workers times their slots.
        locks: the locks that somebody holds or waits for at the end.
        left: processes and actors that are left and should not be.
        dues: the ids that each schedule has to have started, by its name.
        early: those of them that it need not have: they were due before anybody knew that there was a schedule.
        gave_up: what the run itself waited for in vain.
        unanswered: the calls that Ray was told to fail.
        callers: the process of each coordinator that was seen.
        troubles: how many transactions failed, by the kind of trouble.
    """

    expected: Mapping[str, Expected]
    lines: Sequence[Line]
    outcomes: Mapping[str, Outcome]
    acts: Sequence[Act] = ()
    struck: Sequence[Struck] = ()
    slots: int = 1
    locks: Sequence[str] = ()
    left: Sequence[str] = ()
    dues: Mapping[str, Sequence[str]] = field(default_factory=dict)
    gave_up: Sequence[str] = ()
    early: Collection[str] = ()
    unanswered: Sequence[Unanswered] = ()
    callers: Mapping[str, int] = field(default_factory=dict)
    troubles: Mapping[str, int] = field(default_factory=dict)

    @cached_property
    def begins(self) -> list[tuple[int, Line]]:
        """Lines of begins, with their places in the ledger."""
        return [(place, line) for place, line in enumerate(self.lines) if line.what == "begin"]

    @cached_property
    def by_nonce(self) -> dict[str, tuple[int, Line]]:
        """Each begin by its nonce, with its place in the ledger."""
        return {line.nonce: (place, line) for place, line in self.begins}

    @cached_property
    def ends(self) -> dict[str, tuple[int, Line]]:
        """Each end, successful or not, by its begin's nonce, with its place in the ledger."""
        return {line.nonce: (place, line) for place, line in enumerate(self.lines) if line.what != "begin"}

    @cached_property
    def attempts(self) -> dict[str, list[tuple[int, Line]]]:
        """The begins of each step, by its idempotency key, in order."""
        found: dict[str, list[tuple[int, Line]]] = defaultdict(list)
        for place, line in self.begins:
            found[line.key].append((place, line))
        return dict(found)

    @cached_property
    def by_execution(self) -> dict[str, list[Line]]:
        """The begins of each execution, in order."""
        found: dict[str, list[Line]] = defaultdict(list)
        for _, line in self.begins:
            found[line.execution].append(line)
        return dict(found)

    @cached_property
    def durable(self) -> dict[tuple[str, int], list[tuple[float, float]]]:
        """Of each execution and epoch: when the steps whose answers count began, and when those were recorded."""
        found: dict[tuple[str, int], list[tuple[float, float]]] = defaultdict(list)
        for outcome in self.outcomes.values():
            for step in outcome.recorded:
                begin = self.by_nonce.get(step.nonce)
                if begin is not None and begin[1].execution == outcome.id:
                    found[outcome.id, begin[1].epoch].append((begin[1].at, step.at))
        return dict(found)

    @cached_property
    def stale(self) -> set[str]:
        """Nonces of begins that nobody waited for any more, as far as the ledger can tell.

        They were begun by a process that had been stopped or whose node was lost, or for a coordinator whose
        successor had steps begun already. Workers that nobody told cannot know; the answers of such attempts must not
        count.
        """
        newest: dict[str, int] = {}
        found = set()
        for _, line in self.begins:
            known = newest.get(line.execution, 0)
            if line.epoch < known or any(struck.late(line) for struck in self.struck):
                found.add(line.nonce)
            newest[line.execution] = max(known, line.epoch)
        return found
