"""A schedule against a plain list of its due times: each is decided on once, in order, whatever happens around it."""

from __future__ import annotations

import datetime as dt
import itertools
import math
import pickle
import random
import zoneinfo
from collections.abc import Iterator

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from rayflow.core.schedules.due_times import due_id, each_due, start_moment
from rayflow.core.schedules.machine import (
    Decision,
    DueStart,
    ScheduleState,
    backfill,
    begin,
    changed,
    decide,
    ended,
    manual_id,
    paused,
    resumed,
    started,
)
from rayflow.definition.schedule import Overlap, Schedule

NAME = "beat"
DAY = 86_400


# --- a year in three time zones -----------------------------------------------------------------------------
def wall_times(zone: zoneinfo.ZoneInfo, start: float, end: float) -> Iterator[float]:
    """``*/30 0-3 * * *`` by looking at the clock every ten minutes."""
    for second in range(int(start), int(end), 600):
        wall = dt.datetime.fromtimestamp(second, zone)
        if wall.hour <= 3 and wall.minute in {0, 30}:
            yield float(second)


def fixed_times(zone: zoneinfo.ZoneInfo, start: float, end: float) -> Iterator[float]:
    """``0,30 0-3 * * *`` by naming each wall time; one that does not exist is the end of the gap."""
    named = set()
    day = dt.datetime.fromtimestamp(start, zone).date()
    while day <= dt.datetime.fromtimestamp(end, zone).date():
        for hour, minute in itertools.product(range(4), (0, 30)):
            wall = dt.datetime.combine(day, dt.time(hour, minute), zone)
            there = dt.datetime.fromtimestamp(wall.timestamp(), zone)
            if there.replace(tzinfo=None) != wall.replace(tzinfo=None):
                while dt.datetime.fromtimestamp(there.timestamp() - 60, zone).utcoffset() == there.utcoffset():
                    there = dt.datetime.fromtimestamp(there.timestamp() - 60, zone)
            named.add(there.timestamp())
        day += dt.timedelta(days=1)
    return (moment for moment in sorted(named) if start <= moment < end)


@pytest.mark.parametrize("name", ["Europe/Berlin", "America/New_York", "Australia/Lord_Howe"])
@pytest.mark.parametrize(("cron", "oracle"), [("*/30 0-3 * * *", wall_times), ("0,30 0-3 * * *", fixed_times)])
def test_in_a_year_each_due_time_starts_exactly_once(name: str, cron: str, oracle: object) -> None:
    zone = zoneinfo.ZoneInfo(name)
    start, end = (dt.datetime(year, 1, 1, 12, tzinfo=zone).timestamp() for year in (2026, 2027))
    assert callable(oracle)
    expected = list(oracle(zone, start, end))
    spec = Schedule(cron=cron, timezone=name, overlap="allow", jitter=900, catch_up=20 * DAY, end_at=end)
    rng = random.Random(f"{name} {cron}")
    state, now = begin(spec, start), start
    begun: list[DueStart] = []
    while now < end + DAY:
        now += rng.choice([rng.uniform(0, 3600), rng.uniform(0, 6 * 3600), rng.uniform(0, 40 * 3600)])
        clock = now - rng.choice([0, 0, 0, rng.uniform(0, 3600)])
        decision = decide(NAME, spec, state, clock)
        if rng.random() < 0.2:
            continue  # it died before it wrote that down
        assert all(start_moment(NAME, spec, one.due) <= clock for one in decision.starts)
        begun += decision.starts
        state = ended(pickle.loads(pickle.dumps(decision.state)), {one.execution_id for one in decision.starts})
    assert [one.due for one in begun] == expected
    assert [one.execution_id for one in begun] == [due_id(NAME, due) for due in expected]
    assert (state.runs, state.missed, state.skipped, state.next_due) == (len(expected), 0, 0, None)


# --- any policy, any weather --------------------------------------------------------------------------------
#: A Saturday evening; in Berlin the clock changes in the night that follows.
BEGIN = dt.datetime(2026, 3, 28, 20, tzinfo=dt.UTC).timestamp()

