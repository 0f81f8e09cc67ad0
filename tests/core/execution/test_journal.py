"""What a journal's entries mean together."""

from __future__ import annotations

import pytest

from rayflow.core.events import (
    AttemptFailed,
    CancelRequested,
    DeadlinePassed,
    Ended,
    Entry,
    Event,
    Paused,
    RequestCompleted,
    Resumed,
    Rewound,
    Started,
    StepCompleted,
    StepFailed,
    TimerFired,
    label,
)
from rayflow.core.execution.journal import (
    AttemptCount,
    applied,
    attempt_counts,
    effective,
    plan_rewind,
    rewinds_of,
    superseded,
)
from rayflow.errors import Failure, InvalidTransition
from rayflow.ids import ExecutionStatus
from tests.core.fake import failure


def done(step: int, attempt: int = 1) -> StepCompleted:
    return StepCompleted(1.0, step, f"step{step}", attempt, b"x")


def failed(step: int, issued: int, attempt: int = 1) -> StepFailed:
    return StepFailed(1.0, step, f"step{step}", attempt, failure(), issued)


def again(step: int, attempt: int, *, counts: bool = True, retry_at: float = 9.0) -> AttemptFailed:
    return AttemptFailed(1.0, step, f"step{step}", attempt, failure(), retry_at, counts)


def ended(step: int | None = None, status: ExecutionStatus = ExecutionStatus.FAILED) -> Ended:
    return Ended(1.0, status, failure=Failure("x.Y", "no", step=step))


def journal(*events: Event, issued: dict[int, int] | None = None) -> list[Entry]:
    """Entries from 1; ``issued`` says how many steps an entry issued, by its position."""
    numbers = issued or {}
    names = iter(f"step{number}" for number in range(1, 100))
    return [
        Entry(seq, event, tuple(next(names) for _ in range(numbers.get(seq, 0)))) for seq, event in enumerate(events, 1)
    ]


def cut(entries: list[Entry]) -> tuple[int, tuple[object, ...]]:
    """The last position that stays, and what is carried along."""
    plan = plan_rewind("e", entries)
    return plan.to, plan.carried


def seqs(entries: list[Entry]) -> list[int]:
    return [entry.seq for entry in entries]


# --- which entries count ---------------------------------------------------------------------------------------
def test_without_a_rewind_all_entries_count() -> None:
    entries = journal(Started(1), Paused(1), Resumed(1), done(1), ended())
    assert seqs(effective(entries)) == [1, 2, 3, 4, 5]
    assert seqs(applied(entries)) == [1, 4]
    assert superseded(entries) == set()


def test_a_rewind_supersedes_what_came_after_its_position() -> None:
    entries = journal(Started(1), done(1), failed(2, 2), ended(2), Rewound(1, to=2), done(2), done(3))
    assert seqs(effective(entries)) == [1, 2, 6, 7]
    assert seqs(applied(entries)) == [1, 2, 6, 7]
    assert superseded(entries) == {3, 4}


def test_rewinds_of_rewinds() -> None:
    entries = journal(
        Started(1), done(1), ended(), Rewound(1, to=2), done(2), ended(), Rewound(1, to=1), done(1), Rewound(1, to=0)
    )
    assert seqs(effective(entries[:7])) == [1]
    assert seqs(effective(entries[:8])) == [1, 8]
    assert effective(entries) == []
    assert superseded(entries) == {1, 2, 3, 5, 6, 8}


def test_attempts_and_pauses_are_not_seen_by_the_code() -> None:
    entries = journal(
        Started(1), again(1, 1), Paused(1), Resumed(1), TimerFired(1, 1), failed(1, 1), DeadlinePassed(1), ended()
    )
    assert seqs(applied(entries)) == [1, 5, 6, 7]


