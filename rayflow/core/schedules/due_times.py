"""Due times of a schedule, and the ids of the executions that they start.

Times are seconds since the epoch. Due times are whole milliseconds, and those of a cron expression whole seconds. They
are computed in integers, so that a due time is the same float whatever time the computation starts from.
"""

from __future__ import annotations

import bisect
import datetime as dt
import hashlib
import itertools
import math
import zoneinfo
from collections.abc import Iterator

from cronsim import CronSim

from rayflow.definition.schedule import HORIZON, Schedule
from rayflow.errors import InvalidArgument
from rayflow.ids import check_id

#: Maximum length of a schedule's name, so that name and due time together are a valid id.
MAX_NAME = 160

#: Seconds in which a time zone changes its offset at most once.
_DAY = 86_400


def check_name(name: object) -> str:
    """Return ``name`` if it is a valid name of a schedule.

    Raises:
        InvalidArgument: the name is not an id, is too long, or contains ``@``, which separates the due time.
    """
    checked = check_id("schedule", name)
    if "@" in checked or len(checked) > MAX_NAME:
        raise InvalidArgument(
            f"schedule id {checked!r} is not valid: at most {MAX_NAME} characters and no @, since the ids of its "
            "executions are <schedule>@<due time>"
        )
    return checked


def due_id(name: str, due: float) -> str:
    """Return the id of the execution that a due time starts.

    Raises:
        InvalidArgument: the schedule's name is not valid.

    Example:
        >>> due_id("nightly", 1795485600.0)
        'nightly@20261124T020000Z'
        >>> due_id("often", 1795485600.25)
        'often@20261124T020000.25Z'
    """
    seconds, milliseconds = divmod(_milliseconds(due), 1000)
    fraction = f".{milliseconds:03d}".rstrip("0") if milliseconds else ""
    return f"{check_name(name)}@{dt.datetime.fromtimestamp(seconds, dt.UTC):%Y%m%dT%H%M%S}{fraction}Z"


def start_moment(name: str, spec: Schedule, due: float) -> float:
    """Return the earliest start of a due time: the due time plus a jitter that depends only on name and due time."""
    digest = hashlib.blake2b(f"{name}@{_milliseconds(due)}".encode(), digest_size=8).digest()
    share = int.from_bytes(digest) / 2**64
    return due + math.floor(share * spec.jitter * 1000) / 1000


def due_after(spec: Schedule, after: float, anchor: float | None = None) -> float | None:
    """Return the first due time after a time, with ``anchor`` as for :func:`each_due`; None without one.

    Example:
        >>> due_after(Schedule(cron="0 2 * * *", start_at=1795485600), 0)
        1795485600.0
        >>> due_after(Schedule(every=1.5), 10.0)
        11.5
    """
    return next(each_due(spec, after, anchor), None)


def due_between(
    spec: Schedule, start: float, end: float, *, limit: int, anchor: float | None = None
) -> Iterator[float]:
    """Return at most ``limit`` due times, in order, from ``start`` (inclusive) to ``end`` (exclusive)."""
    before = each_due(spec, math.nextafter(start, -math.inf), anchor)
    return itertools.islice(itertools.takewhile(lambda due: due < end, before), limit)


def each_due(spec: Schedule, after: float, anchor: float | None = None) -> Iterator[float]:
    """Return the due times after a time, in order; infinitely many if the schedule has no end.

    Args:
        spec: the schedule.
        after: the time.
        anchor: for an interval without ``start_at``, one of its due times, from which the others are counted in both
            directions; ``after`` if None.
    """
    last = HORIZON - 1 if spec.end_at is None else spec.end_at
    after = max(after, math.nextafter(0.0, -math.inf))
    dues = _by_interval(spec, after, anchor) if spec.cron is None else _by_cron(spec, spec.cron, after)
    return itertools.takewhile(lambda due: due <= last, dues)


def _milliseconds(seconds: float) -> int:
    return round(seconds * 1000)


def _floor_milliseconds(moment: float) -> int:
    # Rounding up would make an additional due time, less than a millisecond later.
    milliseconds = math.floor(moment * 1000)
    return milliseconds - (milliseconds / 1000 > moment)


def _by_interval(spec: Schedule, after: float, anchor: float | None) -> Iterator[float]:
    assert spec.every is not None
    step = _milliseconds(spec.every)
    known = anchor if spec.start_at is None else spec.start_at
    origin = _floor_milliseconds(after) if known is None else _milliseconds(known)
    # One too early on purpose: a float may be off by a fraction of a millisecond; the comparison below is exact.
    first = (math.floor(after * 1000) - 1 - origin) // step
    numbers = itertools.count(first if spec.start_at is None else max(first, 0))
    return itertools.dropwhile(lambda due: due <= after, ((origin + number * step) / 1000 for number in numbers))


def _by_cron(spec: Schedule, cron: str, after: float) -> Iterator[float]:
    # Cron has whole seconds: due times after 9.7 are those after 9.
    second = math.floor(after)
    if spec.start_at is not None:
        second = max(second, math.ceil(spec.start_at) - 1)
    if spec.timezone == "UTC":
        return _fixed_times(cron, dt.UTC, second)
    zone = zoneinfo.ZoneInfo(spec.timezone)
    minute, hour, *others = cron.split()
    fixed = len(others) == 3 and not minute.startswith("*") and not hour.startswith("*")
    return _fixed_times(cron, zone, second) if fixed else _wall_clock_times(cron, zone, second)


def _fixed_times(cron: str, zone: dt.tzinfo, after: int) -> Iterator[float]:
    """Yield cronsim's times: moved out of a skipped hour, and once in a repeated hour.

    Two times moved to the same moment are yielded once. Starting inside the second of two repeated hours, cronsim also
    returns the times of the first one, which are left out.
    """
    last = float(after)
    for found in CronSim(cron, dt.datetime.fromtimestamp(after, zone)):
        due = found.timestamp()
        if due > last:
            yield due
            last = due


def _wall_clock_times(cron: str, zone: dt.tzinfo, after: int) -> Iterator[float]:
    """Yield each moment at which the local time matches the expression.

    cronsim computes naive local times between two changes of the zone's offset. Across a change of half an hour, or one
    at midnight, it would skip some: ``0 */6 * * *`` in Australia/Lord_Howe has no 06:00 twice a year.
    """
    while True:
        begin = after + 1
        offset = _offset(zone, begin)
        wall = dt.datetime.fromtimestamp(after + offset, dt.UTC).replace(tzinfo=None)
        for found in CronSim(cron, wall):
            due = int(found.replace(tzinfo=dt.UTC).timestamp()) - offset
            change = _change(zone, begin, min(due, int(HORIZON)))
            if change is not None:
                after = change - 1
                break
            yield float(due)
            begin = due
        else:
            return


def _change(zone: dt.tzinfo, since: int, until: int) -> int | None:
    """Return the first second after ``since``, up to ``until``, with another offset from UTC."""
    offset = _offset(zone, since)
    for low in range(since, until, _DAY):
        high = min(low + _DAY, until)
        if _offset(zone, high) == offset:
            continue
        within = range(low, high + 1)
        return within[bisect.bisect_left(within, True, key=lambda moment: _offset(zone, moment) != offset)]  # noqa: FBT003 - the key's value
    return None


def _offset(zone: dt.tzinfo, moment: int) -> int:
    offset = dt.datetime.fromtimestamp(moment, zone).utcoffset()
    assert offset is not None
    return int(offset.total_seconds())
