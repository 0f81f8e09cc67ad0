"""Tasks that wait for slots: their order, their batches, their demand, and what is left of those that went."""

from __future__ import annotations

from typing import Any

import pytest

from rayflow.core.pool.protocol import Demand, Limit, ray_task_environment
from rayflow.core.pool.wait_queue import BATCH_SECONDS, BATCH_TASKS, Key, Kind, WaitQueue

SHARED: Kind = ("env", False, ())
ALONE: Kind = ("env", True, ())
OWN: Kind = (ray_task_environment("env"), False, ())


def key(number: int) -> Key:
    return ("e", number, 1)


def limited(name: str) -> Kind:
    return ("env", False, (Limit(name, 1),))


def made(*numbers: int, step: str = "s", kind: Kind = SHARED, priority: int = 5, now: float = 0.0) -> WaitQueue:
    waiting = WaitQueue()
    for number in numbers:
        waiting.add(key(number), step, kind, priority=priority, now=now)
    return waiting


def taken(waiting: WaitQueue, slots: int, kind: Kind = SHARED) -> list[list[int]]:
    return [[number for _, number, _ in batch] for batch in waiting.take(kind, slots)]


def counts(waiting: WaitQueue) -> list[tuple[int, int]]:
    return [(entry.count, entry.tasks) for entry in waiting.demand()]


# --- going out ------------------------------------------------------------------------------------------------
def test_the_highest_priority_goes_first_then_who_waits_longest() -> None:
    waiting = WaitQueue()
    for number, priority, now in ((1, 5, 3.0), (2, 5, 1.0), (3, 9, 7.0), (4, 0, 0.0), (5, 9, 7.0)):
        waiting.add(key(number), "s", SHARED, priority=priority, now=now)
    assert taken(waiting, 6) == [[3], [5], [2], [1], [4]]
    assert len(waiting) == 0


def test_only_tasks_of_the_kind_that_is_asked_for_go_out() -> None:
    waiting = made(1)
    for number, kind in ((2, ALONE), (3, OWN), (4, limited("a")), (5, limited("b"))):
        waiting.add(key(number), "s", kind, priority=9, now=0.0)
    assert taken(waiting, 9) == [[1]]
    assert SHARED not in waiting
    assert taken(waiting, 9, limited("b")) == [[5]]
    assert limited("a") in waiting
    assert len(waiting) == 3


@pytest.mark.parametrize("kind", [ALONE, OWN, limited("a")])
def test_tasks_that_need_a_slot_for_themselves_go_out_singly(kind: Kind) -> None:
    waiting = made(1, 2, 3, kind=kind)
    waiting.observe("s", 0.0)
    assert counts(waiting) == [(3, 3)]
    assert taken(waiting, 2, kind) == [[1], [2]]
    assert counts(waiting) == [(1, 1)]


def test_short_tasks_go_out_together_up_to_about_ten_milliseconds() -> None:
    waiting = made(*range(20))
    waiting.observe("s", BATCH_SECONDS / 4)
    assert taken(waiting, 1) == [[0, 1, 2, 3]]


def test_a_batch_has_a_limit_however_short_its_tasks_are() -> None:
    waiting = made(*range(BATCH_TASKS + 5))
    waiting.observe("s", 0.0)
    assert [len(batch) for batch in taken(waiting, 1)] == [BATCH_TASKS]


def test_short_tasks_are_shared_out_evenly() -> None:
    waiting = made(*range(10))
    waiting.observe("s", 0.0)
    assert taken(waiting, 3) == [[0, 1, 2, 3], [4, 5, 6], [7, 8, 9]]


def test_a_batch_crosses_priorities_but_keeps_their_order() -> None:
    waiting = made(1, 2, priority=1)
    waiting.observe("s", 0.001)
    waiting.add(key(3), "s", SHARED, priority=9, now=5.0)
    assert taken(waiting, 1) == [[3, 1, 2]]


def test_long_and_unknown_tasks_go_out_singly() -> None:
    waiting = made(1, 2, step="long")
    waiting.observe("long", 5.0)
    waiting.observe("short", 0.001)
    for number, step in ((3, "short"), (4, "unknown"), (5, "short")):
        waiting.add(key(number), step, SHARED, priority=9, now=0.0)
    assert [taken(waiting, 1) for _ in range(5)] == [[[3]], [[4]], [[5]], [[1]], [[2]]]


def test_expectations_follow_short_runs_quickly_and_long_ones_slowly() -> None:
    waiting = made(*range(100))
    waiting.observe("s", 0.010)
    waiting.observe("s", 0.002)
    assert [len(batch) for batch in taken(waiting, 1)] == [1]  # 6 ms
    waiting.observe("s", 0.002)
    waiting.observe("s", 0.004)
    assert [len(batch) for batch in taken(waiting, 1)] == [2]  # 4 ms
    waiting.observe("s", 10.0)
    assert [len(batch) for batch in taken(waiting, 1)] == [1]


