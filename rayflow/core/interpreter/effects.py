"""Effects of one event: issued and dropped steps, published state, and the outcome."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from rayflow.core.events import SignalReceived, StageNote, label
from rayflow.definition.context import Call
from rayflow.errors import Failure
from rayflow.ids import ExecutionStatus


class Payloads(Protocol):
    """The codec, as the machine needs it (floor 3 has the real one)."""

    def encode(self, value: Any) -> bytes:
        """Return the value as bytes. Raises CodecError."""

    def decode(self, data: bytes, annotation: Any = None) -> Any:
        """Return the value of those bytes, rebuilt through the annotation. Raises CodecError."""


class Dispatch(NamedTuple):
    """The code issued a call: a step has to be run, anything else to be asked for; its outcome is applied.

    Args:
        seq: the call's number.
        call: what the code called.
        payload: the encoded [args, kwargs], or a signal's payload; empty while replay knows that the answer is
            recorded already.
        undo: whether it is a compensation.
    """

    seq: int
    call: Call
    payload: bytes
    undo: bool = False

    @property
    def label(self) -> str:
        """What the journal calls it."""
        return label("undo" if self.undo else self.call.kind, self.call.name)


class RejectedSignal(NamedTuple):
    """A signal that did not fit the type that the code waited for."""

    signal: SignalReceived
    failure: Failure


class ContinueAsNew(BaseException):
    """Ends a run of a workflow's code, which then restarts. Not an Exception, so that user code does not catch it."""

    def __init__(self, payload: bytes) -> None:
        super().__init__("the workflow continues as new")
        self.payload = payload


def continuation_in(error: BaseException | None) -> ContinueAsNew | None:
    """Return the new run that an exception asks for; a group must hold nothing else but cancellations."""
    if isinstance(error, ContinueAsNew):
        return error
    if not isinstance(error, BaseExceptionGroup):
        return None
    others = error.split(lambda each: isinstance(each, ContinueAsNew | asyncio.CancelledError))[1]
    asked: BaseException | None = error.split(ContinueAsNew)[0]
    while isinstance(asked, BaseExceptionGroup):
        asked = asked.exceptions[0]
    return asked if others is None and isinstance(asked, ContinueAsNew) else None


@dataclass(frozen=True, slots=True)
class Outcome:
    """How the workflow's code ended.

    Args:
        status: as what. RUNNING: it continues as new.
        result: the encoded result, or the encoded (args, kwargs) of the next run.
        failure: why it did not complete.
        unconsumed: the signals that the code did not receive.
        compensated: whether compensations were run.
    """

    status: ExecutionStatus
    result: bytes | None = None
    failure: Failure | None = None
    unconsumed: tuple[SignalReceived, ...] = ()
    compensated: bool = False


@dataclass(slots=True)
class Effects:
    """What the code did when one event was applied."""

    dispatches: list[Dispatch] = field(default_factory=list)
    dropped: list[int] = field(default_factory=list)
    state: dict[str, bytes | None] = field(default_factory=dict)
    stages: list[StageNote] = field(default_factory=list)
    patches: list[str] = field(default_factory=list)
    undos: list[str] = field(default_factory=list)
    rejected: list[RejectedSignal] = field(default_factory=list)
    outcome: Outcome | None = None
