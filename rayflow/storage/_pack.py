"""Reused msgpack packers.

Making a ``msgpack.Packer`` costs three times what packing a small value costs, but one packer must not be used
twice at once: not by two threads, and not by its own ``default`` hook for a nested value. So idle ones are kept
in a list, whose ``pop`` and ``append`` are atomic; one that failed half-way still holds half a value and is
dropped.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgpack

#: Lone surrogates are legal in Python's strings (file names, model output cut in half), so they are kept.
UNICODE_ERRORS = "surrogatepass"


class Packers:
    """Packs values to msgpack bytes; safe between threads and from within its own hook.

    Args:
        default: called for a value that msgpack does not know; answers one that it knows.
        strict_types: whether subclasses of built-in types, and tuples, are given to ``default`` too.
    """

    __slots__ = ("_default", "_idle", "_strict")

    def __init__(self, default: Callable[[Any], Any], *, strict_types: bool) -> None:
        self._default = default
        self._strict = strict_types
        self._idle: list[msgpack.Packer] = []

    def pack(self, value: Any) -> bytes:
        """``value`` as msgpack. Raises what msgpack and ``default`` raise."""
        try:
            packer = self._idle.pop()
        except IndexError:
            packer = msgpack.Packer(
                default=self._default,
                strict_types=self._strict,
                unicode_errors=UNICODE_ERRORS,
                buf_size=4096,
            )
        packed: bytes = packer.pack(value)
        self._idle.append(packer)
        return packed
