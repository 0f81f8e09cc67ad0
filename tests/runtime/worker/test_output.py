"""Output capture: lines, their limits, and the wrapped streams."""

from __future__ import annotations

import asyncio
import contextlib
import io
import sys
import threading
from collections.abc import Iterator

import pytest

from rayflow.runtime.worker.output import OutputLines, Tee, capture, install


@contextlib.contextmanager
def wrapped() -> Iterator[io.StringIO]:
    """Both streams of the process, wrapped. No fixture: pytest changes them between a test's setup and its call."""
    original, before = io.StringIO(), (sys.stdout, sys.stderr)
    sys.stdout = sys.stderr = original
    try:
        install()
        yield original
    finally:
        sys.stdout, sys.stderr = before


# --- lines --------------------------------------------------------------------------------------------------
def test_lines_are_taken_when_they_are_complete_and_once() -> None:
    lines = OutputLines()
    lines.feed("stdout", "one\ntw")
    assert lines.take() == ("one",)
    lines.feed("stdout", "o\n\nthree")
    assert lines.take() == ("two", "")
    assert lines.take() == ()
    assert lines.take(end=True) == ("three",)
    assert lines.take(end=True) == ()


def test_the_streams_do_not_tear_each_others_lines() -> None:
    lines = OutputLines()
    lines.feed("stdout", "out ")
    lines.feed("stderr", "err ")
    lines.feed("stdout", "one\n")
    lines.feed("stderr", "two\n")
    assert lines.take() == ("out one", "err two")


def test_the_last_lines_are_kept_and_the_dropped_ones_counted() -> None:
    lines = OutputLines(limit=2)
    for n in range(5):
        lines.feed("stdout", f"{n}\n")
    assert lines.take() == ("… 3 earlier lines were dropped", "3", "4")
    lines.feed("stdout", "5\n")
    assert lines.take() == ("5",)


def test_a_long_line_is_cut_and_does_not_grow_while_it_is_written() -> None:
    lines = OutputLines(width=4)
    lines.feed("stdout", "abcd\n")
    for _ in range(100):
        lines.feed("stdout", "efgh")
    assert sum(len(rest) for rest in lines._partial.values()) == 5
    lines.feed("stdout", "\n")
    assert lines.take() == ("abcd", "efgh…")


def test_a_carriage_return_begins_the_line_again() -> None:
    lines = OutputLines(width=8)
    for percent in range(0, 101, 10):
        lines.feed("stderr", f"\r{percent:3} %")
    lines.feed("stderr", "\r\n")
    lines.feed("stderr", "windows\r")
    lines.feed("stderr", "\n")
    assert lines.take() == ("100 %", "windows")


# --- streams ------------------------------------------------------------------------------------------------
def test_everything_goes_on_and_what_a_step_writes_is_collected() -> None:
    with wrapped() as out:
        lines = OutputLines()
        print("before")
        with capture(lines):
            print("inside")
            sys.stderr.writelines(["an ", "error\n"])
        print("after")
        assert lines.take() == ("inside", "an error")
        assert out.getvalue() == "before\ninside\nan error\nafter\n"


def test_everything_but_writing_is_the_original_streams() -> None:
    with wrapped():
        assert isinstance(sys.stdout, Tee)
        assert sys.stdout.isatty() is False
        assert sys.stdout.getvalue() == ""
        assert sys.stdout.write("four") == 4
        with pytest.raises(AttributeError, match="no_such_thing"):
            _ = sys.stdout.no_such_thing


def test_installing_again_wraps_nothing_twice() -> None:
    with wrapped():
        streams = sys.stdout, sys.stderr
        install()
        assert (sys.stdout, sys.stderr) == streams


def test_a_process_without_streams_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    install()
    assert (sys.stdout, sys.stderr) == (None, None)


def test_a_stream_put_around_a_wrapped_one_does_not_double_the_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    with wrapped() as out:

        class Around(io.StringIO):
            inner = sys.stdout

            def write(self, text: str) -> int:
                return self.inner.write(text)

        monkeypatch.setattr(sys, "stdout", Around())
        install()
        lines = OutputLines()
        with capture(lines):
            print("once")
        assert lines.take() == ("once",)
        assert out.getvalue() == "once\n"


def test_each_context_has_lines_of_its_own() -> None:
    with wrapped():
        one, two = OutputLines(), OutputLines()
        both = threading.Barrier(2)

        def run(lines: OutputLines, word: str) -> None:
            with capture(lines):
                both.wait()
                print(word)
                both.wait()

        threads = [threading.Thread(target=run, args=(lines, word)) for lines, word in ((one, "one"), (two, "two"))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert (one.take(), two.take()) == (("one",), ("two",))


def test_async_code_and_its_threads_belong_to_the_step_but_bare_threads_do_not() -> None:
    with wrapped() as out:
        lines = OutputLines()

        async def step() -> None:
            print("on the loop")
            await asyncio.create_task(asyncio.to_thread(print, "in a thread of asyncio's"))
            bare = threading.Thread(target=print, args=("in a bare thread",))
            bare.start()
            bare.join()

        with capture(lines):
            asyncio.run(step())
        assert lines.take() == ("on the loop", "in a thread of asyncio's")
        assert out.getvalue().endswith("in a bare thread\n")
