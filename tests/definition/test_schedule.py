from __future__ import annotations

import datetime as dt
import math
import pickle
import zoneinfo
from typing import Any

import pytest

import rayflow as rf
from rayflow.definition.schedule import HORIZON, Schedule

BERLIN = zoneinfo.ZoneInfo("Europe/Berlin")


def test_an_expression_is_kept_with_single_spaces_and_survives_pickling_and_json() -> None:
    made = Schedule(cron="  30 2 *   * mon-fri ", timezone="Europe/Berlin", overlap="queue_one", max_runs=3)
    assert made.cron == "30 2 * * mon-fri"
    assert pickle.loads(pickle.dumps(made)) == made
    assert Schedule.model_validate_json(made.model_dump_json()) == made


def test_defaults() -> None:
    made = Schedule(every=60)
    assert (made.timezone, made.overlap, made.catch_up, made.jitter) == ("UTC", "skip", 3600.0, 0.0)
    assert (made.cron, made.start_at, made.end_at, made.max_runs) == (None, None, None, None)


@pytest.mark.parametrize(
    "cron",
    [
        "* * * * *",
        "*/5 0-12/2 1,15 jan-mar sun",
        "15 30 2 * * *",
        "0 0 L * *",
        "0 0 LW * *",
        "0 0 * * 5L",
        "0 0 * * fri#2",
        "0 0 29 2 *",
        "0 0 30 2 mon",  # either of the days is enough, as in cron
        "0 0 29 2 */7",  # 28 years may pass
    ],
)
def test_expressions_that_fit(cron: str) -> None:
    assert Schedule(cron=cron).cron == cron


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        (dt.datetime(2026, 11, 24, 2, tzinfo=dt.UTC), 1795485600.0),
        (dt.datetime(2026, 11, 24, 3, tzinfo=BERLIN), 1795485600.0),
        (1795485600, 1795485600.0),
        (1795485600.1234567, 1795485600.123),
    ],
)
def test_moments_are_kept_as_seconds_since_the_epoch(given: Any, kept: float) -> None:
    made = Schedule(every=1, start_at=given, end_at=given)
    assert (made.start_at, made.end_at) == (kept, kept)


def test_replace_checks_again() -> None:
    made = Schedule(every=60, start_at=100)
    assert made.replace(every=None, cron="0 2 * * *") == Schedule(cron="0 2 * * *", start_at=100)
    assert made.replace(cron=None, timezone="UTC") == made
    with pytest.raises(rf.InvalidArgument, match="takes cron or every, not both"):
        made.replace(cron="0 2 * * *")


@pytest.mark.parametrize(
    ("cron", "message"),
    [
        ("61 * * * *", r"cron: the minute field '61' of '61 \* \* \* \*' is bad; it takes 0-59, also as a range"),
        ("60 * * * * *", r"the second field '60' of .* is bad; it takes 0-59"),
        ("* 24 * * *", r"the hour field '24' of .* is bad; it takes 0-23"),
        ("* * * * * 8", r"the day-of-week field '8' of .* is bad; it takes 0-7 or SUN-SAT"),
        ("* * 32 * *", r"the day-of-month field '32' of .* is bad; it takes 1-31, L"),
        ("* * x 2 *", r"the day-of-month field 'x' of .* is bad"),
        ("* * * mai *", r"the month field 'mai' of .* is bad; it takes 1-12 or JAN-DEC"),
        ("*/0 * * * *", r"the minute field '\*/0' of .* is bad"),
        ("@daily", r"needs 5 fields \(minute, .*\), or 6 with the second first; '@daily' has 1"),
        ("", "needs 5 fields .*; '' has 0"),
        ("* * * * * * *", "has 7"),
        ("0 0 31 2,4 *", r"'0 0 31 2,4 \*' never comes due: no month it names has such a day"),
        ("0 0 */31 2 mon#5", r"'0 0 \*/31 2 mon#5' never comes due"),
    ],
)
def test_a_wrong_expression_says_which_field_is_wrong(cron: str, message: str) -> None:
    with pytest.raises(rf.InvalidArgument, match=r"Schedule\.cron: ") as caught:
        Schedule(cron=cron)
    assert caught.match(message)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Berlin", "unknown time zone 'Berlin'; use an IANA name such as 'Europe/Berlin'"),
        ("Europe/Berlim", "such as 'Europe/Berlin'"),
        ("lord_howe", "such as 'Australia/Lord_Howe'"),
        ("???", r"unknown time zone '\?\?\?'; use an IANA name such as 'Europe/Berlin'"),
        ("../etc/passwd", "unknown time zone"),
        ("Europe", "unknown time zone 'Europe'"),
    ],
)
def test_an_unknown_time_zone_names_a_near_one(name: str, message: str) -> None:
    with pytest.raises(rf.InvalidArgument, match=r"Schedule\.timezone: ") as caught:
        Schedule(cron="* * * * *", timezone=name)
    assert caught.match(message)


