"""When a schedule starts its workflow, and what it does when the previous execution still runs."""

from __future__ import annotations

import datetime as dt
import difflib
import zoneinfo
from typing import Annotated, Literal, Self

from cronsim import CronSim, CronSimError
from pydantic import BeforeValidator, Field, ValidationInfo, field_validator, model_validator

from rayflow.definition.options import Options, Seconds

#: What becomes of a due time that comes while the previous execution still runs.
Overlap = Literal["skip", "queue_one", "allow", "cancel_running"]

#: 1 January 3000: no due time is so late. Beyond it something is wrong, such as milliseconds where seconds belong.
HORIZON = 32_503_680_000.0

#: Of a cron expression with 5 fields; with 6 the second comes first. With what each takes.
_FIELDS = {
    "second": "0-59",
    "minute": "0-59",
    "hour": "0-23",
    "day-of-month": "1-31, L (the last day) or LW (the last weekday)",
    "month": "1-12 or JAN-DEC",
    "day-of-week": "0-7 or SUN-SAT (0 and 7 are Sunday), FRI#2 (the second Friday) or 5L (the last Friday)",
}

#: From here the check looks 50 years ahead for a due time; the calendar repeats itself, so any year would do.
_ANY_TIME = dt.datetime(2000, 1, 1)  # noqa: DTZ001 - in no zone: the check asks the calendar alone