# --- rewinding -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "entries",
    [
        [],
        journal(Started(1), done(1)),
        journal(Started(1), ended(status=ExecutionStatus.COMPLETED)),
        journal(Started(1), ended(status=ExecutionStatus.CANCELLED)),
        journal(Started(1), done(1), ended(), Rewound(1, to=1)),
    ],
)
def test_only_what_failed_can_be_rewound(entries: list[Entry]) -> None:
    with pytest.raises(InvalidTransition, match="cannot rewind execution 'e': it is not failed"):
        plan_rewind("e", entries)


def test_a_failed_step_is_rewound_to_before_its_failure() -> None:
    entries = journal(Started(1), done(1), again(2, 1), failed(2, 2, attempt=2), ended(2), issued={1: 1, 2: 1})
    assert cut(entries) == (3, ())


def test_later_results_of_steps_issued_before_the_failure_are_carried() -> None:
    entries = journal(
        Started(1),
        failed(2, 3),
        done(3),
        done(4),  # issued by what handled the failure
        done(1),
        ended(2),
        issued={1: 3, 2: 1},
    )
    assert cut(entries) == (1, (done(3), done(1)))


def test_the_newest_failure_of_the_step_counts() -> None:
    entries = journal(
        Started(1),
        failed(1, 1),
        ended(1),
        Rewound(1, to=1),
        again(1, 2),
        failed(1, 1, attempt=3),
        ended(1),
        issued={1: 1},
    )
    assert cut(entries) == (5, ())


def test_a_failure_of_the_code_is_rewound_to_before_the_event_that_led_to_it() -> None:
    entries = journal(Started(1), done(1), Paused(1), Resumed(1), done(2), ended(), issued={1: 2})
    assert cut(entries) == (4, (done(2),))


def test_a_failure_at_once_is_rewound_to_the_very_beginning() -> None:
    assert cut(journal(Started(1), ended())) == (0, ())
    assert cut(journal(Started(1), Ended(1, ExecutionStatus.FAILED))) == (0, ())


def test_a_passed_deadline_is_rewound_with_all_that_it_led_to() -> None:
    entries = journal(Started(1), done(1), DeadlinePassed(1), done(2), done(4), ended(), issued={1: 2, 3: 2})
    assert cut(entries) == (2, (done(2),))


def test_a_cause_that_is_not_in_the_journal_is_the_codes_own_failure() -> None:
    # A recorded result that could not be read: the step has no failure in the journal.
    entries = journal(Started(1), done(1), ended(1), issued={1: 1})
    assert cut(entries) == (1, (done(1),))


# --- children --------------------------------------------------------------------------------------------------
def calls(*labels: str) -> tuple[str, ...]:
    return tuple(label("child", name) if name.startswith("c") else name for name in labels)


def told(step: int, failure: Failure | None = None) -> RequestCompleted:
    return RequestCompleted(1.0, step, label("child", f"c{step}"), result=None if failure else b"x", failure=failure)


def test_children_are_open_that_are_neither_answered_nor_given_up_by_then() -> None:
    entries = [
        Entry(1, Started(1), calls("s1", "c2", "c3", "c4", "c5")),
        Entry(2, told(2), calls("s6"), dropped=(3,)),
        Entry(3, failed(1, 6), calls("c7"), dropped=(4,)),
        Entry(4, told(5)),
        Entry(5, ended(1)),
    ]
    plan = plan_rewind("e", entries)
    assert (plan.to, plan.failed, plan.calls, plan.children) == (2, 1, (0,) * 6, (4,))
    assert plan.carried == (told(5),)


def test_the_call_of_a_child_that_failed_is_the_cause() -> None:
    cause = Failure("rayflow.errors.ChildFailed", "no", step=1)
    entries = [
        Entry(1, Started(1), calls("c1", "c2")),
        Entry(2, told(1, cause), dropped=(2,)),
        Entry(3, Ended(1.0, ExecutionStatus.FAILED, failure=cause)),
    ]
    plan = plan_rewind("e", entries)
    assert (plan.to, plan.failed, plan.children) == (1, 1, (1, 2))


