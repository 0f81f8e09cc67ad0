"""Who is to be recovered, and how."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from rayflow.core.cluster.recovery import (
    MAX_TAKEOVERS,
    TAKEOVERS_BEFORE_ISOLATION,
    FailoverAction,
    FailoverCounter,
    HeartbeatTracker,
    OverdueItem,
    overdue,
    stale,
)

NOW = 1_000.0


@dataclass(frozen=True)
class Row:
    """As much of an execution's row as the recovery looks at."""

    id: str
    owner: str = ""
    coordinator: str = ""
    runnable_at: float | None = None
    updated_at: float = 0.0
    deadline: float | None = None


def owned(id: str, *, updated_at: float = 0.0, deadline: float | None = None) -> Row:
    return Row(id, "nonce", "coordinator", None, updated_at, deadline)


# --- takeovers --------------------------------------------------------------------------------------------
def test_one_that_does_not_get_further_runs_alone_and_is_then_set_aside() -> None:
    takeovers = FailoverCounter()
    how = [takeovers.record_loss("a", 7) for _ in range(MAX_TAKEOVERS + 1)]
    before = TAKEOVERS_BEFORE_ISOLATION - 1
    assert how[:before] == [FailoverAction.SHARED] * before
    assert how[before:-1] == [FailoverAction.EXCLUSIVE] * (MAX_TAKEOVERS - before)
    assert how[-1] is FailoverAction.QUARANTINE
    assert takeovers.counts() == {"a": MAX_TAKEOVERS + 1}


def test_one_that_gets_further_begins_anew() -> None:
    takeovers = FailoverCounter()
    for seq in range(3 * MAX_TAKEOVERS):
        assert takeovers.record_loss("a", seq) is FailoverAction.SHARED
        assert not takeovers.suspected("a")
    assert takeovers.times("a") == 1


def test_each_is_counted_for_itself_and_forgotten_when_it_is_given_up() -> None:
    takeovers = FailoverCounter()
    for _ in range(TAKEOVERS_BEFORE_ISOLATION):
        takeovers.record_loss("a", 7)
    takeovers.record_loss("b", 7)
    assert (takeovers.suspected("a"), takeovers.suspected("b"), takeovers.suspected("c")) == (True, False, False)
    takeovers.forget("a")
    takeovers.forget("a")
    assert takeovers.counts() == {"b": 1}


def test_progress_is_what_was_recorded_since_the_coordinator_died() -> None:
    takeovers = FailoverCounter()
    assert takeovers.has_progressed("a", 0)
    takeovers.record_loss("a", 7)
    assert not takeovers.has_progressed("a", 7)
    assert takeovers.has_progressed("a", 8)


# --- signs of life ----------------------------------------------------------------------------------------
def test_who_answers_in_time_is_never_silent() -> None:
    pulse = HeartbeatTracker(4.0)
    for now in range(100):
        assert pulse.ask("a", now)
        assert not pulse.silent(now + 4.0)
        pulse.answered("a")


def test_who_does_not_answer_is_asked_once_and_is_silent_once_the_patience_is_over() -> None:
    pulse = HeartbeatTracker(4.0)
    assert [pulse.ask("a", float(now)) for now in range(4)] == [True, False, False, False]
    assert pulse.silent(4.0) == {}
    assert pulse.silent(4.5) == {"a": 4.5}
    pulse.answered("a")
    assert pulse.silent(100.0) == {}
    assert pulse.ask("a", 100.0)


def test_an_error_that_is_no_sign_of_life_is_asked_again_and_the_silence_goes_on() -> None:
    pulse = HeartbeatTracker(4.0)
    for now in range(5):
        assert pulse.ask("a", float(now))
        pulse.answered("a", alive=False)
    assert pulse.silent(4.5) == {"a": 4.5}


def test_who_is_forgotten_is_nobody_and_late_answers_of_it_change_nothing() -> None:
    pulse = HeartbeatTracker(4.0)
    pulse.ask("a", 0.0)
    pulse.ask("b", 1.0)
    pulse.forget("a")
    pulse.answered("a")
    assert pulse.silent(9.0) == {"b": 8.0}


def test_time_in_which_nobody_listened_counts_against_nobody() -> None:
    pulse = HeartbeatTracker(4.0)
    pulse.ask("a", 0.0)
    pulse.ask("b", 1.0)
    pulse.answered("b", alive=False)
    pulse.extend_deadlines(10.0)
    assert pulse.silent(14.0) == {}
    assert pulse.silent(14.5) == {"a": 4.5}
    assert pulse.silent(15.5) == {"a": 5.5, "b": 4.5}


# --- rows -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("row", "expected"),
    [
        pytest.param(owned("a"), True, id="its-owner-is-gone"),
        pytest.param(Row("a", runnable_at=NOW), True, id="due"),
        pytest.param(Row("a", runnable_at=NOW + 1), False, id="not-due-yet"),
        pytest.param(Row("a"), False, id="waits-for-something-from-outside"),
    ],
)
def test_what_is_stale(row: Row, *, expected: bool) -> None:
    assert stale([row], (), now=NOW) == ([row] if expected else [])
    assert stale([row], {"a"}, now=NOW) == [], "it has a coordinator, or waits for one"


def test_only_what_nothing_was_done_for_in_a_while() -> None:
    rows = [
        owned("old", updated_at=NOW - 60),
        owned("new", updated_at=NOW - 59),
        Row("due-long", runnable_at=NOW - 60),
        Row("due-now", runnable_at=NOW - 1),
        Row("touched", runnable_at=NOW - 100, updated_at=NOW - 1),
    ]
    assert [row.id for row in stale(rows, (), now=NOW, older_than=60)] == ["old", "due-long"]


def test_what_is_overdue_and_who_was_to_see_to_it() -> None:
    rows = [
        owned("driven", deadline=NOW - 10),
        owned("in-grace", deadline=NOW - 5),
        owned("in-time", deadline=NOW + 1),
        owned("any-time"),
        Row("parked", coordinator="former", runnable_at=NOW + 9, deadline=NOW - 6),
        Row("not-woken", coordinator="former", runnable_at=NOW - 7),
        Row("just-due", runnable_at=NOW - 5),
    ]
    assert overdue(rows, now=NOW, grace=5.0) == [
        OverdueItem("driven", "deadline", "", NOW - 10, 10.0, "coordinator"),
        OverdueItem("parked", "deadline", "", NOW - 6, 6.0, ""),
        OverdueItem("not-woken", "wake", "", NOW - 7, 7.0, ""),
    ]
