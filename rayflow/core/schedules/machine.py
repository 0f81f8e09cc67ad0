"""What a schedule does at a moment: which executions it starts and cancels, and when it wants to be asked again.

The machine owns the rule: each due time is decided on once, in order, and is then started, queued, skipped or missed.
Its owner owns the clock, the record and the executions: it writes what :func:`decide` answers (the new state, the
starts and the cancels) in one transaction, on condition that the state is still the one that it asked with. So it
may die at any moment, and two owners may ask at once: a due time starts its execution exactly once.

Moments are seconds since the epoch.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field, replace

from rayflow.core.schedules.due_times import check_name, due_after, due_between, due_id, each_due, start_moment
from rayflow.definition.schedule import Schedule
from rayflow.errors import DefinitionError

#: Starts in one decision at most: they are one transaction.
MAX_STARTS = 100

#: Due times that one decision passes at most. After a long downtime it takes several decisions to get over it.
MAX_PASSED = 1000

#: The options of a schedule that say when it comes due, but for its end.
_TIMING = ("cron", "every", "timezone", "start_at")


@dataclass(frozen=True, slots=True)
class ScheduleState:
    """What is stored beside the spec of a schedule.

    Args:
        next_due: the first due time that was not decided on; None if there is none any more.
        runs: due times that started an execution.
        missed: due times that were not started since they were more than ``catch_up`` late.
        skipped: due times that were not started since another execution ran, or the schedule was paused.
        paused: whether nothing is started.
        queued_due: the due time that waits for the running execution's end, under ``"queue_one"``.
        running: ids of the executions that were started and are not known to have ended, oldest first.
        last_due: the newest due time that was decided on.
        last_execution: id of the newest execution.
        anchor: a due time from which those of an interval without ``start_at`` are counted.
        resumed_at: due times whose start came by then passed while it was paused.
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
    """An execution to start, and the due time that it is for."""

    execution_id: str
    due: float


@dataclass(frozen=True, slots=True)
class Decision:
    """What a schedule does now.

    Args:
        starts: executions to start, in the order of their due times.
        cancels: executions to cancel.
        state: the state from now on.
        wake: when to decide again; None for not before an execution ends or a person changes something. It is
            ``now`` itself where there was too much for one decision.
    """

    starts: tuple[DueStart, ...]
    cancels: tuple[str, ...]
    state: ScheduleState
    wake: float | None


def begin(spec: Schedule, now: float) -> ScheduleState:
    """The state of a new schedule. Due times up to now are not its own: they can be backfilled.

    Example:
        >>> begin(Schedule(every=60), 1000.0).next_due
        1060.0
    """
    return _aimed(spec, ScheduleState(), now)


def changed(old: Schedule, new: Schedule, state: ScheduleState, now: float) -> ScheduleState:
    """The state after a person replaced the spec.

    Where the due times stay the same, those that wait to be decided on are kept. Otherwise it goes on with the first
    one later than now, and than all that were decided on. A queued one is skipped if the new spec queues none.

    Args:
        old: the spec until now.
        new: the spec from now on.
        state: the state until now.
        now: the moment.
    """
    if new.overlap != "queue_one":
        state = _unqueued(state)
    if any(getattr(old, name) != getattr(new, name) for name in _TIMING):
        return _aimed(new, replace(state, anchor=None), now)
    if state.next_due is None:
        return _aimed(new, state, now)
    over = new.end_at is not None and state.next_due > new.end_at
    return replace(state, next_due=None) if over else state


def paused(state: ScheduleState) -> ScheduleState:
    """The state once a person paused the schedule: what has not started by now is skipped."""
    return replace(_unqueued(state), paused=True)


def resumed(state: ScheduleState, now: float) -> ScheduleState:
    """The state once a person let the schedule go on: due times that passed meanwhile will be skipped.

    Args:
        state: the state until now.
        now: the moment from which it goes on.
    """
    if not state.paused:
        return state
    return replace(state, paused=False, resumed_at=max(now, state.resumed_at or 0.0))


def started(state: ScheduleState, execution_id: str) -> ScheduleState:
    """The state after an execution was started by hand: it counts as running, and not as a run."""
    if execution_id in state.running:
        return state
    return replace(state, running=(*state.running, execution_id), last_execution=execution_id)


def ended(state: ScheduleState, ids: Collection[str]) -> ScheduleState:
    """The state without executions that have ended."""
    return replace(state, running=tuple(running for running in state.running if running not in ids))


def manual_id(name: str, key: str) -> str:
    """The id of an execution that is started by hand; no due time has such a one.

    Args:
        name: the schedule's.
        key: what makes it unique; the same key is the same execution.

    Raises:
        DefinitionError: the name or the key does not fit.

    Example:
        >>> manual_id("nightly", "7f3a")
        'nightly@manual-7f3a'
    """
    if not key or len(key) > 30 or not key.isalnum() or not key.isascii():
        raise DefinitionError(f"the key of a manual start needs 1 to 30 letters and digits, not {key!r}")
    return f"{check_name(name)}@manual-{key}"


