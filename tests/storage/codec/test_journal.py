"""Journal entries and failures survive being written, and damage is found."""

from __future__ import annotations

import dataclasses
import typing
import zlib
from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rayflow.core import events
from rayflow.core.events import Continued, Ended, Entry, Event, SignalReceived, StageNote, Started, StepCompleted
from rayflow.errors import CorruptRecord, Failure
from rayflow.ids import ExecutionStatus
from rayflow.storage.codec.journal import append_digest, decode_entry, decode_failure, encode_entry, encode_failure
from rayflow.storage.model import JournalRow

EVENTS: tuple[type, ...] = typing.get_args(Event)
TEXT = st.text(st.characters(), max_size=8)
FLOATS = st.floats(allow_nan=False)
FAILURES = st.builds(
    Failure,
    TEXT,
    TEXT,
    TEXT,
    st.booleans(),
    st.lists(TEXT, max_size=2).map(tuple),
    st.none() | st.integers(0, 2**40),
)
BY_TYPE: dict[Any, st.SearchStrategy[Any]] = {
    float: FLOATS,
    int: st.integers(0, 2**40),
    str: TEXT,
    bytes: st.binary(max_size=20),
    bool: st.booleans(),
    Failure: FAILURES,
    ExecutionStatus: st.sampled_from(ExecutionStatus),
    float | None: st.none() | FLOATS,
    bytes | None: st.none() | st.binary(max_size=20),
    Failure | None: st.none() | FAILURES,
    int | None: st.none() | st.integers(0, 2**40),
    int | str | None: st.none() | st.integers(0, 2**40) | TEXT,
    tuple[int, ...]: st.lists(st.integers(0, 2**40), max_size=3).map(tuple),
    tuple[str, ...]: st.lists(TEXT, max_size=3).map(tuple),
    dict[str, bytes]: st.dictionaries(TEXT, st.binary(max_size=9), max_size=3),
    tuple[SignalReceived, ...]: st.lists(
        st.builds(SignalReceived, FLOATS, TEXT, st.binary(max_size=9), st.integers(0, 2**40)), max_size=2
    ).map(tuple),
}


def sealed(content: Any) -> bytes:
    """A record of any content, with the right checksum for position 0."""
    packed: bytes = msgpack.packb(content)
    return b"\x01" + zlib.crc32(packed).to_bytes(4, "big") + packed


def event_of(cls: Any) -> st.SearchStrategy[Any]:
    hints = typing.get_type_hints(cls, vars(events))
    return st.builds(cls, **{f.name: BY_TYPE[hints[f.name]] for f in dataclasses.fields(cls)})


def entries(event: st.SearchStrategy[Any]) -> st.SearchStrategy[Entry]:
    stage = st.builds(StageNote, st.integers(0, 99), TEXT, TEXT, st.none() | st.binary(max_size=9))
    return st.builds(
        Entry,
        st.integers(1, 2**40),
        event,
        st.lists(TEXT, max_size=3).map(tuple),
        st.lists(st.integers(1, 2**40), max_size=3).map(tuple),
        st.dictionaries(TEXT, st.none() | st.binary(max_size=9), max_size=3),
        st.lists(stage, max_size=2).map(tuple),
        st.lists(TEXT, max_size=2).map(tuple),
        st.lists(TEXT, max_size=2).map(tuple),
    )


@pytest.mark.parametrize("cls", EVENTS)
def test_every_event_comes_back_the_same(cls: type) -> None:
    @given(entries(event_of(cls)))
    @settings(max_examples=25)
    def check(entry: Entry) -> None:
        found = decode_entry("x", entry.seq, encode_entry(entry))
        assert found == entry
        assert type(found.event) is cls
        for part in (found.issued, found.dropped, found.stages, found.patches, found.compensations):
            assert isinstance(part, tuple)
        if isinstance(found.event, Ended):
            assert isinstance(found.event.status, ExecutionStatus)

    check()


