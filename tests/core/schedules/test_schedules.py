"""What a schedule does at a moment: policies, downtime, jitter, pause, limits, changes, backfill."""

from __future__ import annotations

import pickle
from dataclasses import replace
from typing import Any

import pytest

import rayflow as rf
from rayflow.core.schedules import machine
from rayflow.core.schedules.due_times import due_id, start_moment
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


def ids(*dues: float) -> tuple[str, ...]:
    return tuple(due_id(NAME, due) for due in dues)


def dues(decision: Decision) -> list[float]:
    assert [start.execution_id for start in decision.starts] == list(ids(*(start.due for start in decision.starts)))
    return [start.due for start in decision.starts]


def minutely(**options: Any) -> tuple[Schedule, ScheduleState]:
    """A schedule that is due at 60, 120, 180 and so on."""
    spec = Schedule(every=60, **options)
    return spec, begin(spec, 0.0)


# --- the plain case -----------------------------------------------------------------------------------------
def test_nothing_happens_before_the_due_time() -> None:
    spec, state = minutely()
    assert decide(NAME, spec, state, 59.999) == Decision((), (), state, 60.0)


def test_a_due_time_starts_one_execution_and_the_next_is_awaited() -> None:
    spec, state = minutely()
    decision = decide(NAME, spec, state, 61.0)
    assert decision.starts == (DueStart("beat@19700101T000100Z", 60.0),)
    assert decision.cancels == ()
    assert decision.wake == 120.0
    assert decision.state == ScheduleState(
        next_due=120.0, runs=1, running=ids(60), last_due=60.0, last_execution=ids(60)[0], anchor=60.0
    )
    again = decide(NAME, spec, decision.state, 61.0)
    assert again == Decision((), (), decision.state, 120.0)


def test_the_same_question_has_the_same_answer() -> None:
    spec, state = minutely(overlap="allow", jitter=20)
    read_spec, read_state = pickle.loads(pickle.dumps((spec, state)))
    assert decide(NAME, spec, state, 1000.0) == decide(NAME, read_spec, read_state, 1000.0)


def test_a_clock_that_goes_back_starts_nothing_twice() -> None:
    spec, state = minutely(overlap="allow")
    state = decide(NAME, spec, state, 185.0).state
    assert decide(NAME, spec, state, 10.0) == Decision((), (), state, 240.0)
    assert dues(decide(NAME, spec, state, 240.0)) == [240.0]


def test_a_name_that_does_not_fit_is_refused_before_anything_is_due() -> None:
    spec, state = minutely()
    with pytest.raises(rf.InvalidArgument, match="no @"):
        decide("a@b", spec, state, 0.0)


# --- while the previous one runs ----------------------------------------------------------------------------
def test_skip_skips_while_one_runs() -> None:
    spec, state = minutely(overlap="skip")
    state = decide(NAME, spec, state, 60.0).state
    decision = decide(NAME, spec, state, 130.0)
    assert (dues(decision), decision.state.skipped, decision.state.last_due, decision.wake) == ([], 1, 120.0, 180.0)
    decision = decide(NAME, spec, ended(decision.state, ids(60)), 180.0)
    assert (dues(decision), decision.state.runs) == ([180.0], 2)


def test_queue_one_keeps_one_waiting_and_starts_it_at_the_end() -> None:
    spec, state = minutely(overlap="queue_one")
    state = decide(NAME, spec, state, 60.0).state
    decision = decide(NAME, spec, state, 200.0)
    assert dues(decision) == []
    assert (decision.state.queued_due, decision.state.skipped, decision.wake) == (120.0, 1, 240.0)
    decision = decide(NAME, spec, ended(decision.state, ids(60)), 210.0)
    assert dues(decision) == [120.0]
    assert (decision.state.queued_due, decision.state.runs, decision.state.running) == (None, 2, ids(120))


def test_what_waited_goes_first_and_the_next_waits_behind_it() -> None:
    spec, state = minutely(overlap="queue_one")
    state = decide(NAME, spec, state, 125.0).state
    assert (state.running, state.queued_due) == (ids(60), 120.0)
    decision = decide(NAME, spec, ended(state, ids(60)), 185.0)
    assert (dues(decision), decision.state.queued_due, decision.state.skipped) == ([120.0], 180.0, 0)


def test_allow_starts_beside_what_runs() -> None:
    spec, state = minutely(overlap="allow")
    decision = decide(NAME, spec, decide(NAME, spec, state, 60.0).state, 120.0)
    assert (dues(decision), decision.state.running, decision.cancels) == ([120.0], ids(60, 120), ())


