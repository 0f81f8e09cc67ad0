"""Small pieces of evidence for the tests of what judges: a run in which all is well, to be doctored."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tests.faults.chaos.evidence import Act, Evidence, Outcome, Recorded, Struck
from tests.faults.chaos.expected import Expected
from tests.faults.chaos.ledger import Line

#: When the small runs take place.
T = 1000.0
#: The worker, another worker, a coordinator.
WORKER, OTHER, COORDINATOR = 11, 12, 21


def begin(execution: str, seq: int, at: float, **other: Any) -> Line:
    """A begin; its nonce is made of the step, the attempt and the epoch."""
    attempt, epoch = other.pop("attempt", 1), other.pop("epoch", 1)
    known: dict[str, Any] = {"step": "work", "pid": WORKER, "key": f"{execution}/{seq}", **other}
    nonce = known.pop("nonce", f"{execution}/{seq}/{attempt}/{epoch}")
    return Line(
        at=T + at, what="begin", execution=execution, seq=seq, attempt=attempt, epoch=epoch, nonce=nonce, **known
    )


def end(line: Line, at: float, what: Any = "end") -> Line:
    """The end of what a line began."""
    return replace(line, at=T + at, what=what)


def step(line: Line, position: int, at: float) -> Recorded:
    """A result as the journal has it."""
    return Recorded(position, T + at, line.seq, line.step, line.attempt, line.nonce)


def chain(name: str = "chain-0000", steps: int = 3, first: float = 1.0, **other: Any) -> Evidence:
    """A chain, one step a second from the first one on, in which all is well."""
    lines: list[Line] = []
    recorded = []
    for number in range(1, steps + 1):
        at = first + number - 1
        line = begin(name, number, at, **other)
        lines += [line, end(line, at + 0.5)]
        recorded.append(step(line, number + 1, at + 0.6))
    outcome = Outcome(name, "completed", result=42, recorded=tuple(recorded))
    return Evidence({name: Expected("chain", 42, steps)}, lines, {name: outcome}, slots=2)


def struck(kind: str, at: float, **other: Any) -> Struck:
    """A blow to the worker, or to the coordinator of every chain."""
    known: dict[str, Any] = {"number": 0, "until": T + at, "name": "", **other}
    known.setdefault("pid", COORDINATOR if kind.endswith("coordinator") else WORKER)
    known.setdefault("drove", {"chain-0000": 1} if kind.endswith("coordinator") else {})
    return Struck(kind=kind, at=T + at, **known)


def with_outcome(evidence: Evidence, **changes: Any) -> Evidence:
    """With another end of its only execution."""
    [(name, outcome)] = evidence.outcomes.items()
    return replace(evidence, outcomes={name: replace(outcome, **changes)})


def with_lines(evidence: Evidence, place: int, *lines: Line) -> Evidence:
    """With further lines in the ledger."""
    return replace(evidence, lines=[*evidence.lines[:place], *lines, *evidence.lines[place:]])


def signals() -> Evidence:
    """An execution that received two signals of each of two senders."""
    name = "signals-0000"
    acts = [Act(T, "signal", name, sender, number) for number in range(2) for sender in range(2)]
    result = {"value": 42, "items": [[0, 0], [1, 0], [1, 1], [0, 1]]}
    return replace(with_outcome(chain(name), result=result), acts=acts)


def locked() -> Evidence:
    """Two executions that had one lock, one after the other."""
    one, two = chain("guard-1", 1, lock="l", token=1), chain("guard-2", 1, 3.0, lock="l", token=2)
    return Evidence({**one.expected, **two.expected}, [*one.lines, *two.lines], {**one.outcomes, **two.outcomes})
