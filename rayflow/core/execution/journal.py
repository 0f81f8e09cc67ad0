"""Journal reading: which entries count, and how a failed execution is rewound."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeGuard

from rayflow.core.events import (
    EVENT_TRAITS,
    AttemptFailed,
    CancelRequested,
    DeadlinePassed,
    Ended,
    Entry,
    Event,
    RequestCompleted,
    RequestsReissued,
    Rewound,
    SignalReceived,
    StepCompleted,
    StepFailed,
    kind_and_name,
)
from rayflow.core.execution.actions import InboxOutcome
from rayflow.core.execution.retry import is_suspicious
from rayflow.errors import InvalidTransition
from rayflow.ids import ExecutionStatus


def effective(entries: Sequence[Entry]) -> list[Entry]:
    """Return the entries that count: no superseded entries, and no ``Rewound`` entries."""
    kept: list[Entry] = []
    for entry in entries:
        if isinstance(entry.event, Rewound):
            while kept and kept[-1].seq > entry.event.to:
                kept.pop()
        else:
            kept.append(entry)
    return kept


def applied(entries: Sequence[Entry]) -> list[Entry]:
    """Return the effective entries whose events the workflow's code sees."""
    return [entry for entry in effective(entries) if EVENT_TRAITS[type(entry.event)].applied]


def superseded(entries: Sequence[Entry]) -> set[int]:
    """Return the positions of the entries that a rewind superseded."""
    kept = {entry.seq for entry in effective(entries)}
    return {entry.seq for entry in entries if entry.seq not in kept and not isinstance(entry.event, Rewound)}


def reissued_requests(entries: Sequence[Entry]) -> set[int]:
    """Return the numbers of the calls that were sent again and have not completed since."""
    reissued: set[int] = set()
    for entry in effective(entries):
        if isinstance(entry.event, RequestsReissued):
            reissued.update(entry.event.steps)
        elif isinstance(entry.event, RequestCompleted):
            reissued.discard(entry.event.step)
    return reissued


def rewinds_of(entries: Sequence[Entry]) -> tuple[Sequence[int], int]:
    """Return the number of rewinds before each effective call was issued, and the number of all rewinds."""
    rewinds, at = 0, dict[int, int]()
    for entry in entries:
        at[entry.seq] = rewinds
        rewinds += isinstance(entry.event, Rewound)
    if not rewinds:
        return (), 0
    return [at[entry.seq] for entry in effective(entries) for _ in entry.issued], rewinds


@dataclass(slots=True)
class AttemptCount:
    """Attempts of one step, as the journal records them."""

    attempts: int = 0
    failures: int = 0
    losses: int = 0
    suspicions: int = 0
    retry_at: float = 0.0


def attempt_counts(entries: Sequence[Entry]) -> dict[int, AttemptCount]:
    """Return the failed and lost attempts of each step; a rewind resets the counts of failures and losses."""
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
                # Attempt numbers keep rising, because they are part of fencing.
                count.failures = count.losses = count.suspicions = 0
                count.retry_at = 0.0
    return counts


@dataclass(frozen=True, slots=True)
class RewindPlan:
    """Point from which a failed execution continues.

    Args:
        to: last position that stays.
        carried: recorded results that stay valid, and signals; they are applied again in their order.
        failed: number of the call whose failure ended the execution; 0 if no call's failure did.
        calls: number of rewinds before each remaining call was issued.
        children: numbers of the remaining calls that wait for a child and have no result in ``carried``.
    """

    to: int
    carried: tuple[InboxOutcome, ...]
    failed: int = 0
    calls: tuple[int, ...] = ()
    children: tuple[int, ...] = ()


def plan_rewind(execution_id: str, entries: Sequence[Entry], *, cancelled_by_parent: bool = False) -> RewindPlan:
    """Plan a rewind to the point before the failure that ended the execution.

    The rewind supersedes the ``Ended`` entry, and the failure of the step that caused it, if a step did. Failed
    attempts of that step stay in the journal but no longer count. Results of steps issued before the failure stay
    valid even if they were recorded after it. All other entries after the failure followed from it, and are superseded.

    Args:
        execution_id: id of the execution, for errors.
        entries: the whole journal.
        cancelled_by_parent: whether the rewind follows from the parent's rewind. An execution that only its parent
            cancelled then continues from before the cancellation, even if its status is CANCELLED.

    Raises:
        InvalidTransition: the execution did not fail, or its compensations have run.
    """
    live = effective(entries)
    ended = live[-1].event if live else None
    cancelled_by_parent = cancelled_by_parent and isinstance(ended, Ended) and ended.cancelled_by_parent
    resumable = {ExecutionStatus.FAILED, *([ExecutionStatus.CANCELLED] if cancelled_by_parent else [])}
    if not isinstance(ended, Ended) or ended.status not in resumable:
        raise InvalidTransition(execution_id, status="not failed", action="rewind")
    if ended.compensated:
        raise InvalidTransition(
            execution_id,
            status=f"{ended.status}, and its compensations have run",
            action="resume",
            hint="Fork it before that point, or start it again under another id",
        )
    failed = _failed_entry(live, ended)
    first = applied(live)[-1].seq if failed is None else failed.seq
    # If the workflow's own code failed, the last event is applied again, perhaps by corrected code: what the old code
    # did with that event must not bind the new code. After a deadline or a cancellation, the whole interruption is
    # superseded, because everything after it followed from it.
    interrupts = CancelRequested | DeadlinePassed if cancelled_by_parent else DeadlinePassed
    if failed is None or cancelled_by_parent:
        first = min([first, *(entry.seq for entry in live if isinstance(entry.event, interrupts))])
    call = 0 if failed is None or failed.seq > first else _failed_call(failed.event) or 0
    return _plan_from(entries, live, first, call)


def _failed_entry(live: Sequence[Entry], ended: Ended) -> Entry | None:
    """Return the entry of the call failure that ended the execution, if there is one."""
    cause = None if ended.failure is None else ended.failure.step
    return next((e for e in reversed(live) if cause is not None and _failed_call(e.event) == cause), None)


def _plan_from(entries: Sequence[Entry], live: Sequence[Entry], first: int, failed: int) -> RewindPlan:
    kept = [entry for entry in live if entry.seq < first]
    names = [name for entry in kept for name in entry.issued]
    carried = tuple(e.event for e in live if e.seq >= first and _is_carried(e.event, len(names)))
    closed = {event.step for event in (*(e.event for e in kept), *carried) if isinstance(event, RequestCompleted)}
    closed.update(number for entry in kept for number in entry.dropped)
    children = (number for number, name in enumerate(names, 1) if kind_and_name(name)[0] == "child")
    calls, _ = rewinds_of(entries)
    return RewindPlan(
        to=first - 1,
        carried=carried,
        failed=failed,
        calls=tuple(calls[: len(names)]) or (0,) * len(names),
        children=tuple(number for number in children if number not in closed),
    )


def _failed_call(event: Event) -> int | None:
    """Return the number of the call that failed permanently with this event."""
    failed = isinstance(event, StepFailed) or (isinstance(event, RequestCompleted) and event.failure is not None)
    return event.step if failed and isinstance(event, StepFailed | RequestCompleted) else None


def _is_carried(event: Event, issued: int) -> TypeGuard[InboxOutcome]:
    match event:
        case SignalReceived():
            return True
        case StepCompleted():
            return event.step <= issued
        case RequestCompleted():  # a lock was released at the end, so the execution claims it again
            return event.step <= issued and event.failure is None and kind_and_name(event.name)[0] != "lock"
        case _:
            return False
