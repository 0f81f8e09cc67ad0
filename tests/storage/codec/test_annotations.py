"""Annotations rebuild what arrives as plain data, and what has lost its class."""

from __future__ import annotations

import dataclasses
import sys
import types
from typing import Annotated, Any, Literal, NewType, Optional, TypedDict

import pytest

from rayflow.errors import CodecError
from rayflow.storage.codec.annotations import fits
from rayflow.storage.codec.payloads import MsgpackCodec
from tests.storage.samples import Colour, Level, Model, Report, UserName, Verdict

CODEC = MsgpackCodec()
Name = NewType("Name", str)


class Row(TypedDict):
    a: int


def decode(value: Any, annotation: Any, *, strict: bool = False) -> Any:
    return CODEC.decode(CODEC.encode(value), annotation, strict=strict)


@pytest.mark.parametrize(
    ("value", "annotation", "expected"),
    [
        ({"title": "t"}, Report, Report("t")),
        ([{"title": "t"}], list[Report], [Report("t")]),
        ({"title": "t"}, Report | None, Report("t")),
        (None, Optional[Report], None),  # noqa: UP045 - the old spelling is what is tested
        ({"a": {"name": "n"}}, dict[str, Model], {"a": Model(name="n")}),
        ([{"name": "n"}, 1], tuple[Model, int], (Model(name="n"), 1)),
        ({"approved": True, "by": {"name": "n"}}, Verdict, Verdict(approved=True, by=UserName("n"))),
        ("red", Colour, Colour.RED),
        (2, Level | None, Level.HIGH),
        ({"title": "t"}, Annotated[Report, ["unhashable"]], Report("t")),
    ],
)
def test_plain_data_becomes_what_the_annotation_says(value: Any, annotation: Any, expected: Any) -> None:
    for strict in (False, True):
        found = decode(value, annotation, strict=strict)
        assert found == expected
        assert type(found) is type(expected)


def test_what_fits_is_left_as_it_is() -> None:
    class Loud(Report):
        pass

    found = decode([Report("t"), Report("u", tags=["x"])], list[Report], strict=True)
    assert found == [Report("t"), Report("u", tags=["x"])]
    assert type(decode(Loud("t"), Report)) is not Report


@pytest.mark.parametrize(
    ("value", "annotation"),
    [("5", int), (["5"], list[int]), (None, str), ({"name": 5}, Model), ({"unknown": 1}, Verdict), (3, Report)],
)
def test_what_does_not_fit_is_left_alone_unless_strict(value: Any, annotation: Any) -> None:
    assert decode(value, annotation) == value
    if value in ("5", ["5"]):  # pydantic reads numbers from text, which is what a signal from a command line needs
        assert decode(value, annotation, strict=True) in (5, [5])
    else:
        with pytest.raises(CodecError, match="the value does not fit"):
            decode(value, annotation, strict=True)


def test_an_annotation_that_pydantic_cannot_read_is_no_reason_to_fail() -> None:
    assert decode({"a": 1}, list["Unknown"]) == {"a": 1}  # type: ignore[name-defined]  # noqa: F821


@pytest.mark.parametrize(
    ("value", "annotation", "expected"),
    [
        (1, Any, True),
        (1, float, True),
        ("1", float, False),
        (None, None, True),
        (1, None, False),
        (1, int | str, True),
        (1.5, int | str, False),
        ([1, "a"], list[int | str], True),
        ([1, None], list[int | str], False),
        ((1, 2, 3), tuple[int, ...], True),
        ((1, 2), tuple[int, int, int], False),
        ({"a": [1]}, dict[str, list[int]], True),
        ({"a": ["1"]}, dict[str, list[int]], False),
        ({1}, frozenset[int], False),
        (1, Literal[1, 2], True),
        (True, Literal[1, 2], False),
        ("n", Name, True),
        (1, Name, False),
        ({"a": 1}, Row, True),
        (1, Annotated[int, "meta"], True),
        ("x", "a forward reference", True),
    ],
)
def test_fits(value: Any, annotation: Any, *, expected: bool) -> None:
    assert fits(value, annotation) is expected


@pytest.fixture
def module() -> Any:
    made = types.ModuleType("vanishing")
    sys.modules["vanishing"] = made
    yield made
    sys.modules.pop("vanishing", None)


def make_class(module: Any, name: str, fields: list[Any]) -> Any:
    cls = dataclasses.make_dataclass(name, fields, namespace={"__module__": "vanishing"})
    cls.__module__ = "vanishing"
    setattr(module, name, cls)
    return cls


def test_a_class_that_has_gone_is_named(module: Any) -> None:
    data = CODEC.encode({"r": make_class(module, "Gone", ["a"])(1)})
    del module.Gone
    with pytest.raises(CodecError, match=r"vanishing\.Gone cannot be imported: AttributeError"):
        CODEC.decode(data)
    del sys.modules["vanishing"]
    with pytest.raises(CodecError, match=r"vanishing\.Gone cannot be imported: ModuleNotFoundError"):
        CODEC.decode(data, Any)
    assert CODEC.describe(data) == {"r": {"__type__": "vanishing:Gone", "a": 1}}


def test_a_class_that_has_gone_is_taken_from_the_annotation(module: Any) -> None:
    data = CODEC.encode([make_class(module, "Old", ["title"])("t"), Report("kept")])
    del module.Old
    assert CODEC.decode(data, list[Report]) == [Report("t"), Report("kept")]
    with pytest.raises(CodecError, match=r"vanishing\.Old cannot be imported: .*; nor does it fit list\["):
        CODEC.decode(data, list[Verdict])


def test_a_class_may_gain_fields_with_defaults_and_lose_fields(module: Any) -> None:
    data = CODEC.encode(make_class(module, "Grown", ["a", "lost"])(1, 2))
    make_class(module, "Grown", ["a", ("b", int, 7), ("c", list[int], dataclasses.field(default_factory=list))])
    found = CODEC.decode(data)
    assert (found.a, found.b, found.c) == (1, 7, [])
    make_class(module, "Grown", ["a", "new"])
    with pytest.raises(CodecError, match=r"vanishing\.Grown .* new field 'new' without a default"):
        CODEC.decode(data)


def test_a_model_may_gain_fields_with_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.storage import samples

    class Model2(Model):
        added: list[int] = [4]  # noqa: RUF012 - pydantic copies defaults

    class Model3(Model):
        required: int

    data = CODEC.encode(Model(name="n"))
    monkeypatch.setattr(samples, "Model", Model2)
    assert CODEC.decode(data) == Model2.model_construct({"name"}, name="n", score=0.0, child=None, added=[4])
    monkeypatch.setattr(samples, "Model", Model3)
    with pytest.raises(CodecError, match="new field 'required' without a default"):
        CODEC.decode(data)


def test_an_enum_member_that_has_gone_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.storage import samples

    data = CODEC.encode(Level.HIGH)
    monkeypatch.setattr(samples, "Level", Colour)
    with pytest.raises(CodecError, match="it has no member 'HIGH'; it has: RED, BLUE"):
        CODEC.decode(data)
    monkeypatch.setattr(samples, "Level", Report)
    with pytest.raises(CodecError, match="it is no longer an enum"):
        CODEC.decode(data)
    monkeypatch.setattr(samples, "Level", 5)
    with pytest.raises(CodecError, match="it is a int now, not a class"):
        CODEC.decode(data)
