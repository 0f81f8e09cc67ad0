"""Cursors: opaque, and only what a list returned is one."""

from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from rayflow.errors import InvalidArgument
from rayflow.storage.query.cursor import decode_cursor, encode_cursor

POSITIONS = st.tuples(st.floats(allow_nan=False), st.integers(0, 2**63 - 1))


@given(POSITIONS)
def test_a_cursor_is_its_position(position: tuple[float, int]) -> None:
    text = encode_cursor(position)
    assert decode_cursor(text) == position
    assert text.replace("-", "").replace("_", "").isalnum()


@given(POSITIONS, st.integers(0, 26), st.characters(codec="ascii"))
def test_an_altered_cursor_is_refused(position: tuple[float, int], index: int, other: str) -> None:
    text = encode_cursor(position)
    altered = text[:index] + other + text[index + 1 :]
    assume(altered != text)
    try:
        assert decode_cursor(altered) == position  # the last character has bits to spare
    except InvalidArgument as error:
        assert "is not a cursor. Pass the cursor that came with the page before" in str(error)  # noqa: PT017


@pytest.mark.parametrize("text", ["", "x", "not a cursor", "é" * 27, "A" * 27, "A" * 1000])
def test_another_text_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument, match="is not a cursor"):
        decode_cursor(text)
