"""Cursors: the position of the last execution of a page, as opaque text."""

from __future__ import annotations

import base64
import binascii
import math
import struct
import zlib

from rayflow.errors import InvalidArgument

#: Moment of the start and number of an execution: the order of every list.
Position = tuple[float, int]

_FORM = struct.Struct(">dQ")


def encode_cursor(position: Position) -> str:
    """Return a position as text for URLs and command lines."""
    body = _FORM.pack(*position)
    return base64.urlsafe_b64encode(body + zlib.crc32(body).to_bytes(4, "big")).decode().rstrip("=")


def decode_cursor(text: str) -> Position:
    """Return the position of a cursor.

    Raises:
        InvalidArgument: the text is not a cursor that a list returned.
    """
    try:
        data = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
        at, number = _FORM.unpack(data[:-4])
    except (binascii.Error, struct.error, ValueError):
        data, at, number = b"", math.nan, 0
    if math.isnan(at) or zlib.crc32(data[:-4]).to_bytes(4, "big") != data[-4:]:
        raise InvalidArgument(
            f"after={text!r} is not a cursor. Pass the cursor that came with the page before, unchanged; leave it out "
            "for the first page"
        )
    return at, number