def test_cancel_running_cancels_all_that_runs_and_starts() -> None:
    spec, state = minutely(overlap="cancel_running")
    state = started(decide(NAME, spec, state, 60.0).state, manual_id(NAME, "x"))
    decision = decide(NAME, spec, state, 120.0)
    assert (dues(decision), decision.cancels) == ([120.0], (*ids(60), "beat@manual-x"))
    assert decision.state.running == (*ids(60), "beat@manual-x", *ids(120)), "a cancelled one has not ended yet"


@pytest.mark.parametrize(
    ("overlap", "queued", "skipped"),
    [("skip", None, 1), ("allow", None, 1), ("queue_one", 60.0, 0), ("cancel_running", None, 1)],
)
def test_what_may_not_start_is_no_run(overlap: Overlap, queued: float | None, skipped: int) -> None:
    spec, state = minutely(overlap=overlap, max_runs=1)
    decision = decide(NAME, spec, state, 60.0, most=0)
    assert (dues(decision), decision.cancels, decision.state.runs, decision.state.running) == ([], (), 0, ())
    assert (decision.state.queued_due, decision.state.skipped) == (queued, skipped)
    assert decide(NAME, spec, decision.state, 100.0, most=0).state == decision.state
    later = decide(NAME, spec, decision.state, 120.0)
    assert (dues(later), later.state.runs) == ([queued or 120.0], 1)


def test_of_those_that_exclude_each_other_the_first_starts() -> None:
    spec, state = minutely(overlap="allow")
    decision = decide(NAME, spec, state, 130.0, most=1)
    assert (dues(decision), decision.state.skipped) == ([60.0], 1)


def test_none_is_cancelled_for_one_that_may_not_start() -> None:
    spec, state = minutely(overlap="cancel_running")
    state = decide(NAME, spec, state, 60.0).state
    decision = decide(NAME, spec, state, 120.0, most=0)
    assert (dues(decision), decision.cancels, decision.state.skipped) == ([], (), 1)


# --- downtime -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("overlap", "running", "begun", "other"),  # the others: queued, cancelled, skipped
    [
        ("allow", (), [180.0, 240.0, 300.0], (None, (), 0)),
        ("skip", (), [180.0], (None, (), 2)),
        ("skip", ids(1), [], (None, (), 3)),
        ("queue_one", (), [180.0], (240.0, (), 1)),
        ("queue_one", ids(1), [], (180.0, (), 2)),
        ("cancel_running", (), [300.0], (None, (), 2)),
        ("cancel_running", ids(1), [300.0], (None, ids(1), 2)),
    ],
)
def test_after_downtime_due_times_within_catch_up_follow_the_policy(
    overlap: str, running: tuple[str, ...], begun: list[float], other: tuple[float | None, tuple[str, ...], int]
) -> None:
    spec, state = minutely(overlap=overlap, catch_up=150)
    decision = decide(NAME, spec, replace(state, running=running), 330.0)
    assert dues(decision) == begun
    assert (decision.state.queued_due, decision.cancels, decision.state.skipped) == other
    assert (decision.state.missed, decision.state.runs, decision.wake) == (2, len(begun), 360.0)


def test_what_is_as_late_as_catch_up_still_starts() -> None:
    spec, state = minutely(overlap="allow", catch_up=30)
    assert dues(decide(NAME, spec, state, 90.0)) == [60.0]
    assert decide(NAME, spec, state, 90.001).state.missed == 1


def test_more_than_one_decision_holds_is_asked_for_again_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "MAX_STARTS", 2)
    spec, state = minutely(overlap="allow")
    seen = []
    for begun, wake in [([60.0, 120.0], 310.0), ([180.0, 240.0], 310.0), ([300.0], 360.0)]:
        decision = decide(NAME, spec, state, 310.0)
        assert (dues(decision), decision.wake) == (begun, wake)
        state = decision.state
        seen.extend(begun)
    assert (state.runs, state.running) == (5, ids(*seen))


def test_a_long_downtime_is_counted_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "MAX_PASSED", 3)
    spec, state = minutely(catch_up=30)
    counts = []
    wake: float | None = 485.0
    while wake == 485.0:
        decision = decide(NAME, spec, state, 485.0)
        state, wake = decision.state, decision.wake
        counts.append((state.missed, state.runs, state.next_due))
    assert counts == [(3, 0, 240.0), (6, 0, 420.0), (7, 1, 540.0)]
    assert wake == 540.0


