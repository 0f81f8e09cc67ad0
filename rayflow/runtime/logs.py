"""Logging: the execution context of records, text and JSON formats, and throttled warnings.

:func:`configure` adds rayflow's handler to the root logger; only the processes of actors call it. A program with
its own logging adds :class:`LogContextFilter` to its handlers. Errors that are retried are logged through a
:class:`ThrottledWarning`.
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

#: Attributes that every record has; all others come from ``extra``.
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "execution", "step", "attempt"}

_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")

#: Seconds between two warnings about the same outage, also if it comes and goes.
REPEAT_INTERVAL = 30.0

Log = logging.Logger | logging.LoggerAdapter[logging.Logger]


class LogContext(NamedTuple):
    """Execution context of a log record; empty outside of executions."""

    execution: str = ""
    step: str = ""
    attempt: int = 0


_CONTEXT: ContextVar[LogContext] = ContextVar("rayflow_log_context", default=LogContext())  # noqa: B039 - a tuple, never changed


@contextlib.contextmanager
def log_context(execution: str, step: str = "", attempt: int = 0) -> Iterator[None]:
    """Set the execution context of the records that are made inside of this block.

    Args:
        execution: the execution's id.
        step: the step's name; "" in a coordinator.
        attempt: number of the attempt, from 1; 0 in a coordinator.
    """
    token = _CONTEXT.set(LogContext(execution, step, attempt))
    try:
        yield
    finally:
        _CONTEXT.reset(token)


class LogContextFilter(logging.Filter):
    """Adds ``execution``, ``step`` and ``attempt`` to each record, unless its ``extra`` has them; drops no record.

    Add it to handlers: on a logger it would miss the records of that logger's children.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Add the attributes, and return True."""
        fields = vars(record)
        for name, value in _CONTEXT.get()._asdict().items():
            fields.setdefault(name, value)
        return True


class TextFormatter(logging.Formatter):
    """One line per record: time, level, logger, message, and the execution context in brackets."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's own name
        """Return the line before the traceback."""
        fields = vars(record)
        context = f"{fields.get('execution', '')} {fields.get('step', '')}".strip()
        if context and fields.get("attempt"):
            context += f" #{fields['attempt']}"
        return super().formatMessage(record) + (f" [{context}]" if context else "")


class JsonFormatter(logging.Formatter):
    """One JSON object per record: time (UTC), level, logger, message, execution context, and the ``extra``."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as JSON."""
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
        # Attributes with an underscore belong to other libraries (Ray).
        more = (name for name in given if name not in _STANDARD and name not in shown and not name.startswith("_"))
        shown.update((name, given[name]) for name in list(more))
        return json_module.dumps(shown, default=repr, ensure_ascii=False)


class StderrHandler(logging.Handler):
    """Writes to the current ``sys.stderr``, so that the logs of a step are captured together with its output."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write the record."""
        try:
            sys.stderr.write(self.format(record) + "\n")
            sys.stderr.flush()
        except Exception:  # noqa: BLE001 - as logging does: a record that cannot be written must not end the program
            self.handleError(record)


def configure(
    *, json: bool | None = None, level: str | None = None, environ: Mapping[str, str] = os.environ
) -> logging.Handler:
    """Log all loggers of this process to standard error. A further call replaces the handler.

    Args:
        json: whether records are JSON or text; None reads RAYFLOW_LOG_FORMAT ("json" or "text", default "text").
        level: the lowest level that is logged; None reads RAYFLOW_LOG_LEVEL (default "INFO").
        environ: the environment variables.

    Returns:
        The handler, on the root logger.

    Raises:
        InvalidArgument: if the format or the level is invalid.
    """
    chosen = environ.get("RAYFLOW_LOG_FORMAT", "text").lower()
    if json is None and chosen not in {"json", "text"}:
        raise InvalidArgument(f"RAYFLOW_LOG_FORMAT is {chosen!r}; allowed are json and text")
    lowest = (level or environ.get("RAYFLOW_LOG_LEVEL") or "INFO").upper()
    if lowest not in _LEVELS:
        source = "level" if level else "RAYFLOW_LOG_LEVEL"
        raise InvalidArgument(f"{source} is {lowest!r}; allowed are {', '.join(_LEVELS)}")
    handler = StderrHandler()
    handler.addFilter(LogContextFilter())
    handler.setFormatter(JsonFormatter() if (chosen == "json" if json is None else json) else TextFormatter())
    root = logging.getLogger()
    for earlier in [known for known in root.handlers if isinstance(known, StderrHandler)]:
        root.removeHandler(earlier)
    root.addHandler(handler)
    root.setLevel(lowest)
    return handler


class ThrottledWarning:
    """Logs the outage of an action that is retried: at first, every 30 s, and at its end. Not thread-safe.

    An outage also ends without :meth:`recovered`, if no failure occurs for :data:`REPEAT_INTERVAL` seconds.

    Args:
        what: what fails, such as "the store cannot be written".
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
        """Record a failure of the action, which is going to be retried."""
        now = self._clock()
        if self._since is None or now - self._last >= REPEAT_INTERVAL:
            self._since, self._times = now, 0
        self._last = now
        self._times += 1
        if self._told is not None and now - self._told < REPEAT_INTERVAL:
            return
        self._told = now
        if self._times == 1:
            self._log.warning("%s, retrying: %s", self._what, error)
        else:
            seconds = now - self._since
            self._log.warning("%s for %.0f s after %d attempts, retrying: %s", self._what, seconds, self._times, error)

    def recovered(self) -> None:
        """Record a success of the action."""
        since, self._since = self._since, None
        if since is not None and self._told is not None and self._told >= since:
            self._log.warning("recovered after %.1f s: %s", self._clock() - since, self._what)
