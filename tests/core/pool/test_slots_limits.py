"""Slots under limits: one task each, then given back; and when rate-limited tasks began."""

from __future__ import annotations

import pytest

from rayflow.core.pool.protocol import Limit
from rayflow.core.pool.slots import MAX_UNREPORTED, SendBatch
from tests.core.pool.slots_bench import BOTH, KEY, RATE, Limits, grant, key, made, numbers, reported, want


# --- limits ----------------------------------------------------------------------------------------------------
def test_a_slot_under_limits_takes_one_task_and_is_given_back_after_it() -> None:
    slots = made(1, 2, limits=BOTH)
    slots.observe("s", 0.0)
    grant(slots, 1, limits=BOTH, start_by=2.0)
    assert slots.plan(0.0) == [
        SendBatch("t1", "w1", "env", exclusive=False, keys=(key(1),), start_by=2.0, limited=True, rated=True)
    ]
    assert slots.plan(9.0) == []
    assert slots.holding == 1
    slots.done("t1", 9.0)
    assert slots.holding == 0
    assert slots.plan(9.0) == []
    assert slots.queued == 1


@pytest.mark.parametrize(("limits", "limited", "rated"), [((), False, False), (KEY, True, False), (RATE, True, True)])
def test_what_goes_out_says_whether_it_is_limited_and_rated(*, limits: Limits, limited: bool, rated: bool) -> None:
    slots = made(1, limits=limits)
    grant(slots, 1, limits=limits)
    (send,) = slots.plan(0.0)
    assert (send.limited, send.rated) == (limited, rated)


def test_a_slot_serves_its_limits_only() -> None:
    slots = made(1)
    want(slots, 2, limits=KEY, priority=9)
    want(slots, 3, limits=RATE, priority=9)
    grant(slots, 1, limits=(Limit("customer/5", 3),))
    grant(slots, 2, limits=RATE, exclusive=True)
    grant(slots, 3, limits=RATE)
    assert [(send.token, send.keys) for send in slots.plan(0.0)] == [("t3", (key(3),))]
    grant(slots, 4)
    assert [(send.token, send.keys) for send in slots.plan(0.0)] == [("t4", (key(1),))]
    grant(slots, 5, limits=KEY)
    assert [(send.token, send.keys) for send in slots.plan(0.0)] == [("t5", (key(2),))]


def test_several_slots_under_the_same_limits_go_to_the_most_urgent() -> None:
    slots = made(1, 2, limits=KEY)
    want(slots, 3, limits=KEY, priority=9, now=5.0)
    grant(slots, 1, limits=KEY)
    grant(slots, 2, limits=KEY)
    assert numbers(slots.plan(5.0)) == [[3], [1]]


def test_a_slot_under_limits_that_nobody_needs_is_given_back_at_once() -> None:
    slots = made(1, limits=RATE)
    for number in (1, 2):
        grant(slots, number, limits=RATE, now=5.0)
    grant(slots, 3, limits=KEY, now=5.0)
    assert [send.token for send in slots.plan(5.0)] == ["t1"]
    report = slots.full_report()
    assert (report.holding, report.begun) == ({"t1": "w1"}, {"t2": 0.0})


def test_a_slot_under_limits_that_was_recalled_or_voided_before_its_use_never_began() -> None:
    slots = made(1, 2, limits=RATE)
    for number in (1, 2):
        grant(slots, number, limits=RATE)
    slots.recalled("t1")
    slots.revoked("t2")
    assert slots.plan(0.0) == []
    report = slots.full_report()
    assert (report.holding, report.begun) == ({}, {"t1": 0.0, "t2": 0.0})


# --- begins ----------------------------------------------------------------------------------------------------
def test_a_begin_is_reported_until_the_pool_has_dealt_with_it() -> None:
    slots = made(1, limits=RATE)
    grant(slots, 1, limits=RATE)
    slots.plan(0.0)
    assert reported(slots).begun == {}
    slots.began("t1", 0.3)
    first = reported(slots)
    assert first.begun == {"t1": 0.3}
    assert slots.report() is None
    slots.report_lost()
    assert reported(slots).begun == {"t1": 0.3}
    slots.done("t1", 1.0)
    second = reported(slots)
    assert (second.begun, second.holding) == ({"t1": 0.3}, {})
    slots.report_received(second)
    assert slots.report() is None
    assert slots.full_report().begun == {}


def test_a_begin_that_came_after_a_report_is_not_told_by_it() -> None:
    slots = made(1, 2, limits=RATE)
    for number in (1, 2):
        grant(slots, number, limits=RATE)
    slots.plan(0.0)
    slots.began("t2", 0.2)
    report = reported(slots)
    slots.began("t1", 0.1)
    slots.report_received(report)
    assert reported(slots).begun == {"t1": 0.1}


def test_a_begin_may_become_known_when_the_slot_is_gone() -> None:
    slots = made(1, 2, limits=RATE)
    for number in (1, 2):
        grant(slots, number, limits=RATE)
    slots.plan(0.0)
    slots.revoked("t1")
    slots.done("t2", 1.0)
    assert slots.full_report().begun == {}
    slots.began("t2", 0.2)
    slots.began("t1", 0.0)
    assert reported(slots).begun == {"t2": 0.2, "t1": 0.0}


def test_only_the_first_word_on_a_begin_counts() -> None:
    slots = made(1, limits=RATE)
    grant(slots, 1, limits=RATE)
    slots.plan(0.0)
    slots.began("t1", 0.3)
    slots.began("t1", 0.0)
    report = reported(slots)
    assert report.begun == {"t1": 0.3}
    slots.report_received(report)
    slots.began("t1", 0.3)
    assert slots.report() is None


def test_begins_of_leases_without_a_rate_limit_are_not_noted() -> None:
    slots = made(1)
    want(slots, 2, limits=KEY)
    grant(slots, 1)
    grant(slots, 2, limits=KEY)
    grant(slots, 3, limits=KEY)
    slots.plan(0.0)
    reported(slots)
    for token in ("t1", "t2", "never ours"):
        slots.began(token, 0.5)
    assert slots.report() is None
    assert slots.full_report().begun == {}


def test_begins_of_an_earlier_pool_mean_nothing_to_a_later_one() -> None:
    slots = made(1, 2, 3, limits=RATE)
    for number in (1, 2, 3):
        grant(slots, number, limits=RATE)
    slots.plan(0.0)
    slots.began("t1", 0.1)
    assert slots.accept_epoch(1)
    assert slots.full_report().begun == {"t1": 0.1}
    slots.accept_epoch(2)
    slots.began("t2", 0.2)
    grant(slots, 1, limits=RATE)
    slots.plan(0.0)
    assert reported(slots).begun == {"t1.2": 0.0}


def test_begins_that_never_become_known_are_forgotten_in_the_end() -> None:
    slots = made(*range(MAX_UNREPORTED + 1), limits=RATE)
    for number in range(MAX_UNREPORTED + 1):
        grant(slots, number + 1, limits=RATE)
    slots.plan(0.0)
    for number in range(MAX_UNREPORTED + 1):
        slots.revoked(f"t{number + 1}")
    slots.began("t1", 0.1)
    slots.began("t2", 0.2)
    assert slots.full_report().begun == {"t2": 0.2}
