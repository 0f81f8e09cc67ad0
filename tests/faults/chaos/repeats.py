"""Begins of a step beyond its first: which of them something explains that was done to the run. Pure.

A step may be begun again for two reasons only.

* By the same coordinator, if the answer of the attempt before did not arrive: its worker or its node was met while it
  ran or its answer was under way, or Ray was told to fail the very call.
* By a successor, if that coordinator was met before, and the answer was not durable. That no time tells, since commits
  wait while the store is out of reach; the journal does. A coordinator commits answers in the order in which they
  come. So once a step is recorded that it had begun long after the answer came, that answer was durable, too. And one
  whose own steps are recorded after a blow was over got over that blow: what became of it later is another matter.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

from tests.faults.chaos.evidence import SLACK, Evidence, Struck, Unanswered
from tests.faults.chaos.ledger import Line

#: How repeats are called that a call explains which Ray failed.
FAILED_CALL = "failed call"


@dataclass(frozen=True, slots=True)
class Repeat:
    """One further begin of a step.

    Args:
        before: the begin before it.
        line: the further one.
        why: "failed" if the one before failed by itself, the kind of blow that explains it, or "" if nothing does.
        overlaps: whether the one before had not ended by then.
    """

    before: Line
    line: Line
    why: str
    overlaps: bool


def repeats(evidence: Evidence) -> list[Repeat]:
    """All further begins, by step and in the order of the ledger."""
    found = []
    for begins in evidence.attempts.values():
        for (_, before), (place, line) in itertools.pairwise(begins):
            end = evidence.ends.get(before.nonce)
            over = end is not None and end[0] < place
            if over and end is not None and end[1].what == "failed":
                why = "failed"
            else:
                why = _explanation(evidence, before, None if end is None else end[1], line)
            found.append(Repeat(before, line, why, overlaps=not over))
    return found


def _explanation(evidence: Evidence, before: Line, end: Line | None, line: Line) -> str:
    """What met the attempt before, its coordinator, or what had been left of either."""
    for struck in evidence.struck:
        if struck.at > line.at:
            continue
        # The one that was stopped may be this one: a stale begin, when it goes on.
        if struck.late(line) or _met_worker(struck, before, end) or _met_coordinator(evidence, struck, before, line):
            return struck.kind
    caller = evidence.callers.get(before.coordinator)
    if any(call.pid == caller and _lost(call, before, end, line) for call in evidence.unanswered):
        return FAILED_CALL
    return ""


def _met_worker(struck: Struck, before: Line, end: Line | None) -> bool:
    met = struck.victim in {"worker", "node"} and before.pid in struck.processes
    return met and before.at <= struck.until + SLACK and (end is None or end.at >= struck.at - SLACK)


def _met_coordinator(evidence: Evidence, struck: Struck, before: Line, line: Line) -> bool:
    """Whether the attempt before was of a coordinator that a blow took away, before its answer was durable.

    Or the further one is of that coordinator, which does not know of its successor yet.
    """
    if line.epoch < before.epoch:
        return _was_of(line, struck)
    if line.epoch == before.epoch or not _was_of(before, struck):
        return False
    end = evidence.ends.get(before.nonce)
    durable = evidence.durable.get((before.execution, before.epoch), [])
    got_over = any(at > struck.until + SLACK for _, at in durable)
    overtaken = end is not None and any(begun > end[1].at + SLACK for begun, _ in durable)
    return not got_over and not overtaken


def _was_of(line: Line, struck: Struck) -> bool:
    """Whether one of the coordinators that a blow met had sent it; without its name in the ledger, drove it then."""
    if line.coordinator:
        return line.coordinator in struck.coordinators
    return struck.drove.get(line.execution) == line.epoch


def _lost(call: Unanswered, before: Line, end: Line | None, line: Line) -> bool:
    """Whether that call may have been the one that brought the attempt before, or was to bring its answer."""
    return call.at <= line.at and before.at <= call.at + SLACK and (end is None or end.at >= call.at - SLACK)
