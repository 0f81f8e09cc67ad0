"""What a journal's entries mean together: which of them count, and how a failed execution is rewound."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeGuard

from rayflow.core.actions import Outcomes
from rayflow.core.events import (
    APPLIED,
    Answered,
    Asked,
    AttemptFailed,
    DeadlinePassed,
    Ended,
    Entry,
    Event,
    Rewound,
    SignalReceived,
    StepCompleted,
    StepFailed,
    kind_and_name,
)
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


def asked_again(entries: Sequence[Entry]) -> set[int]:
    """Numbers of the calls that were asked again, and not answered since."""
    asked: set[int] = set()
    for entry in effective(entries):
        if isinstance(entry.event, Asked):
            asked.update(entry.event.steps)
        elif isinstance(entry.event, Answered):
            asked.discard(entry.event.step)
    return asked


@dataclass(frozen=True, slots=True)
class RewindPlan:
    """How a failed execution goes on.

    Args:
        to: the last position that stays.
        carried: recorded results that stay valid, and signals, to be applied again in their order.
        child: id of the child whose failure was the cause, which has to go on first; "" if it was none.
    """

    to: int
    carried: tuple[Outcomes, ...]
    child: str = ""


def plan_rewind(execution_id: str, entries: Sequence[Entry]) -> RewindPlan:
    """Where to go on from: before the failure that ended the execution.

    The terminal entry is superseded, and with it the failed step whose failure caused it, if one's did; its
    failed attempts are kept but no longer count. Results, recorded later, of steps that had been issued before
    that failure stay: those steps are not run again. Everything else after the failure is dropped, since it
    followed from the failure.

    Raises:
        InvalidTransition: the execution did not end in failure, or what it had done is undone.
    """
    live = effective(entries)
    if not live or not isinstance(live[-1].event, Ended) or live[-1].event.status is not ExecutionStatus.FAILED:
        raise InvalidTransition(execution_id, status="not failed", action="rewind")
    ended = live[-1].event
    if ended.compensated:
        raise InvalidTransition(
            execution_id,
            status="failed, and its compensations have undone what it did",
            action="resume",
            hint="Fork it before the failure, or start it anew under another id",
        )
    cause = None if ended.failure is None else ended.failure.step
    failed = next((e for e in reversed(live) if cause is not None and _failure_of_call(e.event) == cause), None)
    if failed is None:
        # It failed by its own code, or its time was up. The event whose application led there is applied again,
        # perhaps by mended code: what the old code did with it must not bind the new one.
        overdue = [e.seq for e in live if isinstance(e.event, DeadlinePassed)]
        first = min([applied(live)[-1].seq, *overdue])
        return RewindPlan(to=first - 1, carried=_carried(live, first, issued=None))
    issued = failed.event.issued if isinstance(failed.event, StepFailed) else None
    child = failed.event.worker if isinstance(failed.event, Answered) and _kind(failed.event) == "child" else ""
    return RewindPlan(to=failed.seq - 1, carried=_carried(live, failed.seq, issued=issued), child=child)


def _failure_of_call(event: Event) -> int | None:
    """The number of the call that failed for good by this event."""
    failed = isinstance(event, StepFailed) or (isinstance(event, Answered) and event.failure is not None)
    return event.step if failed and isinstance(event, StepFailed | Answered) else None


def _kind(event: Answered) -> str:
    return kind_and_name(event.name)[0]


def _carried(live: Sequence[Entry], first: int, *, issued: int | None) -> tuple[Outcomes, ...]:
    if issued is None:
        issued = sum(len(e.issued) for e in live if e.seq < first)
    return tuple(e.event for e in live if e.seq >= first and _stays(e.event, issued))


def _stays(event: Event, issued: int) -> TypeGuard[Outcomes]:
    match event:
        case SignalReceived():
            return True
        case StepCompleted():
            return event.step <= issued
        case Answered():  # a lock was given back at the end, and is asked for again
            return event.step <= issued and event.failure is None and _kind(event) != "lock"
        case _:
            return False


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