def backfill(
    name: str, spec: Schedule, state: ScheduleState, now: float, *, start: float, end: float, limit: int = 1000
) -> tuple[DueStart, ...]:
    """The executions of a range of due times. Those that exist already are the same, and are not started again.

    Only due times that have come and that :func:`decide` has done with are answered. They count as no runs, and
    neither pause nor ``max_runs`` hold them back.

    Args:
        name: the schedule's.
        spec: the schedule.
        state: its state.
        now: the moment.
        start: the range's beginning, which belongs to it.
        end: its end, which does not.
        limit: due times at most.

    Raises:
        DefinitionError: the range ends before it begins, or holds more due times than that.
    """
    if end < start:
        raise DefinitionError(f"the range to backfill ends ({end!r}) before it begins ({start!r})")
    stop = min(end, math.nextafter(now, math.inf), math.inf if state.next_due is None else state.next_due)
    dues = list(due_between(spec, start, stop, limit=limit + 1, anchor=state.anchor))
    if len(dues) > limit:
        raise DefinitionError(
            f"the range to backfill holds more than {limit} due times of schedule {name!r}: give a shorter one, at "
            f"first up to {dues[limit]!r}"
        )
    return tuple(DueStart(due_id(name, due), due) for due in dues if due != state.queued_due)


def decide(name: str, spec: Schedule, state: ScheduleState, now: float, *, most: int | None = None) -> Decision:
    """What the schedule does now.

    A due time is looked at when its start comes (the due time itself, or later by ``jitter``), and none before all
    earlier ones were. It never goes back, whatever the clock does.

    Args:
        name: the schedule's.
        spec: the schedule.
        state: its state, ``running`` reduced to what has not ended (see :func:`ended`).
        now: the moment.
        most: how many may start now, since its executions exclude each other, or others exclude them; None for any.
            What may not start is no run: it is queued or skipped, as the overlap policy has it.

    Raises:
        DefinitionError: no schedule can be called that.

    Example:
        >>> spec = Schedule(every=60)
        >>> [start.execution_id for start in decide("beat", spec, begin(spec, 0.0), 61.0).starts]
        ['beat@19700101T000100Z']
    """
    check_name(name)
    if state.paused:
        return Decision((), (), state, None)
    draft = _Draft(name, spec, state, now, most)
    draft.release()
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
    """A decision while it is made."""

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
    def spent(self) -> bool:
        """Whether no further due time may start; the one that waits will."""
        allowed = self.spec.max_runs
        return allowed is not None and self.runs + (self.queued is not None) >= allowed

    @property
    def busy(self) -> bool:
        return bool(self.state.running or self.starts)

    @property
    def full(self) -> bool:
        """Whether no more may start now, whatever runs."""
        return self.most is not None and len(self.starts) >= self.most

    def release(self) -> None:
        """Start the one that waits, if nothing runs any more."""
        if self.queued is not None and not self.state.running and not self.full:
            self._start(self.queued)
            self.queued = None

    def take(self, due: float, moment: float) -> None:
        """Decide on one due time, whose start has come."""
        self.last_due = due
        if self.state.resumed_at is not None and moment <= self.state.resumed_at:
            self.skipped += 1
        elif self.now - (due + self.spec.jitter) > self.spec.catch_up:
            # Not counted from its own start: an earlier one with more jitter may have held it up, so long at most.
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
        if self.starts:  # in this decision: not begun yet, so there is nothing to cancel
            self.starts.pop()
            self.skipped += 1
        else:
            self.cancels = self.state.running
        self._start(due)


def _walk(draft: _Draft) -> tuple[float | None, float | None]:
    """Take the due times whose start has come. Answers the next one, and when it wants to be looked at."""
    for passed, due in enumerate(_waiting(draft.spec, draft.state)):
        if draft.spent:
            break
        moment = start_moment(draft.name, draft.spec, due)
        if moment > draft.now:
            return due, moment
        if passed >= MAX_PASSED or len(draft.starts) >= MAX_STARTS:
            return due, draft.now
        draft.take(due, moment)
    return None, None


def _waiting(spec: Schedule, state: ScheduleState) -> Iterable[float]:
    if state.next_due is None:
        return ()
    return itertools.chain((state.next_due,), each_due(spec, state.next_due, state.anchor))


def _aimed(spec: Schedule, state: ScheduleState, now: float) -> ScheduleState:
    """The state with the first due time later than now and than all that were decided on."""
    after = now if state.last_due is None else max(now, state.last_due)
    due = due_after(spec, after, state.anchor)
    anchor = due if state.anchor is None else state.anchor
    return replace(state, next_due=due, anchor=anchor if spec.every is not None and spec.start_at is None else None)


def _unqueued(state: ScheduleState) -> ScheduleState:
    if state.queued_due is None:
        return state
    return replace(state, queued_due=None, skipped=state.skipped + 1)
