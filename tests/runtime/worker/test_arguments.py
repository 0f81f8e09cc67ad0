"""Arguments are rebuilt as the function declares them, as far as that can be told."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import pytest

from rayflow.errors import CodecError
from rayflow.runtime.worker.attempt import read_arguments
from tests.runtime.worker import worker_steps
from tests.runtime.worker.worker_harness import CODEC
from tests.runtime.worker.worker_steps import Point, Verdict

POINT = {"x": 1, "y": 2}


def read(fn: Callable[..., Any], *args: Any, **kwargs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return read_arguments(CODEC, CODEC.encode((args, kwargs)), fn)


def called(fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    positional, named = read(fn, *args, **kwargs)
    return fn(*positional, **named)


def test_values_that_are_what_is_declared_stay_as_they_are() -> None:
    def takes(verdict: Verdict, point: Point, n: int, anything: Any) -> tuple[Any, ...]:
        return verdict, point, n, anything

    given = (Verdict(score=1), Point(1, 2), 3, {"a": (1, {2})})
    assert called(takes, *given) == given


def test_plain_data_becomes_the_declared_class_wherever_it_stands() -> None:
    def takes(a: Point, b: Verdict | None = None, *c: Point, d: list[Point], **e: Point) -> tuple[Any, ...]:
        return a, b, c, d, e

    found = called(takes, POINT, {"score": 1}, POINT, d=[POINT], one=POINT)
    assert found == (Point(1, 2), Verdict(score=1), (Point(1, 2),), [Point(1, 2)], {"one": Point(1, 2)})
    assert called(takes, POINT, None, d=[]) == (Point(1, 2), None, (), [], {})
    assert called(takes, a=POINT, d=[]) == (Point(1, 2), None, (), [], {})


def test_what_does_not_fit_is_passed_as_it_is() -> None:
    def takes(point: Point) -> Any:
        return point

    assert called(takes, {"x": 1}) == {"x": 1}
    assert read(takes, 1, 2) == ((1, 2), {})


def test_an_annotation_that_cannot_be_resolved_spoils_no_other() -> None:
    def takes(a: Nowhere, b: Point) -> tuple[Any, Any]:  # type: ignore[name-defined]  # noqa: F821
        return a, b

    assert called(takes, POINT, POINT) == (POINT, Point(1, 2))


def test_a_class_made_beside_the_function_is_found() -> None:
    @dataclasses.dataclass
    class Local:
        n: int

    def takes(local: Local, make: bool = False) -> Any:  # noqa: FBT001, FBT002
        return Local(0) if make else local

    assert called(takes, {"n": 4}) == Local(4)


def test_partials_methods_and_callables_that_cannot_be_hashed_have_annotations_too() -> None:
    def takes(n: int, point: Point) -> tuple[Any, Any]:
        return n, point

    class Agent:
        def run(self, point: Point) -> Any:
            return point

    @dataclasses.dataclass
    class Callee:
        n: int

        def __call__(self, point: Point) -> Any:
            return point

    assert called(functools.partial(takes, 1), POINT) == (1, Point(1, 2))
    assert called(Agent().run, POINT) == Point(1, 2)
    assert called(Callee(1), POINT) == Point(1, 2)


def test_a_function_without_a_signature_takes_what_it_is_given() -> None:
    assert called(max, 1, 3, 2) == 3


def test_an_object_whose_class_is_gone_is_rebuilt_as_what_is_declared(monkeypatch: pytest.MonkeyPatch) -> None:
    def takes(point: Point, n: int) -> tuple[Any, int]:
        return point, n

    def undeclared(point: Any, n: int) -> Any:
        return point, n

    moved = dataclasses.make_dataclass("Moved", [("x", int), ("y", int)], frozen=True)
    moved.__module__ = worker_steps.__name__
    monkeypatch.setattr(worker_steps, "Moved", moved, raising=False)
    payload = CODEC.encode(((moved(1, 2), 3), {}))
    monkeypatch.delattr(worker_steps, "Moved")
    assert read_arguments(CODEC, payload, takes) == ((Point(1, 2), 3), {})
    with pytest.raises(CodecError, match="Moved"):
        read_arguments(CODEC, payload, undeclared)
