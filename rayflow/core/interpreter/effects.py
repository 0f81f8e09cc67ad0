"""Effects of applying one event to workflow code: calls issued and dropped, published values, and the outcome."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from rayflow.core.events import SignalReceived, StageNote, label
from rayflow.definition.context import Call
from rayflow.errors import Failure
from rayflow.ids import ExecutionStatus


class Payloads(Protocol):
    """Codec, as the interpreter needs it (implemented in ``rayflow.storage.codec``)."""

    def encode(self, value: Any) -> bytes:
        """Return the value as bytes. Raises CodecError."""

    def decode(self, data: bytes, annotation: Any = None) -> Any:
        """Return the value of those bytes, rebuilt through the annotation. Raises CodecError."""


class Dispatch(NamedTuple):
    """A call that the code issued: a step to run, or a request to the store or to another execution.

    Args:
        seq: number of the call.
        call: the call.
        payload: encoded [args, kwargs], or a signal's payload; empty in a replay that knows the outcome.
        compensation: whether the step is a compensation.
    """

    seq: int
    call: Call
    payload: bytes
    compensation: bool = False

    @property
    def label(self) -> str:
        """Name of the call in the journal."""
        return label("undo" if self.compensation else self.call.kind, self.call.name)


class RejectedSignal(NamedTuple):
    """A signal whose payload does not fit the type that the code waited for."""

    signal: SignalReceived
    failure: Failure


class ContinueAsNew(BaseException):
    """End of a run that continues as new. Not an Exception, since user code must not catch it."""

    def __init__(self, payload: bytes) -> None:
        super().__init__("the workflow continues as new")
        self.payload = payload


def continuation_in(error: BaseException | None) -> ContinueAsNew | None:
    """Return the new run that an exception asks for. A group may hold cancellations next to it, and nothing else."""
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
    """End of a run of the workflow's code.

    Args:
        status: status of the execution. RUNNING: it continues as new.
        result: encoded result, or encoded (args, kwargs) of the next run.
        failure: why the workflow did not complete; None if it did.
        unconsumed: signals that the code did not receive.
        compensated: whether compensations were run.
    """

    status: ExecutionStatus
    result: bytes | None = None
    failure: Failure | None = None
    unconsumed: tuple[SignalReceived, ...] = ()
    compensated: bool = False


@dataclass(slots=True)
class Effects:
    """Everything that the code did when one event was applied."""

    dispatches: list[Dispatch] = field(default_factory=list)
    dropped: list[int] = field(default_factory=list)
    state: dict[str, bytes | None] = field(default_factory=dict)
    stages: list[StageNote] = field(default_factory=list)
    patches: list[str] = field(default_factory=list)
    compensations: list[str] = field(default_factory=list)
    rejected: list[RejectedSignal] = field(default_factory=list)
    outcome: Outcome | None = None
