from __future__ import annotations

import functools
import inspect
import math
from collections.abc import AsyncIterator, Iterator
from typing import Any, get_args

import pytest

import rayflow as rf
from rayflow.definition.context import StepCall, Target
from rayflow.definition.options import StepOptions
from rayflow.definition.step import StepKeywords
from tests.definition.fake import FakeExecution, plainly


@rf.step
def count(text: str, *, extra: int = 0) -> int:
    """Words in a text."""
    return len(text.split()) + extra


@rf.step(name="read-it", retry=rf.RetryPolicy(max_retries=1), timeout=30, local=True, pool="io")
async def read(path: str) -> str:
    return f"text of {path}"


def test_a_step_simply_runs_outside_a_workflow() -> None:
    assert plainly(count("one two", extra=1)) == 3
    assert plainly(read("a.txt")) == "text of a.txt"


def test_a_step_in_a_workflow_is_issued_with_its_options_and_answers_the_recorded_result() -> None:
    async def recorded(call: StepCall) -> str:
        return "recorded"

    execution = FakeExecution(attempt=recorded)
    assert execution.run(lambda: read(path="a.txt")) == "recorded"
    assert execution.calls == [
        StepCall("read-it", Target(read), (), {"path": "a.txt"}, read.settings, str),
    ]
    assert read.settings == StepOptions(retry=rf.RetryPolicy(max_retries=1), timeout=30, local=True, pool="io")


def test_where_a_step_runs_is_decided_when_it_is_awaited() -> None:
    made_outside = count("one two")
    execution = FakeExecution()

    async def body() -> int:
        return await made_outside

    assert execution.run(body) == 2
    assert execution.names == ["count"]


def test_a_step_looks_like_its_function() -> None:
    looks: Any = count  # a type checker knows no __name__ of it
    assert (looks.__name__, looks.__doc__, looks.__module__) == ("count", "Words in a text.", __name__)
    assert inspect.signature(count) == inspect.signature(count.fn)
    assert count.fn("a b c") == 3
    assert count.name == "count"
    assert not count.is_async
    assert read.is_async
    assert repr(count).startswith("<step 'count' of <function count at")


def test_a_wrong_call_raises_where_it_is_made() -> None:
    with pytest.raises(TypeError, match=r"step 'count': missing a required argument: 'text'; it takes \(text: "):
        _ = count()  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="step 'count': got an unexpected keyword argument 'spare'"):
        _ = count("one", spare=1)  # type: ignore[call-arg]


def test_a_plain_wrapper_around_an_async_function_is_awaited() -> None:
    @rf.step
    @functools.wraps(read.fn)
    def wrapped(path: str) -> Any:
        return read.fn(path)

    assert not wrapped.is_async
    assert plainly(wrapped("b")) == "text of b"


def test_an_object_with_an_async_call_is_async() -> None:
    class Reader:
        async def __call__(self, path: str) -> str:
            return path

    step = rf.step(Reader(), name="reader")
    assert step.is_async
    assert plainly(step("c")) == "c"
    assert rf.step(functools.partial(read.fn, "d"), name="d").is_async


def test_options_gives_a_copy() -> None:
    quick = read.options(timeout=5, name="quick")
    assert (quick.name, quick.settings.timeout, quick.settings.pool) == ("quick", 5, "io")
    assert (read.name, read.settings.timeout) == ("read-it", 30)
    assert quick.fn is read.fn
    assert quick.options(local=False).origin is read


def test_the_typed_settings_are_the_options() -> None:
    assert set(StepKeywords.__annotations__) == {"name", *StepOptions.model_fields}


# --- what is refused ----------------------------------------------------------------------------------------
def generator(n: int) -> Iterator[int]:
    yield n


async def async_generator(n: int) -> AsyncIterator[int]:
    yield n


class Holder:
    def method(self, n: int) -> int:
        return n

    @classmethod
    def on_class(cls, n: int) -> int:
        return n


REFUSED: list[tuple[Any, str]] = [
    (generator, "step generator is a generator; a step returns once: return a list instead of yielding"),
    (async_generator, "step async_generator is a generator; a step returns once: return a list instead of yielding"),
    (Holder.method, r"step Holder.method is a method \(its first parameter is 'self'\); another process has no such"),
    (Holder.__dict__["on_class"], "step Holder.on_class: put @rf.step below @classmethod, next to the function"),
    (staticmethod(len), "step len: put @rf.step below @staticmethod, next to the function"),
    (Holder, "@rf.step needs a function, not a class"),
    (17, "@rf.step needs a function, not int 17"),
    (lambda n: n, r"a lambda has no name: say which with name=, as in rf.step\(name='...'\)\(...\)"),
    (functools.partial(len), "partial has no name: say which with name="),
    (count, "is defined already; use its .fn, or .options"),
    (max, "has no signature that Python can read: wrap it in a function"),
]


@pytest.mark.parametrize(("fn", "message"), REFUSED, ids=[message[:40] for _, message in REFUSED])
def test_what_cannot_be_a_step_is_refused(fn: Any, message: str) -> None:
    with pytest.raises(rf.DefinitionError, match=message):
        rf.step(fn)


def test_a_named_lambda_is_a_step() -> None:
    double = rf.step(lambda n: n * 2, name="double")
    triple: Any = rf.step(name="triple")(lambda n: n * 3)
    assert (plainly(double(2)), plainly(triple(2))) == (4, 6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"retri": 1}, "@rf.step has no option 'retri'; it has: concurrency_key, concurrency_limit, "),
        ({"timeout": True}, "timeout: needs seconds as a number, not True"),
        ({"timeout": 0}, r"timeout: Input should be greater than 0 \(given: 0\)"),
        ({"retry": 3}, "retry: Input should be a valid dictionary or instance of RetryPolicy"),
        ({"name": ""}, "step name must not be empty"),
        ({"name": 3}, "step name must be a string, not int"),
        ({"name": "a\nb"}, r"step name 'a\\nb' does not fit: 1 to 200 printable characters"),
        ({"name": "x" * 201}, "does not fit: 1 to 200 printable characters"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(rf.InvalidArgument, match=message):
        rf.step(**options)(count.fn)
    with pytest.raises(rf.InvalidArgument, match=message):
        count.options(**options)


def test_no_timeout_and_the_default_timeout_are_told_apart() -> None:
    assert rf.step(timeout=math.inf)(count.fn).settings.timeout == math.inf
    assert rf.step(timeout=None)(count.fn).settings.timeout is None


# --- annotations --------------------------------------------------------------------------------------------
def test_the_result_annotation_is_resolved_lazily_and_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def later(wrong: Missing) -> list[Known]:  # type: ignore[name-defined]  # noqa: F821
        return []

    step = rf.step(later)
    monkeypatch.setitem(globals(), "Known", int)
    assert get_args(step.returns) == (int,)


def test_an_annotation_that_cannot_be_resolved_is_none() -> None:
    def nowhere() -> Missing:  # type: ignore[name-defined]  # noqa: F821
        return 1

    def unannotated():  # type: ignore[no-untyped-def]  # noqa: ANN202
        return 1

    def nothing() -> None:
        return

    assert rf.step(nowhere).returns is None
    assert rf.step(unannotated).returns is None
    assert rf.step(nothing).returns is type(None)


def test_a_class_beside_a_nested_function_is_found() -> None:
    class Report:
        pass

    @rf.step
    def write() -> Report:
        return Report()

    assert write.returns is Report
