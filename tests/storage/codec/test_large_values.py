"""Large values: references in payloads, what stands for them in code, and when they are loaded."""

from __future__ import annotations

import copy
import dataclasses
import json
import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from rayflow.definition.agent import AgentResult
from rayflow.errors import CodecError, CorruptRecord
from rayflow.storage.codec.large_values import Reference, is_large, materialize, refer
from rayflow.storage.codec.payloads import LargeValueEncoder, MsgpackCodec, canonical, references

LIMIT = 1000


class Report(BaseModel):
    title: str
    body: Any = None


@dataclasses.dataclass
class Page:
    text: Any


class Shelf:
    """Keeps payloads, and counts how often one is read."""

    def __init__(self) -> None:
        self.kept: dict[str, bytes] = {}
        self.reads = 0
        self.real = MsgpackCodec(fetch=self.fetch)
        self.lazy = MsgpackCodec(fetch=self.fetch, lazy=True)
        self.keeping = LargeValueEncoder(self.real, self.keep, LIMIT)

    def keep(self, reference: Reference, data: bytes) -> None:
        self.kept[reference.digest] = data

    def fetch(self, reference: Reference) -> bytes:
        self.reads += 1
        return self.kept[reference.digest]

    def handed_on(self, value: Any) -> Any:
        """As a workflow's code gets what a step has answered."""
        return self.lazy.decode(self.keeping.encode(value))


@pytest.fixture
def shelf() -> Shelf:
    return Shelf()


LARGE: dict[str, Any] = {
    "array": np.arange(2000.0),
    "text": "x" * 3000,
    "bytes": b"x" * 3000,
    "list": list(range(1000)),
    "dict": {str(i): i for i in range(1000)},
    "set": set(range(1000)),
    "model": Report(title="t", body="x" * 3000),
    "dataclass": Page("x" * 3000),
}


# --- references -------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", LARGE)
def test_a_large_value_is_kept_once_and_comes_back(shelf: Shelf, name: str) -> None:
    value = LARGE[name]
    data = shelf.keeping.encode(value)
    assert len(data) < 200
    assert shelf.keeping.encode(value) == data, "kept twice"
    assert len(shelf.kept) == 1
    assert references(data) == set(shelf.kept)
    back = shelf.real.decode(data)
    assert type(back) is type(value)
    assert np.array_equal(back, value) if name == "array" else back == value


def test_what_is_small_stays_where_it_is(shelf: Shelf) -> None:
    value = {"a": [1, 2], "b": "x" * 900}
    assert shelf.keeping.encode(value) == shelf.real.encode(value)
    assert not shelf.kept


def test_large_members_are_kept_on_their_own(shelf: Shelf) -> None:
    array = np.arange(2000.0)
    data = shelf.keeping.encode({"array": array, "deep": [(array, 1)], "meta": {"rows": 2000}})
    assert len(shelf.kept) == 1, "one value, twice"
    seen = shelf.lazy.decode(data)
    assert type(seen) is dict
    assert seen["meta"] == {"rows": 2000}
    assert seen["deep"][0][1] == 1
    assert shelf.reads == 0
    assert seen["deep"][0][0].sum() == array.sum()


def test_of_what_an_agent_answered_only_what_is_large_is_kept(shelf: Shelf) -> None:
    result = AgentResult("writer", input="x" * 3000, output="y" * 3000, start_time=1.0, end_time=3.0)
    seen = shelf.handed_on(result)
    assert type(seen) is AgentResult
    assert seen.duration == 2.0
    assert shelf.reads == 0
    assert len(shelf.kept) == 2
    assert seen.output == "y" * 3000


def test_many_small_members_are_kept_as_a_whole(shelf: Shelf) -> None:
    seen = shelf.handed_on([{"n": n} for n in range(500)])
    assert is_large(seen)
    assert [each["n"] for each in seen] == list(range(500))


def test_what_refers_to_others_is_never_kept_itself(shelf: Shelf) -> None:
    many = [shelf.handed_on("x" * 3000 + str(n)) for n in range(50)]
    data = shelf.lazy.encode(many)
    assert len(data) > LIMIT
    assert LargeValueEncoder(shelf.lazy, shelf.keep, LIMIT).refer(data) == data
    assert LargeValueEncoder(shelf.lazy, shelf.keep, LIMIT).encode(many) == data
    assert references(data) == set(shelf.kept)
    assert len(shelf.kept) == 50


def test_text_that_looks_like_a_reference_is_none() -> None:
    codec = MsgpackCodec()
    for value in ("rayflow:large", ["rayflow:large", "a" * 64, 7, ""], b"rayflow:large", {"rayflow:large": 1}):
        assert references(codec.encode(value)) == frozenset()


def test_references_are_found_wherever_they_are() -> None:
    codec = MsgpackCodec()
    found = [refer(b"%d" % n) for n in range(6)]
    value = [
        {"a": found[0], found[1]: 2},
        (found[2], {3: found[3]}),
        Report(title="t", body=found[4]),
        Page({"x": [found[5]]}),
        {("a", "key"): 1},
    ]
    assert references(codec.encode(value)) == {each.digest for each in found}


@given(
    st.recursive(
        st.none() | st.integers() | st.text(max_size=5), lambda inner: st.lists(inner, max_size=4), max_leaves=20
    )
)
def test_plain_values_refer_to_nothing(value: Any) -> None:
    assert references(MsgpackCodec().encode(value)) == frozenset()


def test_it_is_described_without_being_loaded(shelf: Shelf) -> None:
    data = shelf.keeping.encode({"array": np.zeros(10_000_000)})
    [digest] = shelf.kept
    assert MsgpackCodec().describe(data) == {"array": f"<ndarray, 80.0 MB, sha256 {digest[:12]}…>"}
    assert shelf.reads == 0


