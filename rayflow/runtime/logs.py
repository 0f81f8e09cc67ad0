"""Logs that say which execution, step and attempt they are about.

Only rayflow's own handler is configured, on the root logger, and only where :func:`configure` is called: in the
actors' processes. A program that has its own logging adds :class:`LogContextFilter` to its own handlers.
"""

from __future__ import annotations

import contextlib
import json as json_module
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from typing import Any, NamedTuple

from rayflow.errors import InvalidArgument

#: Attributes that every record has; others were given as ``extra``.
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "execution", "step", "attempt"}

_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")


class LogContext(NamedTuple):
    """Where in an execution something is logged; empty where it is in none."""

    execution: str = ""
    step: str = ""
    attempt: int = 0


_PLACE: ContextVar[LogContext] = ContextVar("rayflow_place", default=LogContext())  # noqa: B039 - a tuple, never changed


@contextlib.contextmanager
def within(execution: str, step: str = "", attempt: int = 0) -> Iterator[None]:
    """Records that are made inside this block belong to that execution, step and attempt.

    Args:
        execution: the execution's id.
        step: the step's name; "" in a coordinator.
        attempt: from 1; 0 in a coordinator.
    """
    token = _PLACE.set(LogContext(execution, step, attempt))
    try:
        yield
    finally:
        _PLACE.reset(token)


class PlaceFilter(logging.Filter):
    """Adds ``execution``, ``step`` and ``attempt`` to each record, unless its ``extra`` had them. It drops none.

    It belongs on handlers: on a logger it would miss the records of that logger's children.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Add them; always True."""
        fields = vars(record)
        for name, value in _PLACE.get()._asdict().items():
            fields.setdefault(name, value)
        return True


class TextFormatter(logging.Formatter):
    """One line for people: time, level, logger, message, and in brackets where it belongs."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's own name
        """The line, before the traceback."""
        fields = vars(record)
        place = f"{fields.get('execution', '')} {fields.get('step', '')}".strip()
        if place and fields.get("attempt"):
            place += f" #{fields['attempt']}"
        return super().formatMessage(record) + (f" [{place}]" if place else "")


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time (UTC), level, logger, message, where it belongs, and what ``extra`` gave."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as JSON."""
        given = vars(record)
        seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        shown: dict[str, Any] = {
            "time": f"{seconds}.{int(record.msecs):03d}Z",
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        shown.update((name, given[name]) for name in LogContext._fields if given.get(name))
        if record.exc_info:
            shown["exception"] = self.formatException(record.exc_info)
        if record.stack_info:
            shown["stack"] = self.formatStack(record.stack_info)
        # What begins with an underscore, others (Ray) have put there for themselves.
        more = (name for name in given if name not in _STANDARD and name not in shown and not name.startswith("_"))
        shown.update((name, given[name]) for name in list(more))
        return json_module.dumps(shown, default=repr, ensure_ascii=False)


class StderrHandler(logging.Handler):
    """Writes to whatever ``sys.stderr`` is at that moment, so that what a step logs is collected with its prints."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write the record."""
        try:
            sys.stderr.write(self.format(record) + "\n")
            sys.stderr.flush()
        except Exception:  # noqa: BLE001 - logging's own way: a record that cannot be written must not end the program
            self.handleError(record)


def configure(
    *, json: bool | None = None, level: str | None = None, environ: Mapping[str, str] = os.environ
) -> logging.Handler:
    """Log to standard error, all loggers of this process. Called again, it takes the place of the call before.

    Args:
        json: JSON, or text for people; None takes RAYFLOW_LOG_FORMAT ("json" or "text"), else text.
        level: the lowest level that is logged; None takes RAYFLOW_LOG_LEVEL, else "INFO".
        environ: where the variables are read.

    Returns:
        The handler, which is on the root logger.

    Raises:
        InvalidArgument: the format or level is none of those.
    """
    chosen = environ.get("RAYFLOW_LOG_FORMAT", "text").lower()
    if json is None and chosen not in {"json", "text"}:
        raise InvalidArgument(f"RAYFLOW_LOG_FORMAT is {chosen!r}; it can be json or text")
    lowest = (level or environ.get("RAYFLOW_LOG_LEVEL") or "INFO").upper()
    if lowest not in _LEVELS:
        source = "level" if level else "RAYFLOW_LOG_LEVEL"
        raise InvalidArgument(f"{source} is {lowest!r}; it can be {', '.join(_LEVELS)}")
    handler = StderrHandler()
    handler.addFilter(PlaceFilter())
    handler.setFormatter(JsonFormatter() if (chosen == "json" if json is None else json) else TextFormatter())
    root = logging.getLogger()
    for earlier in [known for known in root.handlers if isinstance(known, StderrHandler)]:
        root.removeHandler(earlier)
    root.addHandler(handler)
    root.setLevel(lowest)
    return handler


#: Seconds between two lines about the same trouble; also when it comes and goes.
REMIND = 30.0

Log = logging.Logger | logging.LoggerAdapter[logging.Logger]


class ThrottledWarning:
    """One thing that is tried again and again. Used by one thread at a time.

    Trouble that is not heard of for :data:`REMIND` seconds is over, whether anybody says so or not.

    Args:
        log: where it is told.
        what: what cannot be done, such as "the store cannot be written".
        clock: seconds, of any origin.
    """

    def __init__(self, log: Log, what: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._log = log
        self._what = what
        self._clock = clock
        self._since: float | None = None
        self._last = 0.0
        self._told: float | None = None
        self._times = 0

    def failed(self, error: object) -> None:
        """It failed, and will be tried again."""
        now = self._clock()
        if self._since is None or now - self._last >= REMIND:
            self._since, self._times = now, 0
        self._last = now
        self._times += 1
        if self._told is not None and now - self._told < REMIND:
            return
        self._told = now
        if self._times == 1:
            self._log.warning("%s, which is tried again: %s", self._what, error)
        else:
            lasts = now - self._since
            self._log.warning("%s for %.0f s now, tried %d times: %s", self._what, lasts, self._times, error)

    def over(self) -> None:
        """It was done."""
        since, self._since = self._since, None
        if since is not None and self._told is not None and self._told >= since:
            self._log.warning("over after %.1f s: %s", self._clock() - since, self._what)
