"""A coordinator's slots: what goes out where, and what the pool is told."""

from __future__ import annotations

from rayflow.core.pool.records import Demand
from rayflow.core.slots import BATCH_SECONDS, BATCH_TASKS, IDLE_KEEP, Key, Report, Send, Slots


def key(number: int) -> Key:
    return ("e", number, 1)


def made(*waiting: int, step: str = "s", priority: int = 5, alone: bool = False, now: float = 0.0) -> Slots:
    """Slots of a coordinator for which these tasks wait."""
    slots = Slots("env")
    slots.heard_from(1)
    for number in waiting:
        slots.want(key(number), step, priority=priority, alone=alone, now=now)
    return slots


def grant(slots: Slots, number: int, *, alone: bool = False, now: float = 0.0) -> None:
    slots.granted(f"t{number}", f"w{number}", alone=alone, number=number, now=now)


def numbers(sends: list[Send]) -> list[list[int]]:
    return [[number for _, number, _ in send.keys] for send in sends]


def demand(slots: Slots) -> list[tuple[int, float, int, bool]]:
    return [(d.priority, d.stamp, d.count, d.alone) for d in slots.full_report().demand]


# --- sending ---------------------------------------------------------------------------------------------------
def test_nothing_goes_out_without_a_slot() -> None:
    slots = made(1, 2)
    assert slots.plan(0.0) == []
    assert slots.wanting
    assert slots.holding == 0


def test_a_task_goes_out_on_a_slot_which_is_then_busy() -> None:
    slots = made(1, 2)
    grant(slots, 1)
    assert slots.plan(0.0) == [Send("t1", "w1", alone=False, keys=(key(1),))]
    assert slots.plan(0.0) == []
    slots.done("t1", 1.0)
    assert numbers(slots.plan(1.0)) == [[2]]
    assert not slots.wanting


def test_the_highest_priority_goes_first_then_who_waits_longest() -> None:
    slots = Slots("env")
    for number, priority, now in ((1, 5, 3.0), (2, 5, 1.0), (3, 9, 7.0), (4, 0, 0.0), (5, 9, 7.0)):
        slots.want(key(number), "s", priority=priority, alone=False, now=now)
    for number in range(1, 6):
        grant(slots, number)
    assert numbers(slots.plan(8.0)) == [[3], [5], [2], [1], [4]]


def test_withdrawn_tasks_do_not_go_out() -> None:
    slots = made(1, 2, 3)
    assert slots.withdraw(key(1))
    assert not slots.withdraw(key(1))
    assert not slots.withdraw(key(9))
    grant(slots, 1)
    assert numbers(slots.plan(0.0)) == [[2]]
    assert not slots.withdraw(key(2))


def test_a_task_that_is_wanted_again_waits_once() -> None:
    slots = made(1, 2)
    slots.want(key(1), "s", priority=5, alone=False, now=9.0)
    assert demand(slots) == [(5, 0.0, 2, False)]
    grant(slots, 1)
    grant(slots, 2)
    grant(slots, 3)
    assert numbers(slots.plan(9.0)) == [[2], [1]]


def test_short_tasks_go_out_together_up_to_about_ten_milliseconds() -> None:
    slots = made(*range(20))
    slots.observe("s", BATCH_SECONDS / 4)
    grant(slots, 1)
    assert numbers(slots.plan(0.0)) == [[0, 1, 2, 3]]


def test_a_batch_has_a_limit_however_short_its_tasks_are() -> None:
    slots = made(*range(BATCH_TASKS + 5))
    slots.observe("s", 0.0)
    grant(slots, 1)
    assert [len(send.keys) for send in slots.plan(0.0)] == [BATCH_TASKS]


def test_idle_slots_share_short_tasks_evenly() -> None:
    slots = made(*range(10))
    slots.observe("s", 0.0)
    for number in (1, 2, 3):
        grant(slots, number)
    assert numbers(slots.plan(0.0)) == [[0, 1, 2, 3], [4, 5, 6], [7, 8, 9]]


def test_long_and_unknown_tasks_go_out_singly() -> None:
    slots = made(1, 2, step="long")
    slots.observe("long", 5.0)
    slots.observe("short", 0.001)
    slots.want(key(3), "short", priority=9, alone=False, now=0.0)
    slots.want(key(4), "unknown", priority=9, alone=False, now=0.0)
    slots.want(key(5), "short", priority=9, alone=False, now=0.0)
    for number in range(4):
        grant(slots, number + 1)
        assert len(slots.plan(0.0)) == 1
    assert not slots.withdraw(key(3))
    assert slots.withdraw(key(2)) != slots.withdraw(key(1))


def test_a_batch_crosses_priorities_but_keeps_their_order() -> None:
    slots = made(1, 2, priority=1)
    slots.observe("s", 0.001)
    slots.want(key(3), "s", priority=9, alone=False, now=5.0)
    grant(slots, 1)
    assert numbers(slots.plan(5.0)) == [[3, 1, 2]]