@pytest.mark.parametrize(
    ("size", "text"),
    [(999, "999 bytes"), (1000, "1.0 kB"), (50_000_000, "50.0 MB"), (1_500_000_000, "1.5 GB"), (10**13, "10000.0 GB")],
)
def test_sizes_are_readable(size: int, text: str) -> None:
    assert str(Reference("ab" * 32, size)) == f"<{text}, sha256 abababababab…>"


def test_without_a_store_it_says_so() -> None:
    data = MsgpackCodec().encode(refer(b"x" * 50))
    with pytest.raises(CodecError, match=r"50 bytes.*large values are in a store, and this codec has none"):
        MsgpackCodec().decode(data)


def test_errors_of_reading_come_through(shelf: Shelf) -> None:
    def fetch(reference: Reference) -> bytes:
        raise CorruptRecord("x", "it is gone")

    data = shelf.keeping.encode({"a": "x" * 3000})
    with pytest.raises(CorruptRecord, match="it is gone"):
        MsgpackCodec(fetch=fetch).decode(data)
    seen = MsgpackCodec(fetch=fetch, lazy=True).decode(data)
    with pytest.raises(CorruptRecord, match="it is gone"):
        str(seen["a"])


# --- stand-ins --------------------------------------------------------------------------------------------
def test_handing_it_on_does_not_load_it(shelf: Shelf) -> None:
    seen = shelf.handed_on(np.arange(2000.0))
    report = Report.model_construct(title="t", body=seen)
    for value in (seen, [seen], {"a": (seen, 1)}, Page(seen), report, AgentResult("a", output=seen)):
        data = shelf.lazy.encode(value)
        assert references(data) == set(shelf.kept)
        assert len(data) < 500
    assert seen is not None
    assert copy.copy([seen])[0] is seen
    assert repr(seen).startswith("<ndarray, 16.")
    assert str([seen]) == f"[{seen!r}]"
    assert shelf.reads == 0


def test_it_is_loaded_once_when_it_is_used(shelf: Shelf) -> None:
    seen = shelf.handed_on(np.arange(2000.0))
    assert isinstance(seen, np.ndarray)
    assert (seen + 1)[0] == 1
    assert len(seen) == 2000
    assert seen[5] == 5
    assert np.asarray(seen).sum() == seen.sum()
    assert shelf.reads == 1


@pytest.mark.parametrize(
    "use",
    [
        lambda text: f"{text}",
        str,
        len,
        hash,
        bool,
        lambda text: text + "a",
        lambda text: "a" + text,
        lambda text: text == "x" * 3000,
        lambda text: text[3],
        lambda text: next(iter(text)),
        lambda text: text.upper(),
        lambda text: {text: 1},
        lambda text: isinstance(text, str),
        copy.deepcopy,
        lambda text: pickle.loads(pickle.dumps(text)),
        lambda text: json.dumps(materialize(text)),
        lambda text: "".join([materialize(text)]),
    ],
    ids=[
        "format", "str", "len", "hash", "bool", "add", "radd", "eq", "index", "iterate", "method", "key", "isinstance",
        "deepcopy", "pickle", "json", "join",
    ],
)  # fmt: skip
def test_it_is_the_value_to_whoever_uses_it(shelf: Shelf, use: Any) -> None:
    text = "x" * 3000
    assert use(shelf.handed_on(text)) == use(text)
    assert shelf.reads == 1


def test_c_code_that_insists_on_a_type_is_told_so(shelf: Shelf) -> None:
    with pytest.raises(TypeError, match="LazyValue found"):
        "".join([shelf.handed_on("x" * 3000)])


def test_the_very_value() -> None:
    assert materialize("small") == "small"
    shelf = Shelf()
    assert type(materialize(shelf.handed_on("x" * 3000))) is str


def test_what_was_changed_in_place_is_another_value(shelf: Shelf) -> None:
    seen = shelf.handed_on(list(range(1000)))
    before = shelf.lazy.encode(seen)
    assert seen[0] == 0
    assert shelf.lazy.encode(seen) == before, "it was used, and not changed"
    seen.append(1000)
    assert shelf.lazy.decode(shelf.lazy.encode([seen])) == [[*range(1000), 1000]]
    assert references(shelf.lazy.encode(seen)) == frozenset()


def test_what_is_pickled_is_pickled_in_full(shelf: Shelf) -> None:
    class Local:
        def __init__(self, inner: Any) -> None:
            self.inner = inner

    data = shelf.lazy.encode(Local(shelf.handed_on("x" * 3000)))
    assert references(data) == frozenset()
    assert MsgpackCodec().decode(data).inner == "x" * 3000


def test_a_codec_without_stand_ins_writes_them_in_full(shelf: Shelf) -> None:
    for value in LARGE.values():
        data = MsgpackCodec().encode({"it": shelf.handed_on(value)})
        assert references(data) == frozenset()
        assert len(data) > LIMIT


def test_an_annotation_waits_until_it_is_loaded(shelf: Shelf) -> None:
    data = shelf.keeping.encode({str(n): n for n in range(1000)})
    seen = shelf.lazy.decode(data, dict[str, Report | int])
    assert shelf.reads == 0
    assert seen["7"] == 7
    plain = shelf.keeping.encode({"title": "t", "body": "x" * 3000, **{str(n): n for n in range(100)}})
    assert type(materialize(shelf.lazy.decode(plain, Report))) is Report


def test_inputs_with_stand_ins_cannot_be_compared(shelf: Shelf) -> None:
    assert canonical([shelf.handed_on("x" * 3000)]) is None
    assert shelf.reads == 0
