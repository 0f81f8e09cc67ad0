"""Due times: the same ones from wherever one begins, and what daylight saving does to them."""

from __future__ import annotations

import datetime as dt
import itertools
import math
import random
import zoneinfo

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import rayflow as rf
from rayflow.core.schedules.due_times import check_name, due_after, due_between, due_id, each_due, start_moment
from rayflow.definition.schedule import HORIZON, Schedule
from rayflow.ids import check_id

DAY = 86_400


def moment(zone: str, *parts: int, fold: int = 0) -> float:
    year, month, day, *clock = parts
    hour, minute = (*clock, 0, 0)[:2]
    return dt.datetime(year, month, day, hour, minute, tzinfo=zoneinfo.ZoneInfo(zone), fold=fold).timestamp()


def local(zone: str, cron: str, *day: int, days: float = 1) -> list[str]:
    """What comes due on a day, as wall time with its offset."""
    spec = Schedule(cron=cron, timezone=zone)
    start = moment(zone, *day)
    tz = zoneinfo.ZoneInfo(zone)
    dues = due_between(spec, start, start + days * DAY, limit=1000)
    return [dt.datetime.fromtimestamp(due, tz).strftime("%d %H:%M%z") for due in dues]


# --- daylight saving ----------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("zone", "cron", "day", "expected"),
    [
        # 02:00 becomes 03:00: fixed times in between come due at its end, once
        ("Europe/Berlin", "30 2 * * *", (2026, 3, 29), ["29 03:00+0200"]),
        ("Europe/Berlin", "0,30 2,3 * * *", (2026, 3, 29), ["29 03:00+0200", "29 03:30+0200"]),
        ("Europe/Berlin", "*/30 1-3 * * *", (2026, 3, 29), ["29 01:00+0100", "29 01:30+0100", "29 03:00+0200", "29 03:30+0200"]),  # noqa: E501 - a table
        # 03:00 becomes 02:00: fixed times in between come due once, those by the wall twice
        ("Europe/Berlin", "30 2 * * *", (2026, 10, 25), ["25 02:30+0200"]),
        ("Europe/Berlin", "*/30 2 * * *", (2026, 10, 25), ["25 02:00+0200", "25 02:30+0200", "25 02:00+0100", "25 02:30+0100"]),  # noqa: E501 - a table
        ("Europe/Berlin", "0 30 2 * * *", (2026, 10, 25), ["25 02:30+0200", "25 02:30+0100"]),
        ("America/New_York", "15 2 * * *", (2026, 3, 8), ["08 03:00-0400"]),
        ("America/New_York", "15 1 * * *", (2026, 11, 1), ["01 01:15-0400"]),
        # half an hour: 02:00 becomes 01:30, 02:00 becomes 02:30
        ("Australia/Lord_Howe", "45 1 * * *", (2026, 4, 5), ["05 01:45+1100"]),
        ("Australia/Lord_Howe", "15 2 * * *", (2026, 10, 4), ["04 02:30+1100"]),
        ("Australia/Lord_Howe", "*/30 1-2 * * *", (2026, 4, 5), ["05 01:00+1100", "05 01:30+1100", "05 01:30+1030", "05 02:00+1030", "05 02:30+1030"]),  # noqa: E501 - a table
        ("Australia/Lord_Howe", "0 */6 * * *", (2026, 10, 4), ["04 00:00+1030", "04 06:00+1100", "04 12:00+1100", "04 18:00+1100"]),  # noqa: E501 - a table
        # midnight becomes 01:00
        ("America/Santiago", "*/30 1 * * sun", (2026, 9, 6), ["06 01:00-0300", "06 01:30-0300"]),
        ("America/Santiago", "0 0 * * *", (2026, 9, 6), ["06 01:00-0300"]),
    ],
)  # fmt: skip
def test_a_day_on_which_the_clock_changes(zone: str, cron: str, day: tuple[int, ...], expected: list[str]) -> None:
    assert local(zone, cron, *day, days=0.9) == expected


