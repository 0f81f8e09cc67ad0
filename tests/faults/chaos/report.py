"""A run's report, for people and for docs/reliability.md. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from tests.faults.chaos.evidence import Evidence
from tests.faults.chaos.figures import Minimum, recoveries, repeated
from tests.faults.chaos.invariants import SHOWN, Verdict


def joint(runs: Sequence[Evidence]) -> str:
    """What several runs led to, as one table."""
    attempts = sum(len(run.attempts) for run in runs)
    again = sum(sum(repeated(run).values()) for run in runs)
    lines = [
        f"{len(runs)} runs: {sum(len(run.outcomes) for run in runs)} executions, {attempts} steps, {again} begun again"
    ]
    return "\n".join([*lines, "", *_table(*runs)])


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
    lines.append(f"steps in flight that were begun again: {sum(repeated(evidence).values())}")
    troubles = ", ".join(f"{times} {what}" for what, times in sorted(evidence.troubles.items()))
    calls = Counter(call.how for call in evidence.unanswered)
    failed = ", ".join(f"{times} {how}" for how, times in sorted(calls.items()))
    lines.append(f"transactions that failed: {troubles or 'none'}; calls that Ray was told to fail: {failed or 'none'}")
    lines += ["", *_table(evidence)]
    lacking = minimum.lacking(evidence.struck, len(evidence.outcomes), len(evidence.attempts))
    if lacking:
        lines += ["", f"too little was done to say anything: {'; '.join(lacking)}"]
    return "\n".join(lines)


def _table(*runs: Evidence) -> list[str]:
    """What each kind of blow led to, as a table in Markdown."""
    again = sum((repeated(run) for run in runs), Counter())
    rows = [("blow", "dealt", "median (s)", "worst (s)", "begun again"), ("---", "---:", "---:", "---:", "---:")]
    for row in recoveries(*runs):
        median, worst = ("-" if value is None else f"{value:.2f}" for value in (row.median, row.worst))
        rows.append((row.kind, str(row.blows), median, worst, str(again.pop(row.kind, 0))))
    rows += [(why, "", "", "", str(times)) for why, times in sorted(again.items())]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["| " + " | ".join(map(str.ljust, row, widths)) + " |" for row in rows]
    return [
        *lines,
        "",
        "From a blow until something that it affected went on; how many steps it explains that were begun again.",
    ]
