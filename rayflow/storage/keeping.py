"""Writes values so that what is large in them is kept elsewhere, once, and only referred to."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

from rayflow.definition.agent import AgentResult
from rayflow.storage.codec import MsgpackCodec, references
from rayflow.storage.large import THRESHOLD, Reference, refer, whole

#: Members of a list or dictionary that are looked at one by one; of more, none is large on its own account.
_MEMBERS = 100


class Keeping:
    """See the module's docstring.

    A value whose payload is above the threshold is kept as a whole, unless it is a list, tuple or dictionary of a few
    members, or what an agent answered: then the large ones of these members are, so that code can look at the others
    without loading them.

    Args:
        codec: writes values.
        keep: told of each large value, with its payload; it may be told of one twice.
        threshold: bytes of a payload beyond which it is kept.
    """

    def __init__(
        self, codec: MsgpackCodec, keep: Callable[[Reference, bytes], None], threshold: int = THRESHOLD
    ) -> None:
        self._codec = codec
        self._keep = keep
        self._threshold = threshold

    def encode(self, value: Any) -> bytes:
        """The value as a payload. Raises CodecError."""
        data = self._codec.encode(value)
        if len(data) <= self._threshold:
            return data
        return self._codec.encode(self._split(whole(value), data))

    def refer(self, data: bytes) -> bytes:
        """A payload as it is recorded: itself, or the reference to it.

        One that refers to others itself is recorded as it is, since nobody looks into what is kept.
        """
        return data if len(data) <= self._threshold or references(data) else self._codec.encode(self._kept(data))

    def _split(self, value: Any, data: bytes) -> Any:
        """What stands for a value whose payload is too large."""
        cls = type(value)
        if cls is AgentResult:
            apart = dataclasses.replace(value, input=self._part(value.input), output=self._part(value.output))
        elif cls is dict and len(value) <= _MEMBERS:
            apart = dict(zip(value, self._parts(value.values()), strict=True))
        elif cls in {list, tuple} and len(value) <= _MEMBERS:
            apart = cls(self._parts(value))
        else:
            return value if references(data) else self._kept(data, cls)
        if len(self._codec.encode(apart)) <= self._threshold:
            return apart
        return apart if references(data) else self._kept(data, cls)

    def _parts(self, values: Iterable[Any]) -> list[Any]:
        return [self._part(value) for value in values]

    def _part(self, value: Any) -> Any:
        data = self._codec.encode(value)
        return value if len(data) <= self._threshold else self._split(whole(value), data)

    def _kept(self, data: bytes, cls: type | None = None) -> Reference:
        reference = refer(data, "" if cls is None else cls.__name__)
        self._keep(reference, data)
        return reference