# --- jitter -------------------------------------------------------------------------------------------------
def test_jitter_delays_the_start_and_keeps_the_order() -> None:
    spec, state = minutely(overlap="allow", jitter=600, catch_up=30)
    moments = {due: start_moment(NAME, spec, due) for due in map(float, range(60, 6060, 60))}
    overtaken = [due for due in moments if due + 60 in moments and moments[due + 60] < moments[due] - 60]
    assert overtaken, "with so much jitter some would start before their predecessors"
    begun: list[float] = []
    while state.next_due is not None and state.next_due < 6000:
        early = decide(NAME, spec, state, moments[state.next_due] - 0.001)
        assert (early.starts, early.wake) == ((), moments[state.next_due])
        decision = decide(NAME, spec, state, moments[state.next_due])
        begun += dues(decision)
        state = decision.state
    assert begun == sorted(begun)
    assert begun[:99] == [float(due) for due in range(60, 6000, 60)], "what a predecessor held up is not missed"
    assert (state.missed, state.skipped) == (0, 0)


def test_lateness_is_counted_behind_the_jitter() -> None:
    spec, state = minutely(jitter=10, catch_up=30)
    assert dues(decide(NAME, spec, state, 100.0)) == [60.0]
    assert decide(NAME, spec, state, 100.001).state.missed == 1


# --- pause --------------------------------------------------------------------------------------------------
def test_what_passes_while_paused_is_skipped_and_resume_goes_on_from_then() -> None:
    spec, state = minutely(overlap="allow", catch_up=30)
    state = paused(decide(NAME, spec, state, 60.0).state)
    assert decide(NAME, spec, state, 200.0) == Decision((), (), state, None)
    state = resumed(state, 310.0)
    decision = decide(NAME, spec, state, 310.0)
    assert (dues(decision), decision.state.skipped, decision.state.missed, decision.wake) == ([], 4, 0, 360.0)
    assert dues(decide(NAME, spec, decision.state, 361.0)) == [360.0]


def test_a_second_resume_changes_nothing() -> None:
    spec, state = minutely()
    assert resumed(state, 500.0) is state
    state = resumed(paused(resumed(paused(state), 130.0)), 100.0)  # the clock went back
    decision = decide(NAME, spec, state, 185.0)
    assert (dues(decision), decision.state.skipped) == ([180.0], 2)


def test_pause_drops_what_waits() -> None:
    spec, state = minutely(overlap="queue_one")
    state = paused(decide(NAME, spec, state, 120.0).state)
    assert (state.queued_due, state.skipped) == (None, 1)
    assert paused(state) == state
    decision = decide(NAME, spec, ended(resumed(state, 130.0), ids(60)), 130.0)
    assert (dues(decision), decision.wake) == ([], 180.0)


# --- limits -------------------------------------------------------------------------------------------------
def test_max_runs_counts_starts_and_then_it_is_over() -> None:
    spec, state = minutely(overlap="allow", max_runs=2)
    decision = decide(NAME, spec, state, 310.0)
    assert (dues(decision), decision.state.runs, decision.state.next_due, decision.wake) == (
        [60.0, 120.0],
        2,
        None,
        None,
    )
    assert decide(NAME, spec, decision.state, 400.0) == Decision((), (), decision.state, None)


def test_what_waits_has_its_run_kept_for_it() -> None:
    spec, state = minutely(overlap="queue_one", max_runs=2)
    decision = decide(NAME, spec, state, 310.0)
    assert (dues(decision), decision.state.queued_due, decision.state.next_due) == ([60.0], 120.0, None)
    decision = decide(NAME, spec, ended(decision.state, ids(60)), 320.0)
    assert (dues(decision), decision.state.runs, decision.state.skipped) == ([120.0], 2, 0)


def test_what_was_skipped_or_missed_is_no_run() -> None:
    spec, state = minutely(overlap="skip", max_runs=2, catch_up=100)
    state = decide(NAME, spec, state, 250.0).state
    assert (state.runs, state.missed, state.skipped, state.next_due) == (1, 2, 1, 300.0)


def test_nothing_is_due_after_the_end() -> None:
    spec, state = minutely(overlap="allow", end_at=120)
    decision = decide(NAME, spec, state, 310.0)
    assert (dues(decision), decision.state.next_due, decision.wake) == ([60.0, 120.0], None, None)


# --- begin and change ---------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("spec", "next_due", "anchor"),
    [
        (Schedule(every=60), 1060.0, 1060.0),
        (Schedule(every=60, start_at=990), 1050.0, None),
        (Schedule(every=60, start_at=5000), 5000.0, None),
        (Schedule(cron="* * * * *"), 1020.0, None),
        (Schedule(cron="* * * * *", end_at=1010), None, None),
    ],
)
def test_a_new_schedule_looks_forward(spec: Schedule, next_due: float | None, anchor: float | None) -> None:
    assert begin(spec, 1000.0) == ScheduleState(next_due=next_due, anchor=anchor)