def test_a_machine_without_time_zones_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zoneinfo, "available_timezones", set)
    with pytest.raises(rf.InvalidArgument, match="this machine has no time zones; install tzdata"):
        Schedule(cron="* * * * *", timezone="Mars/Olympus")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, r'Schedule: needs cron \(as in cron="30 2 \* \* \*"\) or every \(seconds\)'),
        ({"every": 60, "cron": "* * * * *"}, "Schedule: takes cron or every, not both: leave one out"),
        ({"every": 0}, r"Schedule\.every: Input should be greater than or equal to 0.001 \(given: 0\)"),
        ({"every": math.inf}, r"Schedule\.every: Input should be a finite number"),
        ({"every": math.nan}, r"Schedule\.every: .* \(given: nan\)"),
        ({"every": 1 / 3}, r"Schedule\.every: needs whole milliseconds, not 0\.33333\d+; take 0\.333"),
        ({"every": 60, "timezone": "Europe/Berlin"}, "every counts seconds, which no time zone changes: leave out"),
        ({"every": 60, "overlap": "queue"}, r"Schedule\.overlap: Input should be 'skip', 'queue_one', 'allow' or"),
        ({"every": 60, "catch_up": 0}, r"Schedule\.catch_up: Input should be greater than 0"),
        ({"every": 60, "jitter": -1}, r"Schedule\.jitter: Input should be greater than or equal to 0"),
        ({"every": 60, "jitter": math.inf}, r"Schedule\.jitter: Input should be a finite number"),
        ({"every": 60, "max_runs": 0}, r"Schedule\.max_runs: Input should be greater than or equal to 1"),
        ({"every": 60, "start_at": dt.datetime(2026, 11, 24)}, r"start_at: 2026-11-24T00:00:00 has no time zone, so"),  # noqa: DTZ001 - that is the mistake
        ({"every": 60, "end_at": True}, r"Schedule\.end_at: needs a datetime with a time zone, or seconds .* not True"),
        ({"every": 60, "start_at": dt.date(2026, 11, 24)}, r"Schedule\.start_at: Input should be a valid number"),
        ({"every": 60, "start_at": 1795485600000}, rf"Schedule\.start_at: Input should be less than {HORIZON:.0f}"),
        ({"every": 60, "start_at": -1}, r"Schedule\.start_at: Input should be greater than or equal to 0"),
        ({"every": 60, "start_at": 2, "end_at": 1}, r"end_at \(1\.0\) must not be earlier than start_at \(2\.0\)"),
        ({"interval": 60}, "Schedule has no option 'interval'; it has: catch_up, cron, end_at, every, jitter"),
    ],
)
def test_a_wrong_option_says_what_would_be_right(values: dict[str, Any], message: str) -> None:
    with pytest.raises(rf.InvalidArgument, match=message):
        Schedule(**values)