def test_expectations_follow_short_runs_quickly_and_long_ones_slowly() -> None:
    slots = made(*range(100))
    slots.observe("s", 0.010)
    slots.observe("s", 0.002)
    grant(slots, 1)
    assert [len(send.keys) for send in slots.plan(0.0)] == [1]  # 6 ms
    slots.observe("s", 0.002)
    slots.observe("s", 0.004)
    grant(slots, 2)
    assert [len(send.keys) for send in slots.plan(0.0)] == [2]  # 4 ms
    slots.observe("s", 10.0)
    grant(slots, 3)
    assert [len(send.keys) for send in slots.plan(0.0)] == [1]


def test_suspects_go_out_alone_on_slots_of_their_own() -> None:
    slots = made(1, 2, alone=True)
    slots.observe("s", 0.0)
    slots.want(key(3), "s", priority=0, alone=False, now=0.0)
    grant(slots, 1)
    assert numbers(slots.plan(0.0)) == [[3]]
    slots.want(key(4), "s", priority=9, alone=False, now=0.0)
    grant(slots, 2, alone=True)
    assert slots.plan(0.0) == [Send("t2", "w2", alone=True, keys=(key(1),))]
    assert slots.withdraw(key(4))


# --- slots -----------------------------------------------------------------------------------------------------
def test_a_grant_that_comes_twice_changes_nothing() -> None:
    slots = made(1, 2)
    grant(slots, 1)
    slots.plan(0.0)
    grant(slots, 1)
    assert slots.plan(0.0) == []
    slots.void("t1")
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
    assert slots.heard_from(2)
    assert not slots.heard_from(1)
    assert slots.epoch == 2
    report = slots.report()
    assert report is not None
    assert (report.epoch, report.seen, report.holding) == (2, 0, {"t1": "w1"})
    slots.granted("new", "w2", alone=False, number=1, now=0.0)
    assert slots.holding == 2


def test_numbers_that_came_early_mean_nothing_to_a_later_pool() -> None:
    slots = made()
    grant(slots, 2)
    slots.heard_from(2)
    slots.granted("new", "w9", alone=False, number=2, now=0.0)
    assert slots.full_report().holding == {"t2": "w2", "new": "w9"}
    slots.granted("newer", "w9", alone=False, number=1, now=0.0)
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
    slots.void("t1")
    slots.void("t1")
    slots.done("t1", 1.0)
    assert slots.holding == 0


# --- reports ---------------------------------------------------------------------------------------------------
def test_a_report_is_the_full_state() -> None:
    slots = made(1, 2, now=3.0)
    grant(slots, 1)
    slots.plan(3.0)
    assert slots.full_report() == Report(1, 1, 1, (Demand("env", 5, 3.0, 1),), {"t1": "w1"})


def test_a_report_is_made_when_something_changed() -> None:
    slots = made(1)
    first = slots.report()
    assert first is not None
    assert slots.report() is None
    slots.forget_told()
    second = slots.report()
    assert second is not None
    assert (second.sequence, second.demand) == (2, first.demand)
    slots.withdraw(key(1))
    third = slots.report()
    assert third is not None
    assert third.demand == ()
    slots.full_report()
    assert slots.report() is None


def test_demand_is_by_priority_with_its_oldest_stamp() -> None:
    slots = made(1, 2, priority=5, now=7.0)
    slots.want(key(3), "s", priority=5, alone=False, now=6.0)
    slots.want(key(4), "s", priority=9, alone=False, now=8.0)
    slots.want(key(5), "s", priority=5, alone=True, now=9.0)
    assert demand(slots) == [(9, 8.0, 1, False), (5, 6.0, 3, False), (5, 9.0, 1, True)]
    slots.withdraw(key(3))
    assert demand(slots) == [(9, 8.0, 1, False), (5, 7.0, 2, False), (5, 9.0, 1, True)]


def test_demand_for_short_tasks_is_for_as_many_slots_as_they_need() -> None:
    slots = made(*range(100))
    assert demand(slots) == [(5, 0.0, 100, False)]
    slots.observe("s", BATCH_SECONDS / 10)
    assert demand(slots) == [(5, 0.0, 10, False)]
    slots.observe("s", 0.0)
    slots.observe("s", 0.0)
    assert demand(slots) == [(5, 0.0, 3, False)]
    slots.withdraw(key(0))
    assert demand(slots) == [(5, 0.0, 3, False)]


def test_demand_for_very_short_tasks_is_for_the_batches_that_they_fill() -> None:
    slots = Slots("env")
    slots.observe("s", 0.0)
    for number in range(2 * BATCH_TASKS + 1):
        slots.want(key(number), "s", priority=5, alone=False, now=0.0)
    assert demand(slots) == [(5, 0.0, 3, False)]
