"""What a machine answers: the steps that the code issued, what it gave up and published, and how it ended."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from rayflow.core.events import StageNote
from rayflow.definition.context import StepCall
from rayflow.errors import Failure
from rayflow.ids import ExecutionStatus


class Payloads(Protocol):
    """The codec, as the machine needs it (floor 3 has the real one)."""

    def encode(self, value: Any) -> bytes:
        """The value as bytes. Raises CodecError."""

    def decode(self, data: bytes, annotation: Any = None) -> Any:
        """The value of those bytes, rebuilt through the annotation. Raises CodecError."""


class Dispatch(NamedTuple):
    """The code issued a step: it has to be run, and its outcome applied.

    Args:
        seq: the step's number.
        call: what the code called.
        payload: the encoded [args, kwargs]; empty while replay knows that the answer is recorded already.
    """

    seq: int
    call: StepCall
    payload: bytes


@dataclass(frozen=True, slots=True)
class Outcome:
    """How the workflow's code ended."""

    status: ExecutionStatus
    result: bytes | None = None
    failure: Failure | None = None


@dataclass(slots=True)
class Effects:
    """What the code did when one event was applied."""

    dispatches: list[Dispatch] = field(default_factory=list)
    dropped: list[int] = field(default_factory=list)
    state: dict[str, bytes] = field(default_factory=dict)
    stages: list[StageNote] = field(default_factory=list)
    outcome: Outcome | None = None
