"""A coordinator's slots: what goes out where, what is kept, and what the pool is told."""

from __future__ import annotations

from rayflow.core.pool.protocol import Demand, ray_task_environment
from rayflow.core.pool.slots import IDLE_KEEP, Report
from tests.core.pool.slots_bench import BOTH, RATE, grant, key, made, numbers, plain, reported, want


# --- sending ---------------------------------------------------------------------------------------------------
def test_nothing_goes_out_without_a_slot() -> None:
    slots = made(1, 2)
    assert slots.plan(0.0) == []
    assert slots.has_waiting
    assert (slots.queued, slots.holding) == (2, 0)


def test_a_task_goes_out_on_a_slot_which_is_then_busy() -> None:
    slots = made(1, 2)
    grant(slots, 1)
    assert slots.plan(0.0) == [plain("t1", "w1", key(1))]
    assert slots.plan(0.0) == []
    slots.done("t1", 1.0)
    assert numbers(slots.plan(1.0)) == [[2]]
    assert not slots.has_waiting
    assert slots.queued == 0


def test_slots_are_used_in_the_order_in_which_they_became_idle() -> None:
    slots = made(1, 2, 3)
    slots.observe("s", 0.0)
    grant(slots, 1)
    grant(slots, 2)
    assert slots.plan(0.0) == [plain("t1", "w1", key(1), key(2)), plain("t2", "w2", key(3))]
    slots.done("t2", 0.0)
    slots.done("t1", 0.0)
    want(slots, 4)
    assert slots.plan(0.0) == [plain("t2", "w2", key(4))]


def test_withdrawn_tasks_do_not_go_out() -> None:
    slots = made(1, 2, 3)
    assert slots.withdraw(key(1))
    assert not slots.withdraw(key(1))
    assert not slots.withdraw(key(9))
    grant(slots, 1)
    assert numbers(slots.plan(0.0)) == [[2]]
    assert not slots.withdraw(key(2))
    assert slots.queued == 1


def test_a_task_that_is_wanted_again_waits_once() -> None:
    slots = made(1, 2)
    want(slots, 1, now=9.0)
    assert slots.queued == 2
    assert slots.full_report().demand == (Demand("env", 5, 0.0, 2, tasks=2),)
    for number in (1, 2, 3):
        grant(slots, number)
    assert numbers(slots.plan(9.0)) == [[2], [1]]


def test_a_slot_serves_its_environment_only() -> None:
    slots = made(1)
    want(slots, 2, environment="other", priority=9)
    want(slots, 3, environment=ray_task_environment("env"))
    for number in (1, 2):
        grant(slots, number)
    assert slots.plan(0.0) == [plain("t1", "w1", key(1))]
    grant(slots, 3, environment=ray_task_environment("env"))
    (send,) = slots.plan(0.0)
    assert (send.token, send.environment, send.keys) == ("t3", ray_task_environment("env"), (key(3),))
    grant(slots, 4, environment="other")
    (send,) = slots.plan(0.0)
    assert (send.token, send.environment, send.keys) == ("t4", "other", (key(2),))


def test_suspects_go_out_alone_on_slots_of_their_own() -> None:
    slots = made()
    slots.observe("s", 0.0)
    want(slots, 1, 2, exclusive=True)
    want(slots, 3, priority=0)
    grant(slots, 1)
    assert numbers(slots.plan(0.0)) == [[3]]
    want(slots, 4, priority=9)
    grant(slots, 2, exclusive=True)
    (send,) = slots.plan(0.0)
    assert (send.token, send.exclusive, send.keys, send.limited) == ("t2", True, (key(1),), False)
    assert slots.withdraw(key(4))


# --- slots -----------------------------------------------------------------------------------------------------
def test_a_grant_that_comes_twice_changes_nothing() -> None:
    slots = made(1, 2)
    grant(slots, 1)
    slots.plan(0.0)
    grant(slots, 1)
    assert slots.plan(0.0) == []
    slots.revoked("t1")
    grant(slots, 1)
    assert slots.holding == 0


