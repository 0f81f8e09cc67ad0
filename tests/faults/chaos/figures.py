"""Figures of a run: blows by kind, how soon things went on after each, what was done again. Pure."""

from __future__ import annotations

import bisect
import itertools
import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from tests.faults.chaos.evidence import Evidence, Struck
from tests.faults.chaos.ledger import Line
from tests.faults.chaos.plan import KINDS
from tests.faults.chaos.repeats import repeats

#: Seconds after a blow to an actor that everybody uses within which everybody has come to a stand, if anybody does.
SETTLES = 0.5
#: Seconds after which what follows is not the recovery from a blow any more.
LONGEST = 60.0


@dataclass(frozen=True, slots=True)
class Minimum:
    """What a run has to have done to say anything.

    Args:
        blows: of each kind.
        executions: that ended.
        steps: with recorded effects.
    """

    blows: int = 0
    executions: int = 0
    steps: int = 0

    def lacking(self, blows: Sequence[Struck], executions: int, steps: int) -> list[str]:
        """What a run that has done so much lacks of it."""
        dealt = Counter(struck.kind for struck in blows)
        found = [f"{dealt[kind]} of {self.blows} times '{kind}'" for kind in KINDS if dealt[kind] < self.blows]
        if executions < self.executions:
            found.append(f"{executions} of {self.executions} executions")
        if steps < self.steps:
            found.append(f"{steps} of {self.steps} steps")
        return found


@dataclass(frozen=True, slots=True)
class Recovery:
    """How soon things went on after the blows of one kind, in seconds.

    Args:
        kind: which.
        blows: how many were dealt.
        median: of the times; None if nothing affected went on.
        worst: of the times.
    """

    kind: str
    blows: int
    median: float | None
    worst: float | None


def recoveries(*runs: Evidence) -> list[Recovery]:
    """One row for each kind of blow, of all runs together."""
    rows = []
    for kind in KINDS:
        found = [recovery(run, blow) for run in runs for blow in run.struck if blow.kind == kind]
        times = [seconds for seconds in found if seconds is not None]
        rows.append(
            Recovery(kind, len(found), statistics.median(times) if times else None, max(times) if times else None)
        )
    return rows


def recovery(evidence: Evidence, blow: Struck) -> float | None:
    """Seconds from a blow until what it affected went on; None if nothing was affected, or that cannot be told."""
    begins = [line for _, line in evidence.begins]
    first = bisect.bisect_left(begins, blow.at, key=lambda line: line.at)
    later = [line for line in begins[first:] if line.at <= blow.at + LONGEST]
    match blow.victim:
        case "worker":
            return _after(blow, _steps(evidence, blow, later))
        case "coordinator":
            return _after(blow, _driven(blow, later))
        case "node":
            return _after(blow, _steps(evidence, blow, later) + _driven(blow, later))
        case "driver":
            return _after(blow, [act.at for act in evidence.acts if act.at > blow.at][:1])
        case _:
            return _stand(blow, begins[max(0, first - 1) : first], later)


def _after(blow: Struck, moments: Sequence[float]) -> float | None:
    return max(moments) - blow.at if moments else None


def _steps(evidence: Evidence, blow: Struck, later: Sequence[Line]) -> list[float]:
    """When each of the steps that ran there went on: elsewhere, or there after a stop."""
    found = []
    for _, line in evidence.begins:
        end = evidence.ends.get(line.nonce)
        if line.pid not in blow.processes or line.at > blow.at or (end is not None and end[1].at <= blow.at):
            continue
        moments = [begin.at for begin in later if begin.key == line.key and begin.pid not in blow.processes][:1]
        if end is not None and blow.is_stop and end[1].at >= blow.until:
            moments.append(end[1].at)
        found += [min(moments)] if moments else []
    return found


def _driven(blow: Struck, later: Sequence[Line]) -> list[float]:
    """When the first of those went on that a coordinator drove: by its successor, or by itself after a stop."""
    return [line.at for line in later if _goes_on(blow, line)][:1]


def _goes_on(blow: Struck, line: Line) -> bool:
    epoch = blow.drove.get(line.execution)
    return epoch is not None and (line.epoch > epoch or (blow.is_stop and line.at >= blow.until))


def _stand(blow: Struck, before: Sequence[Line], later: Sequence[Line]) -> float | None:
    """When the longest time ended in which nothing began, of those that followed from the blow."""
    moments = [blow.at if before else None, *(line.at for line in later)]
    known = [moment for moment in moments if moment is not None]
    gaps = [(after - at, after) for at, after in itertools.pairwise(known) if at <= blow.at + SETTLES]
    return max(gaps)[1] - blow.at if gaps else None


def repeated(evidence: Evidence) -> Counter[str]:
    """How often a step was begun again, by what explains it."""
    return Counter(repeat.why or "(nothing)" for repeat in repeats(evidence) if repeat.why != "failed")
