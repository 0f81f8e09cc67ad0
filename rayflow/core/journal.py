"""What a journal's entries mean together: which of them count, and how a failed execution is rewound."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rayflow.core.events import APPLIED, AttemptFailed, DeadlinePassed, Ended, Entry, Rewound, StepCompleted, StepFailed
from rayflow.core.retry import is_suspicious
from rayflow.errors import InvalidTransition
from rayflow.ids import ExecutionStatus


def effective(entries: Sequence[Entry]) -> list[Entry]:
    """The entries that count: those that a rewind superseded are left out, and the rewinds with them."""
    kept: list[Entry] = []
    for entry in entries:
        if isinstance(entry.event, Rewound):
            while kept and kept[-1].seq > entry.event.to:
                kept.pop()
        else:
            kept.append(entry)
    return kept


def applied(entries: Sequence[Entry]) -> list[Entry]:
    """The effective entries whose events the workflow's code sees."""
    return [entry for entry in effective(entries) if isinstance(entry.event, APPLIED)]


def superseded(entries: Sequence[Entry]) -> set[int]:
    """Positions of the entries that a rewind superseded."""
    kept = {entry.seq for entry in effective(entries)}
    return {entry.seq for entry in entries if entry.seq not in kept and not isinstance(entry.event, Rewound)}


@dataclass(frozen=True, slots=True)
class RewindPlan:
    """How a failed execution goes on.

    Args:
        to: the last position that stays.
        carried: recorded results that stay valid, to be applied again in their order.
    """

    to: int
    carried: tuple[StepCompleted, ...]


def plan_rewind(execution_id: str, entries: Sequence[Entry]) -> RewindPlan:
    """Where to go on from: before the failure that ended the execution.

    The terminal entry is superseded, and with it the failed step whose failure caused it, if one's did; its
    failed attempts are kept but no longer count. Results, recorded later, of steps that had been issued before
    that failure stay: those steps are not run again. Everything else after the failure is dropped, since it
    followed from the failure.

    Raises:
        InvalidTransition: the execution did not end in failure.
    """
    live = effective(entries)
    if not live or not isinstance(live[-1].event, Ended) or live[-1].event.status is not ExecutionStatus.FAILED:
        raise InvalidTransition(execution_id, status="not failed", action="rewind")
    failure = live[-1].event.failure
    cause = None if failure is None else failure.step
    failed = next((e for e in reversed(live) if isinstance(e.event, StepFailed) and e.event.step == cause), None)
    if failed is None or not isinstance(failed.event, StepFailed):
        # It failed by its own code, or its time was up. The event whose application led there is applied again,
        # perhaps by mended code: what the old code did with it must not bind the new one.
        overdue = [e.seq for e in live if isinstance(e.event, DeadlinePassed)]
        first = min([applied(live)[-1].seq, *overdue])
        return RewindPlan(to=first - 1, carried=_carried(live, first, issued=None))
    return RewindPlan(to=failed.seq - 1, carried=_carried(live, failed.seq, issued=failed.event.issued))


def _carried(live: Sequence[Entry], first: int, *, issued: int | None) -> tuple[StepCompleted, ...]:
    if issued is None:
        issued = sum(len(e.issued) for e in live if e.seq < first)
    return tuple(
        e.event for e in live if e.seq >= first and isinstance(e.event, StepCompleted) and e.event.step <= issued
    )


@dataclass(slots=True)
class AttemptCount:
    """What the journal knows of a step's attempts so far."""

    attempts: int = 0
    failures: int = 0
    losses: int = 0
    suspicions: int = 0
    retry_at: float = 0.0


def attempts_of(entries: Sequence[Entry]) -> dict[int, AttemptCount]:
    """Failed and lost attempts per step; a rewind gives the failed step fresh retries."""
    counts: dict[int, AttemptCount] = {}
    for entry in entries:
        event = entry.event
        if isinstance(event, AttemptFailed):
            count = counts.setdefault(event.step, AttemptCount())
            count.attempts = max(count.attempts, event.attempt)
            count.retry_at = event.retry_at
            if event.counts:
                count.failures += 1
            else:
                count.losses += 1
                count.suspicions += is_suspicious(event.failure)
        elif isinstance(event, StepCompleted | StepFailed):
            count = counts.setdefault(event.step, AttemptCount())
            count.attempts = max(count.attempts, event.attempt)
        elif isinstance(event, Rewound):
            for count in counts.values():
                # The numbers of attempts go on (they are part of fencing); what they used up does not.
                count.failures = count.losses = count.suspicions = 0
                count.retry_at = 0.0
    return counts