def test_calls_after_a_rewind_are_told_from_those_before() -> None:
    entries = [
        Entry(1, Started(1), calls("s1", "c2")),
        Entry(2, failed(1, 2), calls("c3")),
        Entry(3, ended(1)),
        Entry(4, Rewound(1, to=1)),
        Entry(5, done(1), calls("c3")),
    ]
    assert rewinds_of(entries[:3]) == ((), 0)
    assert rewinds_of(entries[:4]) == ([0, 0], 1)
    assert rewinds_of(entries) == ([0, 0, 1], 1)


@pytest.mark.parametrize("status", [ExecutionStatus.CANCELLED, ExecutionStatus.FAILED])
def test_what_its_parent_gave_up_goes_on_from_before_that(status: ExecutionStatus) -> None:
    entries = journal(
        Started(1),
        done(1),
        CancelRequested(1, by="p"),
        done(2),
        done(3),  # its clean-up
        CancelRequested(1, by="p"),
        Ended(1, status, cancelled_by_parent=True),
        issued={1: 2, 3: 1},
    )
    plan = plan_rewind("e", entries, cancelled_by_parent=True)
    assert (plan.to, plan.carried, plan.failed) == (2, (done(2),), 0)


def test_what_had_failed_before_it_was_given_up_goes_on_from_before_its_failure() -> None:
    over = Ended(1, ExecutionStatus.FAILED, failure=Failure("x.Y", "no", step=1), cancelled_by_parent=True)
    entries = journal(Started(1), failed(1, 1), CancelRequested(1, by="p"), done(2), over, issued={1: 1, 2: 1})
    plan = plan_rewind("e", entries, cancelled_by_parent=True)
    assert (plan.to, plan.carried, plan.failed) == (1, (), 1)


def test_without_checkpoints_what_was_given_up_starts_anew() -> None:
    entries = journal(Started(1), Ended(1, ExecutionStatus.CANCELLED, cancelled_by_parent=True))
    assert plan_rewind("e", entries, cancelled_by_parent=True).to == 0


@pytest.mark.parametrize("given_up", [False, True])
def test_what_anybody_else_has_cancelled_stays_cancelled(*, given_up: bool) -> None:
    entries = journal(
        Started(1), CancelRequested(1), Ended(1, ExecutionStatus.CANCELLED, cancelled_by_parent=not given_up)
    )
    with pytest.raises(InvalidTransition, match="not failed"):
        plan_rewind("e", entries, cancelled_by_parent=given_up)


def test_what_was_undone_stays_undone() -> None:
    over = Ended(1, ExecutionStatus.CANCELLED, compensated=True, cancelled_by_parent=True)
    with pytest.raises(InvalidTransition, match="cancelled, and its compensations have run"):
        plan_rewind("e", journal(Started(1), CancelRequested(1, by="p"), over), cancelled_by_parent=True)


# --- attempts --------------------------------------------------------------------------------------------------
def test_attempts_are_counted_by_kind() -> None:
    entries = journal(
        Started(1), again(1, 1), again(1, 2, counts=False, retry_at=11.0), again(2, 1), done(2, attempt=2)
    )
    assert attempt_counts(entries) == {
        1: AttemptCount(attempts=2, failures=1, losses=1, retry_at=11.0),
        2: AttemptCount(attempts=2, failures=1, losses=0, retry_at=9.0),
    }


def test_a_rewind_gives_fresh_retries_and_numbers_attempts_on() -> None:
    entries = journal(Started(1), again(1, 1), failed(1, 1, attempt=2), done(2), ended(1), Rewound(1, to=1))
    assert attempt_counts(entries) == {1: AttemptCount(attempts=2), 2: AttemptCount(attempts=1)}
    assert attempt_counts([*entries, Entry(7, again(1, 3))])[1] == AttemptCount(3, failures=1, losses=0, retry_at=9.0)
