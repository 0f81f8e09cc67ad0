"""Begins of a step beyond its first: which of them a blow explains. Pure."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

from tests.chaos.evidence import SLACK, Evidence, Struck
from tests.chaos.ledger import Line

#: Seconds after a blow to the store's actor within which it is back, and what waited for it is committed.
OUTAGE = 8.0


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
    """The kind of a blow that met the attempt before, its coordinator, or what had been left of either."""
    for struck in evidence.struck:
        if struck.at > line.at:
            continue
        if struck.victim == "worker" and _met_worker(evidence, struck, before, end, line):
            return struck.kind
        if struck.victim == "coordinator" and _met_coordinator(evidence, struck, before, end, line):
            return struck.kind
    return ""


def _met_worker(evidence: Evidence, struck: Struck, before: Line, end: Line | None, line: Line) -> bool:
    # The one that was stopped may be this one: a stale begin, when it goes on.
    if struck.stopped(line):
        return True
    return before.pid == struck.pid and _in_flight(evidence, struck, before, end)


def _met_coordinator(evidence: Evidence, struck: Struck, before: Line, end: Line | None, line: Line) -> bool:
    return before.epoch != line.epoch and before.execution in struck.drove and _in_flight(evidence, struck, before, end)


def _in_flight(evidence: Evidence, struck: Struck, before: Line, end: Line | None) -> bool:
    return before.at <= struck.until + SLACK and (end is None or end.at >= _uncommitted_since(evidence, struck))


def _uncommitted_since(evidence: Evidence, struck: Struck) -> float:
    """From when on answers may not have been durable at a blow: the store may have been out of reach by then."""
    outages = (other for other in evidence.struck if other.victim == "persistence")
    since = [other.at for other in outages if other.at <= struck.at <= other.until + OUTAGE]
    return min([struck.at, *since]) - SLACK
