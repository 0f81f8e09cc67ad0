"""The due times of a schedule, and the ids of the executions that they start.

Moments are seconds since the epoch. Due times are whole milliseconds, and those of a cron expression whole seconds;
they are computed in whole numbers, so that the same due time is the same float from wherever it was reached.
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
from rayflow.errors import DefinitionError
from rayflow.ids import check_id

#: Characters of a schedule's name at most: with a due time behind it, it is still an id.
MAX_NAME = 160

#: Seconds in which a zone changes its offset once at most.
_DAY = 86_400


def check_name(name: object) -> str:
    """Return ``name`` if a schedule can be called that.

    Raises:
        DefinitionError: it is no id, is too long, or contains ``@``, behind which the due time stands.
    """
    checked = check_id("schedule", name)
    if "@" in checked or len(checked) > MAX_NAME:
        raise DefinitionError(
            f"schedule id {checked!r} does not fit: at most {MAX_NAME} characters and no @, since its executions are "
            "called <schedule>@<due time>"
        )
    return checked


def due_id(name: str, due: float) -> str:
    """The id of the execution that a due time starts.

    Args:
        name: the schedule's.
        due: the due time.

    Raises:
        DefinitionError: no schedule can be called that.

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
    """The earliest moment at which a due time is started: ``jitter`` moves it, always by the same.

    Args:
        name: the schedule's.
        spec: the schedule.
        due: the due time.
    """
    digest = hashlib.blake2b(f"{name}@{_milliseconds(due)}".encode(), digest_size=8).digest()
    share = int.from_bytes(digest) / 2**64
    return due + math.floor(share * spec.jitter * 1000) / 1000


def due_after(spec: Schedule, after: float, anchor: float | None = None) -> float | None:
    """The first due time later than a moment; None if there is no more.

    Args:
        spec: the schedule.
        after: the moment.
        anchor: as for :func:`each_due`.

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
    """The due times from ``start`` on and before ``end``, in order.

    Args:
        spec: the schedule.
        start: the range's beginning, which belongs to it.
        end: its end, which does not.
        limit: due times that are answered at most, the first ones.
        anchor: as for :func:`each_due`.
    """
    before = each_due(spec, math.nextafter(start, -math.inf), anchor)
    return itertools.islice(itertools.takewhile(lambda due: due < end, before), limit)


def each_due(spec: Schedule, after: float, anchor: float | None = None) -> Iterator[float]:
    """The due times later than a moment, in order, without end if the schedule has none.

    Args:
        spec: the schedule.
        after: the moment.
        anchor: for an interval without ``start_at``, one of its due times, from which the others are counted either
            way; without it ``after`` is taken for one.
    """
    last = HORIZON - 1 if spec.end_at is None else spec.end_at
    after = max(after, math.nextafter(0.0, -math.inf))
    dues = _by_interval(spec, after, anchor) if spec.cron is None else _by_cron(spec, spec.cron, after)
    return itertools.takewhile(lambda due: due <= last, dues)


def _milliseconds(seconds: float) -> int:
    return round(seconds * 1000)


def _not_after(moment: float) -> int:
    # Rounded up, it would be a due time of its own, less than a millisecond away.
    milliseconds = math.floor(moment * 1000)
    return milliseconds - (milliseconds / 1000 > moment)


def _by_interval(spec: Schedule, after: float, anchor: float | None) -> Iterator[float]:
    assert spec.every is not None
    step = _milliseconds(spec.every)
    known = anchor if spec.start_at is None else spec.start_at
    origin = _not_after(after) if known is None else _milliseconds(known)
    # One too early on purpose: a float may be off by a part of a millisecond, the comparison below is exact.
    first = (math.floor(after * 1000) - 1 - origin) // step
    numbers = itertools.count(first if spec.start_at is None else max(first, 0))
    return itertools.dropwhile(lambda due: due <= after, ((origin + number * step) / 1000 for number in numbers))


def _by_cron(spec: Schedule, cron: str, after: float) -> Iterator[float]:
    # Cron knows whole seconds: what is later than 9.7 is what is later than 9.
    second = math.floor(after)
    if spec.start_at is not None:
        second = max(second, math.ceil(spec.start_at) - 1)
    if spec.timezone == "UTC":
        return _at_fixed_times(cron, dt.UTC, second)
    zone = zoneinfo.ZoneInfo(spec.timezone)
    minute, hour, *others = cron.split()
    fixed = len(others) == 3 and not minute.startswith("*") and not hour.startswith("*")
    return _at_fixed_times(cron, zone, second) if fixed else _by_the_wall(cron, zone, second)


def _at_fixed_times(cron: str, zone: dt.tzinfo, after: int) -> Iterator[float]:
    """As cronsim has them: moved out of the hour that is skipped, once in the hour that comes twice.

    Two that were moved to the same moment are one, and from within the second of two equal hours cronsim also names
    what was due in the first.
    """
    last = float(after)
    for found in CronSim(cron, dt.datetime.fromtimestamp(after, zone)):
        due = found.timestamp()
        if due > last:
            yield due
            last = due


def _by_the_wall(cron: str, zone: dt.tzinfo, after: int) -> Iterator[float]:
    """Each moment at which a clock on the wall shows what the expression says.

    cronsim is asked for wall time between two changes of the zone's offset. Across a change of half an hour, or one
    at midnight, it leaves some out: ``0 */6 * * *`` in Australia/Lord_Howe has no 06:00 twice a year.
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
    """The first second after ``since``, and not after ``until``, with another offset from UTC."""
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
