"""A run's report, for people. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from tests.chaos.evidence import Evidence
from tests.chaos.figures import Minimum, recoveries, repeated
from tests.chaos.invariants import SHOWN, Verdict


def report(evidence: Evidence, verdicts: Sequence[Verdict], minimum: Minimum, seed: int) -> str:
    """All of it, the verdicts first."""
    statuses = Counter(outcome.status for outcome in evidence.outcomes.values())
    lives = sum(act.what == "ready" for act in evidence.acts)
    lines = [f"seed {seed}"]
    for verdict in verdicts:
        lines.append(f"{'ok  ' if not verdict.problems else 'FAIL'}  {verdict.name}: {verdict.checked}")
        lines.extend(f"        {problem}" for problem in verdict.problems[:SHOWN])
        if len(verdict.problems) > SHOWN:
            lines.append(f"        … and {len(verdict.problems) - SHOWN} more")
    lines.append(
        f"executions: {len(evidence.outcomes)} ({', '.join(f'{n} {s}' for s, n in sorted(statuses.items()))}); "
        f"steps: {len(evidence.attempts)}; lives of the driver: {lives}"
    )
    again = ", ".join(f"{times} after {why}" for why, times in sorted(repeated(evidence).items()))
    lines.append(f"steps in flight that were begun again: {again or 'none'}")
    lines += ["", f"{'blow':<20}{'dealt':>6}{'median':>10}{'worst':>10}  until an affected execution went on, in s"]
    for row in recoveries(evidence):
        median, worst = ("-" if value is None else f"{value:.2f}" for value in (row.median, row.worst))
        lines.append(f"{row.kind:<20}{row.blows:>6}{median:>10}{worst:>10}")
    lacking = minimum.lacking(evidence)
    if lacking:
        lines += ["", f"too little was done to say anything: {'; '.join(lacking)}"]
    return "\n".join(lines)