def test_a_day_that_a_zone_leaves_out_is_made_up_for_at_its_end() -> None:
    assert local("Pacific/Apia", "0 12 * * *", 2011, 12, 29, days=2) == [
        "29 12:00-1000",
        "31 00:00+1400",
        "31 12:00+1400",
    ]


@pytest.mark.parametrize("zone", ["Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "America/Santiago"])
def test_by_the_wall_is_each_moment_whose_wall_time_fits(zone: str) -> None:
    spec = Schedule(cron="*/20 1-2 * * sun", timezone=zone)
    tz = zoneinfo.ZoneInfo(zone)
    start, end = int(moment(zone, 2026, 1, 1)), int(moment(zone, 2027, 1, 1))
    walls = ((second, dt.datetime.fromtimestamp(second, tz)) for second in range(start, end, 600))
    expected = [
        second for second, wall in walls if wall.isoweekday() == 7 and wall.hour in {1, 2} and wall.minute % 20 == 0
    ]
    assert list(due_between(spec, start, end, limit=1000)) == expected


@pytest.mark.parametrize("zone", ["Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "America/Santiago"])
@pytest.mark.parametrize("cron", ["0,30 0-3 * * *", "*/30 0-3 * * *", "30 45 1,2 * * *"])
def test_from_wherever_one_begins_the_next_due_time_is_the_same(zone: str, cron: str) -> None:
    spec = Schedule(cron=cron, timezone=zone)
    start = moment(zone, 2026, 1, 1)
    dues = list(due_between(spec, start, start + 365 * DAY, limit=10_000))
    assert dues == sorted(set(dues))
    rng = random.Random(f"{zone} {cron}")
    tz = zoneinfo.ZoneInfo(zone)
    changes = [
        day for day in range(int(start), int(start) + 364 * DAY, DAY)
        if dt.datetime.fromtimestamp(day, tz).utcoffset() != dt.datetime.fromtimestamp(day + DAY, tz).utcoffset()
    ]  # fmt: skip
    assert len(changes) == 2
    for begin in [change + rng.uniform(0, DAY) for change in changes for _ in range(30)]:
        assert due_after(spec, begin) == next(due for due in dues if due > begin)


# --- bounds -------------------------------------------------------------------------------------------------
def test_the_start_and_the_end_belong_to_the_schedule() -> None:
    hourly = Schedule(cron="0 * * * *", start_at=7200, end_at=3 * 3600)
    assert list(each_due(hourly, 0)) == [7200.0, 10800.0]
    often = Schedule(every=1.5, start_at=10, end_at=13)
    assert list(each_due(often, -5)) == [10.0, 11.5, 13.0]
    assert due_after(often, 13) is None


def test_a_start_between_two_seconds_is_not_before_itself() -> None:
    assert due_after(Schedule(cron="* * * * * *", start_at=10.25), 0) == 11.0


def test_later_means_later() -> None:
    seconds = Schedule(cron="* * * * * *")
    assert [due_after(seconds, after) for after in (9.0, 9.25, 9.9999999, 10.0)] == [10.0, 10.0, 10.0, 11.0]


def test_a_range_has_its_beginning_and_not_its_end() -> None:
    minutely = Schedule(cron="* * * * *")
    assert list(due_between(minutely, 60, 180, limit=10)) == [60.0, 120.0]
    assert list(due_between(minutely, 60, 1e9, limit=3)) == [60.0, 120.0, 180.0]
    assert list(due_between(minutely, 180, 60, limit=3)) == []


def test_nothing_is_due_before_1970_or_after_2999() -> None:
    assert due_after(Schedule(cron="0 0 * * *"), -1e15) == 0.0
    assert due_after(Schedule(cron="* * * * *", timezone="Europe/Berlin"), HORIZON - 100) == HORIZON - 60
    assert due_after(Schedule(cron="* * * * *", timezone="Europe/Berlin"), HORIZON - 1) is None
    assert due_after(Schedule(every=HORIZON), 0.5) is None


def test_an_interval_is_counted_from_its_anchor_either_way() -> None:
    spec = Schedule(every=10)
    assert due_after(spec, 3.25) == 13.25
    assert list(due_between(spec, 0, 30, limit=10, anchor=103.25)) == [3.25, 13.25, 23.25]
    assert due_after(spec, 1000, anchor=3.25) == 1003.25


@given(after=st.floats(0, 4e9), every=st.integers(1, 10**8))
@example(after=1000.0006, every=60_000)  # rounded to milliseconds, it lies ahead
@example(after=math.nextafter(1.001, 0), every=1)
def test_an_interval_that_begins_now_comes_due_one_interval_later(after: float, every: int) -> None:
    due = due_after(Schedule(every=every / 1000), after)
    assert due is not None
    assert after < due
    assert -0.001 - 1e-6 < due - (after + every / 1000) < 1e-6


@given(
    start=st.floats(0, 4e9),
    every=st.integers(1, 10**8).map(lambda n: n / 1000),
    after=st.floats(0, 4e9),
)
def test_an_intervals_due_times_do_not_drift(start: float, every: float, after: float) -> None:
    spec = Schedule(every=every, start_at=start)
    dues = list(itertools.islice(each_due(spec, after), 4))
    assert dues[0] > after
    assert spec.start_at is not None
    assert dues[0] == spec.start_at or dues[0] - every <= after + 0.001
    origin, step = round(spec.start_at * 1000), round(every * 1000)
    assert [(round(due * 1000) - origin) % step for due in dues] == [0] * len(dues)
    chained = [dues[0]]
    for _ in dues[1:]:
        following = due_after(spec, chained[-1])
        assert following is not None
        chained.append(following)
    assert chained == dues


def test_a_cron_expression_may_run_out_of_years() -> None:
    spec = Schedule(cron="*/5 0 29 2 */7", timezone="Europe/Berlin")
    assert due_after(spec, moment("Europe/Berlin", 2999, 3, 1)) is None


@pytest.mark.parametrize("cron", ["0 0 */31 2 mon#5", "* * */31 2 mon#5"])
def test_an_expression_that_nobody_checked_ends_where_it_could_search_for_ever(cron: str) -> None:
    unchecked = Schedule.model_construct(cron=cron, timezone="Europe/Berlin")
    assert list(each_due(unchecked, 1795485600)) == []


# --- ids and jitter -----------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("due", "stamp"),
    [
        (1795485600.0, "20261124T020000Z"),
        (1795485600.5, "20261124T020000.5Z"),
        (1795485600.025, "20261124T020000.025Z"),
        (0.0, "19700101T000000Z"),
    ],
)
def test_an_id_is_the_name_and_the_due_time_in_utc(due: float, stamp: str) -> None:
    assert due_id("nightly", due) == f"nightly@{stamp}"


def test_the_longest_name_still_makes_an_id() -> None:
    assert check_id("execution", due_id("n" * 160, 1795485600.025)) == f"{'n' * 160}@20261124T020000.025Z"


@pytest.mark.parametrize("name", ["a@b", "n" * 161])
def test_a_name_that_does_not_fit(name: str) -> None:
    with pytest.raises(rf.InvalidArgument, match="is not valid: at most 160 characters and no @"):
        check_name(name)
    with pytest.raises(rf.InvalidArgument, match="schedule id must be a string, not int"):
        check_name(3)


def test_jitter_is_the_same_each_time_and_spread_over_its_span() -> None:
    spec = Schedule(every=60, jitter=30)
    shifts = [start_moment("a", spec, due) - due for due in map(float, range(0, 60_000, 60))]
    assert shifts == [start_moment("a", spec, due) - due for due in map(float, range(0, 60_000, 60))]
    assert 0 <= min(shifts) < 1
    assert 29 < max(shifts) < 30
    assert 14 < sum(shifts) / len(shifts) < 16
    assert start_moment("b", spec, 0.0) != start_moment("a", spec, 0.0)
    assert start_moment("a", Schedule(every=60), 60.0) == 60.0
