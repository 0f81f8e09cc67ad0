"""What a journal's entries mean together: which of them count, and how a failed execution is rewound."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeGuard

from rayflow.core.events import (
    APPLIED,
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
from rayflow.core.execution.actions import Outcomes
from rayflow.core.execution.retry import is_suspicious
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
        if isinstance(entry.event, RequestsReissued):
            asked.update(entry.event.steps)
        elif isinstance(entry.event, RequestCompleted):
            asked.discard(entry.event.step)
    return asked


def rewinds_of(entries: Sequence[Entry]) -> tuple[Sequence[int], int]:
    """How often an execution had been rewound when it issued each of its calls that count, and by now."""
    rewinds, at = 0, dict[int, int]()
    for entry in entries:
        at[entry.seq] = rewinds
        rewinds += isinstance(entry.event, Rewound)
    if not rewinds:
        return (), 0
    return [at[entry.seq] for entry in effective(entries) for _ in entry.issued], rewinds


@dataclass(frozen=True, slots=True)
class RewindPlan:
    """How a failed execution goes on.

    Args:
        to: the last position that stays.
        carried: recorded results that stay valid, and signals, to be applied again in their order.
        failed: number of the call whose failure was the cause; 0 if it was none.
        calls: of each call that stays issued, how often the execution had been rewound when it issued it.
        children: numbers of those among them that wait for children, and are not answered by what is carried along.
    """

    to: int
    carried: tuple[Outcomes, ...]
    failed: int = 0
    calls: tuple[int, ...] = ()
    children: tuple[int, ...] = ()


def plan_rewind(execution_id: str, entries: Sequence[Entry], *, given_up: bool = False) -> RewindPlan:
    """Where to go on from: before the failure that ended the execution.

    The terminal entry is superseded, and with it the failed step whose failure caused it, if one's did; its
    failed attempts are kept but no longer count. Results, recorded later, of steps that had been issued before
    that failure stay: those steps are not run again. Everything else after the failure is dropped, since it
    followed from the failure.

    Args:
        execution_id: whose journal, for errors.
        entries: the whole journal.
        given_up: its parent goes on that had given it up: where nobody else has cancelled it, it goes on from before
            that, also if it ended as cancelled.

    Raises:
        InvalidTransition: the execution did not end in failure, or what it had done is undone.
    """
    live = effective(entries)
    ended = live[-1].event if live else None
    given_up = given_up and isinstance(ended, Ended) and ended.given_up
    resumable = {ExecutionStatus.FAILED, *([ExecutionStatus.CANCELLED] if given_up else [])}
    if not isinstance(ended, Ended) or ended.status not in resumable:
        raise InvalidTransition(execution_id, status="not failed", action="rewind")
    if ended.compensated:
        raise InvalidTransition(
            execution_id,
            status=f"{ended.status}, and its compensations have undone what it did",
            action="resume",
            hint="Fork it before that, or start it anew under another id",
        )
    failed = _failed(live, ended)
    first = applied(live)[-1].seq if failed is None else failed.seq
    # Where it failed by its own code, the event whose application led there is applied again, perhaps by mended code:
    # what the old code did with it must not bind the new one. Where its time was up, or it was given up, what it did
    # then followed from that.
    interrupts = CancelRequested | DeadlinePassed if given_up else DeadlinePassed
    if failed is None or given_up:
        first = min([first, *(entry.seq for entry in live if isinstance(entry.event, interrupts))])
    call = 0 if failed is None or failed.seq > first else _failure_of_call(failed.event) or 0
    return _planned(entries, live, first, call)


def _failed(live: Sequence[Entry], ended: Ended) -> Entry | None:
    """The entry of the call whose failure was the cause, if one's was."""
    cause = None if ended.failure is None else ended.failure.step
    return next((e for e in reversed(live) if cause is not None and _failure_of_call(e.event) == cause), None)


def _planned(entries: Sequence[Entry], live: Sequence[Entry], first: int, failed: int) -> RewindPlan:
    kept = [entry for entry in live if entry.seq < first]
    names = [name for entry in kept for name in entry.issued]
    carried = tuple(e.event for e in live if e.seq >= first and _stays(e.event, len(names)))
    over = {event.step for event in (*(entry.event for entry in kept), *carried) if isinstance(event, RequestCompleted)}
    over.update(number for entry in kept for number in entry.dropped)
    children = (number for number, name in enumerate(names, 1) if kind_and_name(name)[0] == "child")
    calls, _ = rewinds_of(entries)
    return RewindPlan(
        to=first - 1,
        carried=carried,
        failed=failed,
        calls=tuple(calls[: len(names)]) or (0,) * len(names),
        children=tuple(number for number in children if number not in over),
    )


def _failure_of_call(event: Event) -> int | None:
    """The number of the call that failed for good by this event."""
    failed = isinstance(event, StepFailed) or (isinstance(event, RequestCompleted) and event.failure is not None)
    return event.step if failed and isinstance(event, StepFailed | RequestCompleted) else None


def _kind(event: RequestCompleted) -> str:
    return kind_and_name(event.name)[0]


def _stays(event: Event, issued: int) -> TypeGuard[Outcomes]:
    match event:
        case SignalReceived():
            return True
        case StepCompleted():
            return event.step <= issued
        case RequestCompleted():  # a lock was given back at the end, and is asked for again
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
