"""What is encoded comes back, exactly or with an error that says where."""

from __future__ import annotations

import datetime as dt
import decimal
import math
import pathlib
import pickle
import struct
import threading
import uuid
import zoneinfo
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rayflow.errors import CodecError, Failure
from rayflow.ids import ExecutionStatus
from rayflow.storage.codec.payloads import Codec, MsgpackCodec, digest
from tests.storage.samples import (
    Colour,
    Derived,
    Frozen,
    Level,
    Metres,
    Model,
    Open,
    OwnPickle,
    Plain,
    Point,
    Report,
    Rights,
    UserId,
    Word,
)

CODEC: Codec = MsgpackCodec()
SAFE: Codec = MsgpackCodec(allow_pickle=False)


def same(one: Any, other: Any) -> bool:
    """Equal in type, value and order, all the way down; NaN equals NaN, 0.0 is not -0.0, 1 is not True."""
    if type(one) is not type(other):
        return False
    if isinstance(one, float):
        return struct.pack("d", one) == struct.pack("d", other)
    if isinstance(one, dict):
        return len(one) == len(other) and all(
            same(k, j) and same(v, w) for (k, v), (j, w) in zip(one.items(), other.items(), strict=True)
        )
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, (set, frozenset)):
        return len(one) == len(other) and all(any(same(a, b) for b in other) for a in one)
    if isinstance(one, decimal.Decimal):
        return str(one) == str(other)
    return bool(one == other) or one is other


def back(value: Any, codec: Codec = SAFE) -> Any:
    return codec.decode(codec.encode(value))


ZONES = st.sampled_from(
    [
        None,
        dt.UTC,
        dt.timezone(dt.timedelta(hours=-3, minutes=-30)),
        dt.timezone(dt.timedelta(seconds=1), "odd"),
        zoneinfo.ZoneInfo("Europe/Berlin"),
    ]
)
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False)
    | st.text(st.characters())
    | st.binary()
    | st.datetimes(timezones=ZONES)
    | st.dates()
    | st.times(timezones=st.sampled_from([None, dt.UTC]))
    | st.timedeltas()
    | st.uuids()
    | st.decimals(allow_nan=False)
    | st.sampled_from([*Colour, *Level, *Word, Rights.READ, Rights.READ | Rights.WRITE, ExecutionStatus.PAUSED])
    | st.text().map(UserId)
    | st.floats(allow_nan=False).map(Metres)
    | st.sampled_from([pathlib.Path("/a/b"), pathlib.PurePosixPath("c"), pathlib.PureWindowsPath(r"C:\d")])
)
KEYS = st.recursive(SCALARS, lambda inner: st.tuples(inner, inner) | st.frozensets(inner, max_size=3), max_leaves=4)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(KEYS, inner, max_size=4)
        | st.sets(KEYS, max_size=3)
        | st.builds(Report, st.text(), inner, st.lists(st.text(), max_size=2))
        | st.builds(Frozen, inner, st.just((1, 2)))
        | st.builds(Point, st.integers(), inner)
        | st.builds(Model, name=st.text(), score=st.floats(allow_nan=False))
        | st.builds(Failure, st.text(), st.text(), mro=st.lists(st.text(), max_size=2).map(tuple))
    ),
    max_leaves=12,
)


@given(VALUES)
@settings(max_examples=300)
def test_what_is_encoded_without_pickling_comes_back_the_same(value: Any) -> None:
    assert same(back(value), value)


@given(VALUES)
@settings(max_examples=50)
def test_describing_never_fails(value: Any) -> None:
    SAFE.describe(SAFE.encode(value))


@pytest.mark.parametrize(
    "value",
    [
        math.nan,
        -0.0,
        math.inf,
        [1, True, 1.0, False, 0],
        {1: "int", 1.5: "float", None: "none", (1, (2,)): "tuple", b"b": "bytes"},
        (1, [2, (3, {4: (5,)})]),
        2**63,
        2**64,
        -(2**63) - 1,
        "\ud800 alone",
        decimal.Decimal("-0.00"),
        decimal.Decimal("sNaN12"),
        dt.datetime(2024, 10, 27, 2, 30, fold=1, tzinfo=zoneinfo.ZoneInfo("Europe/Berlin")),
        uuid.UUID(int=7),
        [[[[[]]]]],
    ],
    ids=repr,
)
def test_edges(value: Any) -> None:
    found = back(value)
    assert same(found, value)


def test_the_fold_of_a_time_is_kept() -> None:
    assert back(dt.datetime(2024, 1, 1, fold=1)).fold == 1  # noqa: DTZ001 - a naive time is what is tested
    assert back(dt.time(1, 2, fold=1)).fold == 1


def test_a_dataclass_is_restored_without_running_it_again() -> None:
    value = Derived(5)
    assert value.costly == 1000
    found = back(value)
    assert vars(found) == {"amount": 10, "total": 11, "note": "beside the fields", "costly": 1000}


def test_a_class_that_pickles_itself_is_left_to_it() -> None:
    assert back(OwnPickle(1), CODEC) == OwnPickle(2)
    with pytest.raises(CodecError, match=r"only cloudpickle can write a tests\.storage\.samples\.OwnPickle"):
        SAFE.encode(OwnPickle(1))


def test_a_model_keeps_extras_private_attributes_and_what_was_set() -> None:
    value = Open(extra=[1, (2,)])
    value._private.append(3)
    found = back(value)
    assert found == value
    assert found._private == [3]
    assert found.model_extra == {"extra": [1, (2,)]}
    assert found.model_fields_set == {"extra"}