@given(FAILURES)
def test_failures_come_back_the_same(failure: Failure) -> None:
    assert decode_failure(encode_failure(failure)) == failure


def test_the_format_is_what_it_was() -> None:
    """Written once and read for years: these bytes must stay readable, so this test is not adapted to the code."""
    entry = Entry(
        7,
        StepCompleted(1.5, 3, "fetch", 1, b"r", 1.0, "w"),
        ("next",),
        (2,),
        {"k": b"v", "gone": None},
        (StageNote(0, "s", "running"),),
        ("change",),
        ("refund",),
    )
    old = bytes.fromhex(OLD)
    assert encode_entry(entry) == old
    assert decode_entry("x", 7, old) == entry


OLD = (
    "015bbf0c4a980297cb3ff800000000000003a5666574636801c40172cb3ff0000000000000a17791a46e657874910282a16b"
    "c40176a4676f6e65c0919400a173a772756e6e696e67c091a66368616e676591a6726566756e64"
)


def test_a_record_of_fewer_fields_is_read_with_the_defaults() -> None:
    """What an older rayflow wrote, before an event gained a field with a default."""
    assert decode_failure(sealed(["E", "m"])) == Failure("E", "m")
    assert decode_entry("x", 0, sealed([16, [1.5, 2]])) == Entry(0, Continued(1.5, 2))


def test_an_entry_holds_failures_signals_and_stages_and_nothing_else() -> None:
    with pytest.raises(TypeError, match="a journal entry cannot hold a complex"):
        encode_entry(Entry(1, Started(1j)))  # type: ignore[arg-type]


@pytest.mark.parametrize("position", range(len(encode_entry(Entry(3, Started(1.5))))))
def test_every_damaged_byte_is_found(position: int) -> None:
    body = bytearray(encode_entry(Entry(3, Started(1.5))))
    body[position] ^= 0x10
    with pytest.raises(CorruptRecord, match="of execution 'x': journal entry 3") as caught:
        decode_entry("x", 3, bytes(body))
    assert caught.value.execution_id == "x"


@pytest.mark.parametrize("length", range(8))
def test_a_cut_record_is_found(length: int) -> None:
    with pytest.raises(CorruptRecord, match="journal entry 3"):
        decode_entry("x", 3, encode_entry(Entry(3, Started(1.5)))[:length])


def test_a_row_in_the_wrong_place_is_found() -> None:
    body = encode_entry(Entry(3, Started(1.5)))
    with pytest.raises(CorruptRecord, match="journal entry 4 does not match its checksum"):
        decode_entry("x", 4, body)


def test_a_newer_format_and_an_unknown_kind_are_told_from_damage() -> None:
    body = encode_entry(Entry(3, Started(1.5)))
    with pytest.raises(CorruptRecord, match="format 2, this rayflow reads format 1"):
        decode_entry("x", 3, b"\x02" + body[1:])
    failure = encode_failure(Failure("E", "m"))
    with pytest.raises(CorruptRecord, match="journal entry 0 has a form that this rayflow does not know"):
        decode_entry("x", 0, failure)
    with pytest.raises(CorruptRecord, match="execution 'y': failure has a form"):
        decode_failure(sealed(list(range(7))), execution_id="y")  # one field more than a failure has


def test_an_append_digest_depends_on_bytes_positions_and_boundaries() -> None:
    rows = [JournalRow(1, b"ab"), JournalRow(2, b"c")]
    digests = [
        append_digest(rows),
        append_digest([JournalRow(1, b"a"), JournalRow(2, b"bc")]),
        append_digest([JournalRow(2, b"ab"), JournalRow(3, b"c")]),
        append_digest(rows[:1]),
        append_digest(reversed(rows)),
    ]
    assert len(set(digests)) == len(digests)
    assert append_digest(tuple(rows)) == digests[0]
    assert len(digests[0]) == 32