def _moment(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError(f"needs a datetime with a time zone, or seconds since the epoch, not {value}")  # noqa: TRY004 - pydantic takes only this
    if not isinstance(value, dt.datetime):
        return value
    if value.tzinfo is None or value.utcoffset() is None:
        raise ValueError(
            f"{value.isoformat()} has no time zone, so it is another moment on each machine; give it one, as in "
            'datetime(2026, 11, 24, 2, tzinfo=ZoneInfo("Europe/Berlin")), or give seconds since the epoch'
        )
    return value.timestamp()


#: A moment in seconds since the epoch, made from a datetime with a time zone, or from the number.
Moment = Annotated[float, BeforeValidator(_moment), Field(ge=0, lt=HORIZON, allow_inf_nan=False)]


class Schedule(Options):
    """Times at which the engine starts a workflow: those of a cron expression, or an interval.

    Each due time starts one execution at most, whose id is the schedule's name and the due time. Daylight saving
    follows Debian's cron: a job at fixed hours and minutes that would fall into the skipped hour comes due at the
    hour's end, and in the repeated hour it comes due once; a job with ``*`` in its minutes or hours, or with
    seconds, follows the clock on the wall through both.

    Args:
        cron: a cron expression of 5 fields (minute, hour, day of month, month, day of week), or 6 with the second
            first. Where neither day field begins with ``*``, either of them is enough, as in cron.
        every: seconds between two due times, at least 0.001 and in whole milliseconds, instead of ``cron``. They
            are counted from ``start_at``, the first being that moment; without it, from the moment at which the
            schedule was made, the first being one interval later.
        timezone: IANA name of the zone in which the cron expression is read.
        overlap: what becomes of a due time while an execution of the schedule still runs. ``"skip"``: it is
            skipped. ``"queue_one"``: it waits until that one has ended; while one waits, others are skipped.
            ``"allow"``: both run at once. ``"cancel_running"``: the running one is cancelled, and the new one
            starts.
        catch_up: seconds after which a due time that could not be started (everything was down) is no longer
            started and counts as missed. A start that ``jitter`` delays is not late. A value below the few seconds
            of a restart makes starts that a restart delayed count as missed.
        jitter: seconds by which a start may come later than its due time, so that many schedules do not start at
            once. How much, is derived from the schedule's name and the due time. Starts keep the order of their
            due times.
        start_at: no due time is earlier. A datetime with a time zone, or seconds since the epoch (to the
            millisecond); the seconds are stored.
        end_at: no due time is later. As ``start_at``.
        max_runs: due times that start an execution at most; None for any number.

    Raises:
        InvalidArgument: an option is wrong; it says which, why, and what would be right.

    Example:
        >>> Schedule(cron="30 2 * * MON-FRI", timezone="Europe/Berlin", overlap="queue_one").catch_up
        3600.0
        >>> Schedule(every=90, start_at=dt.datetime(2026, 11, 24, tzinfo=dt.UTC)).start_at
        1795478400.0
    """

    cron: str | None = None
    every: Seconds | None = Field(default=None, ge=0.001, allow_inf_nan=False)
    timezone: str = "UTC"
    overlap: Overlap = "skip"
    catch_up: Seconds = Field(default=3600.0, gt=0, allow_inf_nan=False)
    jitter: Seconds = Field(default=0.0, ge=0, allow_inf_nan=False)
    start_at: Moment | None = None
    end_at: Moment | None = None
    max_runs: int | None = Field(default=None, ge=1)

    @field_validator("cron")
    @classmethod
    def _expression(cls, value: str | None) -> str | None:
        if value is None:
            return None
        expression = " ".join(value.split())
        _check_cron(expression)
        return expression

    @field_validator("timezone")
    @classmethod
    def _zone(cls, value: str) -> str:
        if value != "UTC":
            _check_zone(value)
        return value

    @field_validator("every", "start_at", "end_at")
    @classmethod
    def _whole_milliseconds(cls, value: float | None, info: ValidationInfo) -> float | None:
        rounded = None if value is None else round(value * 1000) / 1000
        if info.field_name == "every" and rounded != value:
            raise ValueError(f"needs whole milliseconds, not {value!r}; take {rounded!r}")
        return rounded

    @model_validator(mode="after")
    def _fit(self) -> Self:
        if self.cron is None and self.every is None:
            raise ValueError('needs cron (as in cron="30 2 * * *") or every (seconds)')
        if self.cron is not None and self.every is not None:
            raise ValueError("takes cron or every, not both: leave one out")
        if self.every is not None and self.timezone != "UTC":
            raise ValueError(
                f"every counts seconds, which no time zone changes: leave out timezone={self.timezone!r}, or use cron "
                "for times of the day"
            )
        if self.start_at is not None and self.end_at is not None and self.end_at < self.start_at:
            raise ValueError(f"end_at ({self.end_at!r}) must not be earlier than start_at ({self.start_at!r})")
        return self


def _check_cron(expression: str) -> None:
    fields = expression.split()
    names = list(_FIELDS)[-len(fields) :]
    if len(fields) not in {5, 6}:
        raise ValueError(
            "needs 5 fields (minute, hour, day of month, month, day of week), or 6 with the second first; "
            f"{expression!r} has {len(fields)}"
        )
    never = f"{expression!r} never comes due: no month it names has such a day"
    try:
        found = next(CronSim(expression, _ANY_TIME), None)
    except CronSimError as error:
        name = str(error).removeprefix("Bad ")
        place = names.index(name)
        if name == "day-of-month" and _fits([*fields[: place + 1], "*", "*"]):
            raise ValueError(never) from None
        raise ValueError(
            f"the {name} field {fields[place]!r} of {expression!r} is bad; it takes {_FIELDS[name]}, also as a range "
            "(2-5), a step (*/2) or a list (2,4)"
        ) from None
    if found is None:
        raise ValueError(never)


def _fits(fields: list[str]) -> bool:
    try:
        CronSim(" ".join(fields), _ANY_TIME)
    except CronSimError:
        return False
    return True


def _check_zone(name: str) -> None:
    try:
        zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        known = sorted(zoneinfo.available_timezones())
        if not known:
            raise ValueError(f"{name!r} cannot be looked up: this machine has no time zones; install tzdata") from None
        raise ValueError(f"unknown time zone {name!r}; use an IANA name{_nearest(name, known)}") from None


def _nearest(name: str, known: list[str]) -> str:
    cities = [zone for zone in known if zone.casefold().endswith(f"/{name.casefold()}")]
    near = [*cities, *difflib.get_close_matches(name, known, n=3)] or ["Europe/Berlin"]
    return f" such as {near[0]!r}"