def test_what_only_cloudpickle_can_write_comes_back_too() -> None:
    def local(number: int) -> int:
        return number + 1

    assert back({"f": [local]}, CODEC)["f"][0](1) == 2
    assert back(Plain({"a": 1}), CODEC) == Plain({"a": 1})
    assert same(back(OrderedDict(a=1), CODEC), OrderedDict(a=1))
    assert back(1 + 2j, CODEC) == 1 + 2j


def test_a_local_class_is_pickled_with_its_code() -> None:
    class Local(Report):
        pass

    found = back(Local("t"), CODEC)
    assert type(found).__qualname__.endswith("<locals>.Local")
    assert found.title == "t"
    with pytest.raises(CodecError, match="only cloudpickle"):
        SAFE.encode(Local("t"))


def test_what_contains_itself_or_is_very_deep_is_pickled_whole() -> None:
    loop: list[Any] = [1]
    loop.append(loop)
    found = back(loop, CODEC)
    assert found[1] is found
    deep: list[Any] = []
    for _ in range(700):
        deep = [deep]
    assert back(deep, CODEC) == deep
    with pytest.raises(CodecError, match="contains itself, is nested too deep"):
        SAFE.encode(loop)


@pytest.mark.parametrize(
    ("value", "where", "kind"),
    [
        (threading.Lock(), "the value", "lock"),
        ({"report": Report("t", {"a": [0, threading.Lock()]})}, '["report"].pages["a"][1]', "lock"),
        ({"report": Plain(Plain(threading.Lock()))}, '["report"].client.client', "lock"),
        ([Open(part=threading.Lock())], "[0].part", "lock"),
        ({(1, threading.get_ident): (n for n in [0])}, "[(1, ", "generator"),
    ],
    ids=["top", "dataclass", "object", "model", "odd key"],
)
def test_what_cannot_be_written_is_named_with_place_and_type(value: Any, where: str, kind: str) -> None:
    with pytest.raises(CodecError) as caught:
        CODEC.encode(value)
    assert f"cannot write {where}" in str(caught.value)
    assert kind in str(caught.value)
    assert "cannot be serialised" in str(caught.value)


@pytest.mark.parametrize(
    ("value", "where"),
    [
        (Plain(1), "the value"),
        ({"report": Report("t", Plain(1))}, '["report"].pages'),
        ([{1: (Plain(1),)}], "[0][1][0]"),
    ],
)
def test_pickles_are_refused_on_writing_and_on_reading_with_the_place(value: Any, where: str) -> None:
    with pytest.raises(CodecError) as written:
        SAFE.encode(value)
    assert f"cannot write {where}: only cloudpickle can write a tests.storage.samples.Plain" in str(written.value)
    data = CODEC.encode(value)
    with pytest.raises(CodecError) as read:
        SAFE.decode(data)
    assert f"cannot read {where}: it was written by cloudpickle" in str(read.value)


class Explosive:
    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return (exec, ("raise SystemError('unpickled')",))


def test_describing_shows_everything_and_runs_nothing() -> None:
    data = CODEC.encode(
        {
            "report": Report("t", Colour.RED),
            "model": Open(extra=1),
            "set": {Frozen(1)},
            "bomb": Explosive(),
            "point": Point(1, (2,)),
            "word": Word.YES,
            "blue": Colour.BLUE,
            Frozen(2): UserId("u"),
        }
    )
    shown = CODEC.describe(data)
    assert shown.pop("bomb").startswith("<pickled ")
    frozen = {"__type__": "tests.storage.samples:Frozen", "parts": (1, 2)}
    assert shown == {
        "report": {"__type__": "tests.storage.samples:Report", "title": "t", "pages": "red", "tags": []},
        "model": {"__type__": "tests.storage.samples:Open", "known": 1, "extra": 1},
        "set": [{**frozen, "key": 1, "parts": ()}],
        "point": (1, (2,)),
        "word": "yes",
        "blue": "BLUE",
        str({"__type__": frozen["__type__"], "key": 2, "parts": ()}): "u",
    }
    with pytest.raises(CodecError, match="cannot read a pickled part of the value"):
        CODEC.decode(data)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "empty"),
        (b"\x09\x01", "format 9, this rayflow reads format 1"),
        (b"\x01", "damaged"),
        (b"\x01\x92\x01", "damaged"),
        (b"\x01\x01\x01", "damaged"),
        (b"\x01\xc7\x01\x63\x01", "damaged"),
        (b"\x01\xc7\x02\x04\xa1x", "damaged"),
    ],
)
@pytest.mark.parametrize("read", [CODEC.decode, CODEC.describe])
def test_damaged_payloads_are_refused(data: bytes, said: str, read: Callable[[bytes], Any]) -> None:
    with pytest.raises(CodecError, match=said):
        read(data)


@given(st.binary(max_size=60))
@settings(max_examples=200)
def test_any_bytes_are_decoded_or_refused(data: bytes) -> None:
    try:
        SAFE.decode(b"\x01" + data)
    except CodecError as error:
        assert str(error)  # noqa: PT017 - either outcome is right; what may not happen is another exception


def test_a_codec_can_be_sent_to_another_process() -> None:
    copy = pickle.loads(pickle.dumps(SAFE))
    assert copy.decode(copy.encode((1,))) == (1,)
    with pytest.raises(CodecError):
        copy.encode(Plain(1))


def test_one_codec_in_many_threads() -> None:
    value = {"list": [Report(str(i), (i, {i})) for i in range(50)]}
    wrong: list[Any] = []

    def work() -> None:
        wrong.extend(found for found in (back(value) for _ in range(20)) if found != value)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_digest_is_sha256() -> None:
    assert digest(b"abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