def test_a_change_that_keeps_the_due_times_loses_none() -> None:
    old, state = minutely(overlap="queue_one")
    new = old.replace(jitter=5, overlap="allow")
    state = changed(old, new, decide(NAME, old, state, 130.0).state, 200.0)
    assert (state.next_due, state.queued_due, state.skipped) == (180.0, None, 1)
    assert dues(decide(NAME, new, state, 250.0)) == [180.0, 240.0]


def test_a_change_that_still_queues_keeps_what_waits() -> None:
    old, state = minutely(overlap="queue_one")
    state = decide(NAME, old, state, 130.0).state
    assert changed(old, old.replace(max_runs=9), state, 140.0) == state


def test_a_change_of_the_due_times_goes_on_behind_now_and_behind_what_was_decided() -> None:
    old, state = minutely()
    state = decide(NAME, old, state, 120.0).state
    new = Schedule(cron="* * * * * *")
    assert changed(old, new, state, 200.0) == replace(state, next_due=201.0, anchor=None)
    assert changed(old, new, state, 50.0).next_due == 121.0, "the clock went back"
    slower = Schedule(every=100)
    assert changed(old, slower, state, 200.0) == replace(state, next_due=300.0, anchor=300.0)


def test_a_change_of_the_end_ends_it_or_lets_it_go_on() -> None:
    old, state = minutely(max_runs=1)
    shorter = changed(old, old.replace(end_at=59), state, 10.0)
    assert shorter.next_due is None
    assert changed(old, old.replace(end_at=60), state, 10.0) == state
    over = decide(NAME, old, state, 60.0).state
    assert over.next_due is None
    more = changed(old, old.replace(max_runs=2), over, 190.0)
    assert (more.next_due, more.anchor) == (240.0, 60.0), "still whole minutes"


# --- by hand ------------------------------------------------------------------------------------------------
def test_a_manual_start_runs_like_the_others_and_is_no_run() -> None:
    spec, state = minutely(overlap="skip")
    state = started(state, manual_id(NAME, "7f3a"))
    assert started(state, manual_id(NAME, "7f3a")) is state
    assert (state.running, state.last_execution, state.runs) == (("beat@manual-7f3a",), "beat@manual-7f3a", 0)
    assert decide(NAME, spec, state, 60.0).state.skipped == 1


@pytest.mark.parametrize("key", ["", "a@b", "k" * 31, "é"])
def test_the_key_of_a_manual_start_is_letters_and_digits(key: str) -> None:
    with pytest.raises(rf.InvalidArgument, match="must be 1 to 30 letters and digits"):
        manual_id(NAME, key)


def test_ended_leaves_what_still_runs_in_order() -> None:
    state = ScheduleState(running=("a", "b", "c"))
    assert ended(state, {"b", "x"}).running == ("a", "c")


# --- backfill -----------------------------------------------------------------------------------------------
def test_backfill_answers_due_times_before_the_schedule_was_made() -> None:
    spec = Schedule(every=60)
    found = backfill(NAME, spec, begin(spec, 600.0), 600.0, start=0.0, end=180.0)
    assert found == tuple(DueStart(*pair) for pair in zip(ids(0, 60, 120), (0.0, 60.0, 120.0), strict=True))


def test_backfill_leaves_to_decide_what_is_its_own() -> None:
    spec, state = minutely(overlap="queue_one")
    state = decide(NAME, spec, state, 200.0).state
    assert (state.queued_due, state.next_due) == (120.0, 240.0)
    assert [start.due for start in backfill(NAME, spec, state, 400.0, start=60, end=1000)] == [60.0, 180.0]


def test_backfill_starts_nothing_that_has_not_come() -> None:
    spec, state = minutely(max_runs=1, overlap="allow")
    state = decide(NAME, spec, state, 60.0).state
    assert state.next_due is None
    assert [start.due for start in backfill(NAME, spec, state, 180.0, start=120, end=1000)] == [120.0, 180.0]


def test_backfill_refuses_a_wrong_range() -> None:
    spec, state = minutely()
    with pytest.raises(rf.InvalidArgument, match=r"ends \(1\.0\) before it starts \(2\.0\)"):
        backfill(NAME, spec, state, 10.0, start=2.0, end=1.0)
    late = replace(state, next_due=6000.0)
    assert len(backfill(NAME, spec, late, 6000.0, start=60, end=240, limit=3)) == 3
    with pytest.raises(rf.InvalidArgument, match=r"more than 3 due times of schedule 'beat'.* may end at 240\.0"):
        backfill(NAME, spec, late, 6000.0, start=60, end=241, limit=3)