# --- demand ---------------------------------------------------------------------------------------------------
def test_demand_is_the_most_urgent_first_then_who_waits_longest() -> None:
    waiting = made(1, 2, now=7.0)
    for number, kind, priority, now in (
        (3, SHARED, 5, 6.0),
        (4, SHARED, 9, 8.0),
        (5, ALONE, 5, 5.0),
        (6, limited("a"), 5, 6.5),
        (7, limited("b"), 9, 1.0),
        (8, OWN, 0, 0.0),
        (9, ALONE, 5, 9.0),
    ):
        waiting.add(key(number), "s", kind, priority=priority, now=now)
    assert waiting.demand() == (
        Demand("env", 9, 1.0, 1, limits=(Limit("b", 1),), tasks=1),
        Demand("env", 9, 8.0, 1, tasks=1),
        Demand("env", 5, 5.0, 2, exclusive=True, tasks=2),
        Demand("env", 5, 6.0, 3, tasks=3),
        Demand("env", 5, 6.5, 1, limits=(Limit("a", 1),), tasks=1),
        Demand(ray_task_environment("env"), 0, 0.0, 1, tasks=1),
    )
    waiting.withdraw(key(3))
    waiting.withdraw(key(7))
    assert [(entry.priority, entry.waiting_since) for entry in waiting.demand()] == [
        (9, 8.0),
        (5, 5.0),
        (5, 6.5),
        (5, 7.0),
        (0, 0.0),
    ]


def test_who_began_to_wait_at_the_same_time_is_in_the_order_of_coming() -> None:
    waiting = WaitQueue()
    for number, name in enumerate("cab"):
        waiting.add(key(number), "s", limited(name), priority=5, now=1.0)
    assert [entry.limits[0].name for entry in waiting.demand()] == ["c", "a", "b"]
    waiting.add(key(0), "s", limited("c"), priority=5, now=1.0)
    assert [entry.limits[0].name for entry in waiting.demand()] == ["a", "b", "c"]


def test_demand_for_short_tasks_is_for_as_many_slots_as_they_need() -> None:
    waiting = made(*range(100))
    assert counts(waiting) == [(100, 100)]
    waiting.observe("s", BATCH_SECONDS / 10)
    assert counts(waiting) == [(10, 100)]
    waiting.observe("s", 0.0)
    waiting.observe("s", 0.0)
    assert counts(waiting) == [(3, 100)]
    waiting.observe("another", 0.0)
    waiting.withdraw(key(0))
    assert counts(waiting) == [(3, 99)]


def test_demand_for_very_short_tasks_is_for_the_batches_that_they_fill() -> None:
    waiting = WaitQueue()
    waiting.observe("s", 0.0)
    for number in range(2 * BATCH_TASKS + 1):
        waiting.add(key(number), "s", SHARED, priority=5, now=0.0)
    assert counts(waiting) == [(3, 2 * BATCH_TASKS + 1)]


# --- what it costs --------------------------------------------------------------------------------------------
class Unlisted(dict[Kind, Any]):
    """Groups that can be looked up, and not all looked at."""

    def _refuse(self) -> Any:
        raise AssertionError("all groups were looked at")

    __iter__ = items = keys = values = _refuse


def test_what_did_not_change_is_not_made_again() -> None:
    waiting = WaitQueue()
    for number in range(100):
        waiting.add(key(number), "s", limited(str(number)), priority=5, now=float(number))
    before = waiting.demand()
    waiting._groups = Unlisted(waiting._groups)
    assert taken(waiting, 1, limited("40")) == [[40]]
    waiting.observe("s", 1.0)
    waiting.add(key(1000), "s", limited("60"), priority=5, now=1000.0)
    after = waiting.demand()
    assert after == (
        *before[:40],
        *before[41:60],
        Demand("env", 5, 60.0, 2, limits=limited("60")[2], tasks=2),
        *before[61:],
    )
    kept = [entry for position, entry in enumerate(before) if position not in {40, 60}]
    assert all(old is new for old, new in zip(kept, [*after[:59], *after[60:]], strict=True))
    assert waiting.demand() is after


def test_nothing_is_left_of_keys_that_went() -> None:
    waiting = WaitQueue()
    for number in range(1000):
        kind = limited(str(number)) if number % 2 else SHARED
        waiting.add(key(number), "s", kind, priority=number % 10, now=0.0)
        if number % 3:
            waiting.demand()
        if number % 5:
            waiting.withdraw(key(number))
        else:
            waiting.take(kind, 1)
    assert waiting.demand() == ()
    assert not any((waiting._tasks, waiting._groups, waiting._sharing, waiting._ranked, waiting._stale))


def test_withdrawn_tasks_do_not_pile_up_behind_one_that_waits() -> None:
    waiting = made(0)
    for number in range(1, 1000):
        waiting.add(key(number), f"s{number}", SHARED, priority=5, now=float(number))
        if number % 100:
            waiting.withdraw(key(number))
    (group,) = waiting._groups[SHARED].values()
    assert len(waiting) == 10
    assert len(group.heap) < 100
    assert len(group.steps) == 10
    assert taken(waiting, 10) == [[number] for number in range(0, 1000, 100)]


def test_a_step_that_kept_others_waiting_goes_out_one_by_one_until_it_is_seen_to_be_short() -> None:
    waiting = made(1, 2, 3, 4)
    waiting.observe("s", 0.001)
    assert counts(waiting) == [(1, 4)]
    waiting.ran_long("s")
    assert counts(waiting) == [(4, 4)]
    waiting.ran_long("s")
    assert taken(waiting, 2) == [[1], [2]]
    for _ in range(5):
        waiting.observe("s", 0.001)
    assert taken(waiting, 1) == [[3, 4]]