def test_what_was_seen_has_no_gaps() -> None:
    slots = made()
    for number, seen in ((2, 0), (4, 0), (4, 0), (1, 2), (3, 4)):
        grant(slots, number)
        assert slots.full_report().seen == seen
    assert slots.holding == 4


def test_a_later_pool_numbers_anew_and_an_earlier_one_is_not_heard() -> None:
    slots = made(1)
    grant(slots, 1)
    assert slots.report() is not None
    assert slots.report() is None
    assert slots.accept_epoch(2)
    assert not slots.accept_epoch(1)
    assert slots.epoch == 2
    report = reported(slots)
    assert (report.epoch, report.seen, report.holding) == (2, 0, {"t1": "w1"})
    grant(slots, 1)
    assert slots.full_report().holding == {"t1": "w1", "t1.2": "w1"}


def test_numbers_that_came_early_mean_nothing_to_a_later_pool() -> None:
    slots = made()
    grant(slots, 2)
    slots.accept_epoch(2)
    grant(slots, 2)
    assert slots.full_report().holding == {"t2": "w2", "t2.2": "w2"}
    grant(slots, 1)
    assert slots.full_report().seen == 2


def test_an_idle_slot_is_kept_for_a_moment() -> None:
    slots = made()
    assert slots.next_wake() is None
    grant(slots, 1, now=10.0)
    slots.plan(10.0)
    due = slots.next_wake()
    assert due == 10.0 + IDLE_KEEP
    slots.plan(due - 0.001)
    assert slots.holding == 1
    slots.plan(due)
    assert slots.holding == 0


def test_a_busy_slot_is_kept() -> None:
    slots = made(1)
    grant(slots, 1)
    slots.plan(0.0)
    slots.plan(100.0)
    assert (slots.holding, slots.next_wake()) == (1, None)
    slots.done("t1", 100.0)
    assert slots.next_wake() == 100.0 + IDLE_KEEP


def test_a_recalled_slot_is_given_back_as_soon_as_it_is_idle() -> None:
    slots = made(1, 2)
    grant(slots, 1)
    slots.plan(0.0)
    slots.recalled("t1")
    slots.recalled("never ours")
    slots.plan(0.0)
    assert slots.holding == 1
    slots.done("t1", 1.0)
    assert slots.plan(1.0) == []
    assert slots.holding == 0


def test_a_void_slot_is_gone() -> None:
    slots = made(1)
    grant(slots, 1)
    slots.plan(0.0)
    slots.revoked("t1")
    slots.revoked("t1")
    slots.done("t1", 1.0)
    assert slots.holding == 0


# --- reports ---------------------------------------------------------------------------------------------------
def test_a_report_is_the_full_state() -> None:
    slots = made(1, 2, now=3.0)
    want(slots, 3, limits=BOTH, now=4.0)
    grant(slots, 1)
    grant(slots, 2, limits=RATE)
    slots.plan(3.0)
    demand = (Demand("env", 5, 3.0, 1, tasks=1), Demand("env", 5, 4.0, 1, limits=BOTH, tasks=1))
    assert slots.full_report() == Report(1, 1, 2, demand, {"t1": "w1"}, {"t2": 0.0})


def test_a_report_is_made_when_something_changed() -> None:
    slots = made(1)
    first = reported(slots)
    assert slots.report() is None
    slots.report_lost()
    second = reported(slots)
    assert (second.sequence, second.demand) == (2, first.demand)
    slots.withdraw(key(1))
    assert reported(slots).demand == ()
    slots.full_report()
    assert slots.report() is None


def test_a_report_that_was_made_does_not_change() -> None:
    slots = made(1, limits=RATE)
    grant(slots, 1, limits=RATE)
    slots.plan(0.0)
    report = reported(slots)
    slots.began("t1", 0.5)
    slots.done("t1", 1.0)
    assert (report.holding, report.begun) == ({"t1": "w1"}, {})


def test_a_step_that_kept_others_waiting_gets_slots_of_its_own() -> None:
    slots = made(1, 2, 3, 4)
    slots.observe("s", 0.0001)
    grant(slots, 1)
    slots.ran_long("s")
    assert numbers(slots.plan(0.0)) == [[1]]
    assert reported(slots).demand == (Demand("env", 5, 0.0, 3, tasks=3),)
