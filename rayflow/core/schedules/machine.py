"""Decisions of a schedule: which executions to start and cancel, and when to decide again.

The machine owns the rule: each due time is decided once, in order, and is then started, queued, skipped or missed. Its
owner owns the clock, the record and the executions. The owner writes a decision of :func:`decide` (new state, starts
and cancels) in one transaction, on condition that the stored state has not changed. So a due time starts its execution
exactly once, even if the owner dies, or two owners decide at once.

Times are seconds since the epoch.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field, replace

from rayflow.core.schedules.due_times import check_name, due_after, due_between, due_id, each_due, start_moment
from rayflow.definition.schedule import Schedule
from rayflow.errors import InvalidArgument

#: Maximum number of starts in one decision, which is one transaction.
MAX_STARTS = 100

#: Maximum number of due times in one decision. After a long downtime, several decisions follow each other.
MAX_PASSED = 1000

#: Options of a schedule that define its due times, apart from the end.
_TIMING = ("cron", "every", "timezone", "start_at")


@dataclass(frozen=True, slots=True)
class ScheduleState:
    """Stored state of a schedule.

    Args:
        next_due: first undecided due time; None after the last one.
        runs: number of due times that started an execution.
        missed: number of due times that were not started because they were more than ``catch_up`` late.
        skipped: number of due times that were not started because another execution ran, or the schedule was paused.
        paused: whether the schedule starts nothing.
        queued_due: due time that waits for the end of the running execution (overlap ``"queue_one"``).
        running: ids of started executions that are not known to have ended, oldest first.
        last_due: newest decided due time.
        last_execution: id of the newest execution.
        anchor: due time from which those of an interval without ``start_at`` are counted.
        resumed_at: time of the last resume; due times whose start came before it passed during the pause.
    """

    next_due: float | None = None
    runs: int = 0
    missed: int = 0
    skipped: int = 0
    paused: bool = False
    queued_due: float | None = None
    running: tuple[str, ...] = ()
    last_due: float | None = None
    last_execution: str | None = None
    anchor: float | None = None
    resumed_at: float | None = None


@dataclass(frozen=True, slots=True)
class DueStart:
    """Execution to start, and its due time."""

    execution_id: str
    due: float


@dataclass(frozen=True, slots=True)
class Decision:
    """Decision of a schedule.

    Args:
        starts: executions to start, in the order of their due times.
        cancels: ids of executions to cancel.
        state: new state.
        wake: when to decide again; ``now`` if one decision was not enough. None if only the end of an execution or a
            change by a person matters.
    """

    starts: tuple[DueStart, ...]
    cancels: tuple[str, ...]
    state: ScheduleState
    wake: float | None


def begin(spec: Schedule, now: float) -> ScheduleState:
    """Return the state of a new schedule. Earlier due times are not started; they can be backfilled.

    Example:
        >>> begin(Schedule(every=60), 1000.0).next_due
        1060.0
    """
    return _retarget(spec, ScheduleState(), now)


def changed(old: Schedule, new: Schedule, state: ScheduleState, now: float) -> ScheduleState:
    """Return the state after a change of the spec.

    If the due times stay the same, undecided ones are kept. Otherwise the next due time is the first one after now and
    after all decided ones. A queued due time is skipped if the new spec does not queue.
    """
    if new.overlap != "queue_one":
        state = _skip_queued(state)
    if any(getattr(old, name) != getattr(new, name) for name in _TIMING):
        return _retarget(new, replace(state, anchor=None), now)
    if state.next_due is None:
        return _retarget(new, state, now)
    past_end = new.end_at is not None and state.next_due > new.end_at
    return replace(state, next_due=None) if past_end else state


def paused(state: ScheduleState) -> ScheduleState:
    """Return the state of a paused schedule: a queued due time is skipped."""
    return replace(_skip_queued(state), paused=True)


def resumed(state: ScheduleState, now: float) -> ScheduleState:
    """Return the state of a resumed schedule: due times that passed during the pause are skipped."""
    if not state.paused:
        return state
    return replace(state, paused=False, resumed_at=max(now, state.resumed_at or 0.0))


def started(state: ScheduleState, execution_id: str) -> ScheduleState:
    """Return the state after a manual start: the execution counts as running, and not as a run."""
    if execution_id in state.running:
        return state
    return replace(state, running=(*state.running, execution_id), last_execution=execution_id)


def ended(state: ScheduleState, ids: Collection[str]) -> ScheduleState:
    """Return the state without ended executions."""
    return replace(state, running=tuple(running for running in state.running if running not in ids))


def manual_id(name: str, key: str) -> str:
    """Return the id of a manually started execution, which differs from the ids of all due times.

    Args:
        name: name of the schedule.
        key: unique key; the same key is the same execution.

    Raises:
        InvalidArgument: the name or the key is not valid.

    Example:
        >>> manual_id("nightly", "7f3a")
        'nightly@manual-7f3a'
    """
    if not key or len(key) > 30 or not key.isalnum() or not key.isascii():
        raise InvalidArgument(f"key of a manual start must be 1 to 30 letters and digits, not {key!r}")
    return f"{check_name(name)}@manual-{key}"


def backfill(
    name: str, spec: Schedule, state: ScheduleState, now: float, *, start: float, end: float, limit: int = 1000
) -> tuple[DueStart, ...]:
    """Return the executions of a range of due times. Ids of existing executions stay the same, so none runs twice.

    The range is cut to due times that have passed and that :func:`decide` has decided. Backfilled executions do not
    count as runs, and neither a pause nor ``max_runs`` prevents them.

    Args:
        name: name of the schedule.
        spec: the schedule.
        state: its state.
        now: the time.
        start: start of the range, inclusive.
        end: end of the range, exclusive.
        limit: maximum number of due times.

    Raises:
        InvalidArgument: the range ends before it starts, or contains more than ``limit`` due times.
    """
    if end < start:
        raise InvalidArgument(f"backfill range ends ({end!r}) before it starts ({start!r})")
    stop = min(end, math.nextafter(now, math.inf), math.inf if state.next_due is None else state.next_due)
    dues = list(due_between(spec, start, stop, limit=limit + 1, anchor=state.anchor))
    if len(dues) > limit:
        raise InvalidArgument(
            f"backfill range contains more than {limit} due times of schedule {name!r}. Split it: the first part may "
            f"end at {dues[limit]!r}"
        )
    return tuple(DueStart(due_id(name, due), due) for due in dues if due != state.queued_due)


def decide(name: str, spec: Schedule, state: ScheduleState, now: float, *, most: int | None = None) -> Decision:
    """Decide the due times whose start has come.

    The start of a due time is the due time itself, or up to ``jitter`` later. Due times are decided in order, and never
    twice, even if the clock is set back.

    Args:
        name: name of the schedule.
        spec: the schedule.
        state: its state, with only unfinished executions in ``running`` (see :func:`ended`).
        now: the time.
        most: maximum number of starts, if singletons prevent more; None for any. Other due times are queued or
            skipped, by the overlap policy.

    Raises:
        InvalidArgument: the schedule's name is not valid.

    Example:
        >>> spec = Schedule(every=60)
        >>> [start.execution_id for start in decide("beat", spec, begin(spec, 0.0), 61.0).starts]
        ['beat@19700101T000100Z']
    """
    check_name(name)
    if state.paused:
        return Decision((), (), state, None)
    draft = _Draft(name, spec, state, now, most)
    draft.start_queued()
    next_due, wake = _walk(draft)
    ids = tuple(start.execution_id for start in draft.starts)
    after = replace(
        state,
        next_due=next_due,
        runs=draft.runs,
        missed=draft.missed,
        skipped=draft.skipped,
        queued_due=draft.queued,
        running=(*state.running, *ids),
        last_due=draft.last_due,
        last_execution=ids[-1] if ids else state.last_execution,
    )
    return Decision(tuple(draft.starts), draft.cancels, after, wake)


@dataclass(slots=True)
class _Draft:
    """A decision in progress."""

    name: str
    spec: Schedule
    state: ScheduleState
    now: float
    most: int | None
    missed: int = field(init=False)
    skipped: int = field(init=False)
    queued: float | None = field(init=False)
    last_due: float | None = field(init=False)
    starts: list[DueStart] = field(init=False, default_factory=list)
    cancels: tuple[str, ...] = field(init=False, default=())

    def __post_init__(self) -> None:
        self.missed, self.skipped = self.state.missed, self.state.skipped
        self.queued, self.last_due = self.state.queued_due, self.state.last_due

    @property
    def runs(self) -> int:
        return self.state.runs + len(self.starts)

    @property
    def exhausted(self) -> bool:
        """Whether ``max_runs`` allows no further run after the queued one."""
        allowed = self.spec.max_runs
        return allowed is not None and self.runs + (self.queued is not None) >= allowed

    @property
    def busy(self) -> bool:
        return bool(self.state.running or self.starts)

    @property
    def full(self) -> bool:
        """Whether ``most`` allows no further start."""
        return self.most is not None and len(self.starts) >= self.most

    def start_queued(self) -> None:
        """Start the queued due time if no execution runs."""
        if self.queued is not None and not self.state.running and not self.full:
            self._start(self.queued)
            self.queued = None

    def decide(self, due: float, moment: float) -> None:
        """Decide one due time whose start ``moment`` has come."""
        self.last_due = due
        if self.state.resumed_at is not None and moment <= self.state.resumed_at:
            self.skipped += 1
        elif self.now - (due + self.spec.jitter) > self.spec.catch_up:
            # Not counted from its own start: an earlier due time with more jitter may have delayed it by up to that.
            self.missed += 1
        elif (self.spec.overlap == "allow" or not self.busy) and not self.full:
            self._start(due)
        elif self.spec.overlap == "cancel_running" and self.busy and (self.starts or not self.full):
            self._displace(due)
        elif self.spec.overlap == "queue_one" and self.queued is None:
            self.queued = due
        else:
            self.skipped += 1

    def _start(self, due: float) -> None:
        self.starts.append(DueStart(due_id(self.name, due), due))

    def _displace(self, due: float) -> None:
        if self.starts:  # started in this decision only, so there is nothing to cancel
            self.starts.pop()
            self.skipped += 1
        else:
            self.cancels = self.state.running
        self._start(due)


def _walk(draft: _Draft) -> tuple[float | None, float | None]:
    """Decide the due times whose start has come; return the next due time, and when to decide it."""
    for passed, due in enumerate(_undecided(draft.spec, draft.state)):
        if draft.exhausted:
            break
        moment = start_moment(draft.name, draft.spec, due)
        if moment > draft.now:
            return due, moment
        if passed >= MAX_PASSED or len(draft.starts) >= MAX_STARTS:
            return due, draft.now
        draft.decide(due, moment)
    return None, None


def _undecided(spec: Schedule, state: ScheduleState) -> Iterable[float]:
    if state.next_due is None:
        return ()
    return itertools.chain((state.next_due,), each_due(spec, state.next_due, state.anchor))


def _retarget(spec: Schedule, state: ScheduleState, now: float) -> ScheduleState:
    """Return the state with the first due time after now and after all decided ones."""
    after = now if state.last_due is None else max(now, state.last_due)
    due = due_after(spec, after, state.anchor)
    anchor = due if state.anchor is None else state.anchor
    return replace(state, next_due=due, anchor=anchor if spec.every is not None and spec.start_at is None else None)


def _skip_queued(state: ScheduleState) -> ScheduleState:
    if state.queued_due is None:
        return state
    return replace(state, queued_due=None, skipped=state.skipped + 1)
