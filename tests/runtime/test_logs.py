"""Log records carry their execution, step and attempt, and reach the captured output."""

from __future__ import annotations

import contextlib
import gc
import io
import json
import logging
import sys
from collections.abc import Iterator

import pytest

from rayflow.errors import InvalidArgument
from rayflow.runtime.logs import LogContextFilter, StderrHandler, configure, log_context
from rayflow.runtime.worker.output import OutputLines, capture, install
from tests.runtime.worker import worker_steps as steps
from tests.runtime.worker.worker_harness import bench

log = logging.getLogger("some.module")


@contextlib.contextmanager
def logging_to() -> Iterator[io.StringIO]:
    """Standard error. No fixture: pytest changes it between a test's setup and its call."""
    gc.collect()  # tasks that other tests left behind have their last word elsewhere
    root, before = logging.getLogger(), sys.stderr
    handlers, level = root.handlers[:], root.level
    sys.stderr = stream = io.StringIO()
    try:
        yield stream
    finally:
        sys.stderr = before
        root.handlers[:] = handlers
        root.setLevel(level)


def test_json_has_one_object_a_line_with_what_is_known() -> None:
    with logging_to() as err:
        configure(json=True)
        with log_context("doc-17", "extract", 2):
            log.info("read %d pages\nof it", 3, extra={"pages": 3, "where": {1}})
        log.info("alone")
        inside, outside = map(json.loads, err.getvalue().splitlines())
        assert inside.pop("time").endswith("Z")
        assert inside == {
            "level": "INFO",
            "logger": "some.module",
            "message": "read 3 pages\nof it",
            "execution": "doc-17",
            "step": "extract",
            "attempt": 2,
            "pages": 3,
            "where": "{1}",
        }
        assert set(outside) == {"time", "level", "logger", "message"}


def test_json_holds_the_exception_and_the_stack() -> None:
    with logging_to() as err:
        configure(json=True)
        try:
            int("no")
        except ValueError:
            log.exception("it failed", stack_info=True)
        shown = json.loads(err.getvalue())
        assert shown["exception"].splitlines()[-1] == "ValueError: invalid literal for int() with base 10: 'no'"
        assert shown["stack"].startswith("Stack (most recent call last):")


def test_time_is_that_of_the_record_in_utc() -> None:
    with logging_to() as err:
        handler = configure(json=True)
        record = logging.makeLogRecord({"msg": "then", "created": 86_400.25, "msecs": 250.0})
        handler.handle(record)
        assert json.loads(err.getvalue())["time"] == "1970-01-02T00:00:00.250Z"


def test_text_names_the_place_in_brackets() -> None:
    with logging_to() as err:
        configure(json=False)
        with log_context("doc-17"):
            log.warning("in the coordinator")
            with log_context("doc-17", "extract", 2):
                log.warning("in the step")
        log.warning("in neither")
        lines = [line.partition(" WARNING some.module: ")[2] for line in err.getvalue().splitlines()]
        assert lines == ["in the coordinator [doc-17]", "in the step [doc-17 extract #2]", "in neither"]


def test_what_extra_says_is_not_overwritten() -> None:
    with logging_to() as err:
        configure(json=True)
        with log_context("doc-17", "train", 1):
            log.info("loss", extra={"step": 1000})
        assert json.loads(err.getvalue())["step"] == 1000


def test_a_programs_own_handler_can_name_the_place() -> None:
    with logging_to():
        own, stream = logging.StreamHandler(io.StringIO()), io.StringIO()
        own.setStream(stream)
        own.addFilter(LogContextFilter())
        own.setFormatter(logging.Formatter("%(execution)s/%(step)s/%(attempt)s %(message)s"))
        log.addHandler(own)
        try:
            with log_context("doc-17", "extract", 2):
                log.error("oh")
        finally:
            log.removeHandler(own)
        assert stream.getvalue() == "doc-17/extract/2 oh\n"


# --- configuring --------------------------------------------------------------------------------------------
def test_format_and_level_come_from_the_environment() -> None:
    with logging_to() as err:
        configure(environ={"RAYFLOW_LOG_FORMAT": "json", "RAYFLOW_LOG_LEVEL": "error"})
        log.warning("too low")
        log.error("high enough")
        assert json.loads(err.getvalue())["message"] == "high enough"


def test_what_is_given_comes_first() -> None:
    with logging_to() as err:
        configure(json=False, level="debug", environ={"RAYFLOW_LOG_FORMAT": "json", "RAYFLOW_LOG_LEVEL": "ERROR"})
        log.debug("shown")
        assert err.getvalue().endswith("DEBUG some.module: shown\n")


def test_without_any_it_is_text_from_info_on() -> None:
    with logging_to() as err:
        configure(environ={})
        log.debug("too low")
        log.info("shown")
        assert err.getvalue().endswith("INFO some.module: shown\n")
        assert err.getvalue().count("\n") == 1


def test_configuring_again_replaces_the_handler() -> None:
    with logging_to() as err:
        configure(json=True)
        handler = configure(json=False)
        assert [known for known in logging.getLogger().handlers if isinstance(known, StderrHandler)] == [handler]
        log.info("once")
        assert err.getvalue().count("once") == 1


@pytest.mark.parametrize(
    ("environ", "says"),
    [
        ({"RAYFLOW_LOG_FORMAT": "xml"}, "RAYFLOW_LOG_FORMAT is 'xml'; allowed are json and text"),
        (
            {"RAYFLOW_LOG_LEVEL": "LOUD"},
            "RAYFLOW_LOG_LEVEL is 'LOUD'; allowed are DEBUG, INFO, WARNING, ERROR, CRITICAL",
        ),
    ],
)
def test_a_wrong_setting_says_what_would_be_right(environ: dict[str, str], says: str) -> None:
    with logging_to():
        handlers = logging.getLogger().handlers[:]
        with pytest.raises(InvalidArgument, match=says):
            configure(environ=environ)
        assert logging.getLogger().handlers == handlers


# --- reaching whoever watches -------------------------------------------------------------------------------
def test_a_record_made_while_collecting_is_a_line() -> None:
    with logging_to():
        configure(json=False)
        install()  # after the handler was made: it looks for standard error when it writes
        lines = OutputLines()
        with capture(lines):
            log.warning("careful")
        [line] = lines.take()
        assert line.endswith("WARNING some.module: careful")


def test_what_a_step_logs_comes_with_its_outcome_and_names_it() -> None:
    with logging_to() as err:
        configure(json=True)
        with bench(1) as one:
            task = one.task(steps.log_something, "my.agent", execution_id="doc-17", attempt=3)
            [outcome] = one.run(task).outcomes
        [line] = outcome.output
        shown = json.loads(line)
        assert (shown["logger"], shown["message"]) == ("my.agent", "careful with 7")
        assert (shown["execution"], shown["step"], shown["attempt"]) == ("doc-17", "log_something", 3)
        assert err.getvalue().count("careful with 7") == 1


def test_a_stream_that_cannot_be_written_does_not_end_the_program(monkeypatch: pytest.MonkeyPatch) -> None:
    with logging_to() as err:
        told: list[logging.LogRecord] = []
        handler = configure(json=False)
        monkeypatch.setattr(handler, "handleError", told.append)
        err.close()
        log.error("nobody hears this")
        assert [record.getMessage() for record in told] == ["nobody hears this"]
