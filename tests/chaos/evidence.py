"""What a run left behind, as plain data: the plan, the ledger, the store, the acts of the driver, the blows. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from tests.chaos.expected import Expected
from tests.chaos.ledger import Line

#: Seconds around a blow in which an attempt counts as in flight: an answer may wait for its commit, and what waits
#: behind others on a worker begins a little later.
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
        until: when a stopped process was let go on; ``at`` for a kill.
        pid: the process.
        name: the actor, or "driver".
        drove: of a coordinator: the executions that it drove, with their epochs.
    """

    number: int
    kind: str
    at: float
    until: float
    pid: int
    name: str
    drove: Mapping[str, int] = field(default_factory=dict)

    @property
    def victim(self) -> str:
        """Which kind of process it met."""
        return self.kind.partition(" ")[2]

    @property
    def is_stop(self) -> bool:
        """Whether the process was stopped, not killed."""
        return self.kind.startswith("stop")

    def stopped(self, line: Line) -> bool:
        """Whether a line is of a process that goes on after it was stopped."""
        return self.is_stop and self.pid == line.pid and self.at <= line.at <= self.until + SLACK


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
        gave_up: what the run itself waited for in vain.
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
    def stale(self) -> set[str]:
        """Nonces of begins that nobody waited for any more, as far as the ledger can tell.

        They were begun by a process that had been stopped, or for a coordinator whose successor had steps begun
        already. Workers that nobody told cannot know; the answers of such attempts must not count.
        """
        newest: dict[str, int] = {}
        found = set()
        for _, line in self.begins:
            known = newest.get(line.execution, 0)
            if line.epoch < known or any(struck.stopped(line) for struck in self.struck):
                found.add(line.nonce)
            newest[line.execution] = max(known, line.epoch)
        return found