#: Timing, and about how many seconds lie between two due times.
TIMINGS = [
    (Schedule(every=0.25), 0.25),
    (Schedule(every=90.5), 90.5),
    (Schedule(every=60, start_at=BEGIN + 600), 60.0),
    (Schedule(cron="* * * * *"), 60.0),
    (Schedule(cron="*/7 0-5 * * *", timezone="Europe/Berlin"), 1680.0),
    (Schedule(cron="30 2 * * *", timezone="Europe/Berlin"), float(DAY)),
]

POLICIES: tuple[Overlap, ...] = ("skip", "queue_one", "allow", "cancel_running")


class ScheduleModel(RuleBasedStateMachine):
    """An owner that asks, forgets and dies; executions that end; a person who pauses, changes and starts by hand."""

    @initialize(
        timing=st.sampled_from(TIMINGS),
        overlap=st.sampled_from(POLICIES),
        catch_up=st.sampled_from([1, 10, 1000]),
        jitter=st.sampled_from([0, 0, 0.5, 5]),
        max_runs=st.sampled_from([None, None, 1, 5, 150]),
    )
    def make(
        self, timing: tuple[Schedule, float], overlap: Overlap, catch_up: int, jitter: float, max_runs: int | None
    ) -> None:
        spec, self.period = timing
        self.spec = spec.replace(
            overlap=overlap, catch_up=catch_up * self.period, jitter=jitter * self.period, max_runs=max_runs
        )
        self.now = BEGIN
        self.state: ScheduleState = begin(self.spec, self.now)
        self.begun: dict[str, float] = {}
        self.manual = 0
        self.coming = each_due(self.spec, self.now, self.state.anchor)
        self.dues: list[float] = []

    def dues_until(self, moment: float) -> list[float]:
        """Its due times up to a moment, from a list that only grows."""
        while not self.dues or self.dues[-1] <= moment:
            self.dues.append(next(self.coming))
        return [due for due in self.dues if due <= moment]

    # --- the weather ---
    @rule(periods=st.floats(0, 3))
    def some_time_passes(self, periods: float) -> None:
        self.now += periods * self.period
        self.ask()

    @rule(periods=st.floats(3, 150))
    def everything_is_down(self, periods: float) -> None:
        self.now += periods * self.period
        self.ask()

    @rule(periods=st.floats(0, 20))
    def the_clock_goes_back(self, periods: float) -> None:
        self.now = max(BEGIN, self.now - periods * self.period)
        self.ask()

    @rule(periods=st.floats(0, 3))
    def an_answer_is_lost(self, periods: float) -> None:
        self.now += periods * self.period
        decide(NAME, self.spec, self.state, self.now)

    @precondition(lambda self: self.state.next_due is not None)
    @rule(offset=st.sampled_from([-0.001, 0.0, 0.001]))
    def it_is_just_about_due(self, offset: float) -> None:
        assert self.state.next_due is not None
        self.now = start_moment(NAME, self.spec, self.state.next_due) + offset
        self.ask()

    @precondition(lambda self: self.state.running)
    @rule(data=st.data())
    def executions_end(self, data: st.DataObject) -> None:
        over = data.draw(st.sets(st.sampled_from(self.state.running), min_size=1, max_size=5))
        self.state = ended(self.state, over)
        assert over.isdisjoint(self.state.running)
        self.ask()

    @rule()
    def all_executions_end(self) -> None:
        self.state = ended(self.state, self.state.running)
        self.ask()
        assert self.state.queued_due is None or self.state.paused or self.state.running

    # --- the person ---
    @rule()
    def pause(self) -> None:
        self.state = paused(self.state)
        self.ask()

    @precondition(lambda self: self.state.paused)
    @rule()
    def resume(self) -> None:
        before = self.state
        self.state = resumed(self.state, self.now)
        self.ask()
        # Nothing whose start came by now is started any more.
        assert self.state.runs == before.runs

    @rule()
    def start_by_hand(self) -> None:
        self.manual += 1
        self.state = started(self.state, manual_id(NAME, str(self.manual)))

    @rule(overlap=st.sampled_from(POLICIES), max_runs=st.sampled_from([None, 3, 200]))
    def change(self, overlap: Overlap, max_runs: int | None) -> None:
        if self.state.next_due is None:  # what passed since it was over is nobody's: see the unit tests
            return
        if max_runs is not None and max_runs < self.state.runs + (self.state.queued_due is not None):
            max_runs = None
        new = self.spec.replace(overlap=overlap, max_runs=max_runs)
        self.state = changed(self.spec, new, self.state, self.now)
        self.spec = new
        self.ask()

    @rule(back=st.floats(0, 50), length=st.floats(0, 30))
    def ask_for_a_backfill(self, back: float, length: float) -> None:
        start = self.now - back * self.period
        end = start + length * self.period
        found = [one.due for one in backfill(NAME, self.spec, self.state, self.now, start=start, end=end)]
        bound = math.inf if self.state.next_due is None else self.state.next_due
        for due in self.dues_until(self.now):
            assert (due in found) == (start <= due < min(end, bound) and due != self.state.queued_due)
        assert all(due <= self.now for due in found)

    # --- what is asked and what has to be answered ---
    def ask(self) -> None:
        """Ask until there is nothing left to do now."""
        for _ in range(1000):
            before = self.state
            decision = decide(NAME, self.spec, before, self.now)
            assert decision == decide(NAME, self.spec, pickle.loads(pickle.dumps(before)), self.now)
            self.check(before, decision)
            self.state = decision.state
            self.begun.update((one.execution_id, one.due) for one in decision.starts)
            if decision.wake is None or decision.wake > self.now:
                break
        else:
            raise AssertionError(f"it wants to be asked for ever: {self.state}")
        if self.state.paused or self.state.next_due is None:
            assert decision.wake is None
        else:
            assert decision.wake == start_moment(NAME, self.spec, self.state.next_due)

    def check(self, before: ScheduleState, decision: Decision) -> None:
        after = decision.state
        starts = [one.due for one in decision.starts]
        for one in decision.starts:
            assert one.execution_id == due_id(NAME, one.due)
            assert one.execution_id not in self.begun
            # What was queued had come before the clock went back.
            assert one.due == before.queued_due or start_moment(NAME, self.spec, one.due) <= self.now
        assert starts == sorted(set(starts))
        assert after.running == (*before.running, *(one.execution_id for one in decision.starts))
        assert after.runs == before.runs + len(starts)
        assert not (starts and before.paused)
        if self.spec.overlap == "allow":
            self.check_allow(before, after, starts)
        elif self.spec.overlap == "cancel_running":
            assert len(starts) <= 1
            assert decision.cancels == (before.running if starts else ())
        else:
            assert len(starts) <= (0 if before.running else 1)
        if self.spec.overlap != "cancel_running":
            assert decision.cancels == ()

    def check_allow(self, before: ScheduleState, after: ScheduleState, starts: list[float]) -> None:
        """Each due time that was decided on now started, unless it was too late or passed during a pause."""
        since = -math.inf if before.last_due is None else before.last_due
        for due in self.dues_until(-math.inf if after.last_due is None else after.last_due):
            if due > since:
                held = after.resumed_at is not None and start_moment(NAME, self.spec, due) <= after.resumed_at
                late = self.now - (due + self.spec.jitter) > self.spec.catch_up
                assert (due in starts) == (not held and not late)

    @invariant()
    def each_due_time_was_decided_on_once(self) -> None:
        state = self.state
        decided = [] if state.last_due is None else self.dues_until(state.last_due)
        waiting = state.queued_due is not None
        assert state.runs + state.missed + state.skipped + waiting == len(decided)
        assert state.runs == len(self.begun) == len(set(self.begun.values()))
        assert set(self.begun.values()) <= set(decided)
        if state.next_due is not None:
            assert self.dues_until(state.next_due) == [*decided, state.next_due]

    @invariant()
    def limits_hold(self) -> None:
        assert self.spec.max_runs is None or self.state.runs <= self.spec.max_runs
        if self.state.queued_due is not None:
            assert self.spec.overlap == "queue_one"
            assert self.state.running
            assert due_id(NAME, self.state.queued_due) not in self.begun


TestScheduleModel = ScheduleModel.TestCase
TestScheduleModel.settings = settings(max_examples=100, stateful_step_count=30)
