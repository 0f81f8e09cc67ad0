"""What one execution asked of others: children, receivers of signals, locks. Tests decide what they answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rayflow.core.events import Entry, RequestCompleted, RequestsReissued, kind_and_name, label
from rayflow.core.execution.actions import CancelRequest, InboxItem, Request
from rayflow.core.execution.journal import effective
from rayflow.definition.context import ChildCall, LockCall, SignalCall
from rayflow.errors import Failure
from rayflow.storage.codec.payloads import MsgpackCodec

CODEC = MsgpackCodec()


class Others:
    """Keeps what is asked, as a store does: a permit is had until it is given back, a child until its end.

    Attributes:
        open: what is not answered, by the calls' numbers, oldest first.
        held: permits that the execution has.
        log: what was asked and taken back, in order, as text.
        made: every call that was ever asked for, by its number.
    """

    def __init__(self) -> None:
        self.open: dict[int, Request] = {}
        self.held: dict[int, Request] = {}
        self.log: list[str] = []
        self.made: dict[int, Request] = {}

    def take(self, asks: Sequence[Request | CancelRequest]) -> None:
        """These are asked or taken back, in this order."""
        for ask in asks:
            called = f"{ask.call.kind} {ask.call.name} {ask.seq}"
            if isinstance(ask, Request):
                self.log.append(called)
                self.held.pop(ask.seq, None)  # asked again: it was given back at the end
                self.open.pop(ask.seq, None)
                self.open[ask.seq] = self.made[ask.seq] = ask
            else:
                self.log.append(f"not {called}")
                self.open.pop(ask.seq, None)
                self.held.pop(ask.seq, None)

    def copy(self) -> Others:
        """The same, for another shell."""
        other = Others()
        other.open, other.held, other.made = dict(self.open), dict(self.held), dict(self.made)
        return other

    def first(self, name: str) -> Request:
        """The oldest open ask for that name."""
        return next(ask for ask in self.open.values() if ask.call.name == name)

    def free(self, ask: Request) -> bool:
        """Whether it can be had: it is no lock, or one with a free permit."""
        if not isinstance(ask.call, LockCall):
            return True
        return sum(held.call.name == ask.call.name for held in self.held.values()) < ask.call.limit

    def answer(self, ask: Request, at: float, value: Any = None, failure: Failure | None = None) -> RequestCompleted:
        """The answer to an ask.

        Args:
            ask: one that is open.
            at: when.
            value: a child's result or a lock's token; of no account for a signal.
            failure: how it failed instead.
        """
        del self.open[ask.seq]
        name = label(ask.call.kind, ask.call.name)
        if failure is not None:
            return RequestCompleted(at, ask.seq, name, failure=failure, worker="c1")
        match ask.call:
            case ChildCall(waits=True):
                return RequestCompleted(at, ask.seq, name, result=CODEC.encode(value), began=at, worker="c1")
            case ChildCall():
                return RequestCompleted(at, ask.seq, name, f"c{ask.seq}", worker=f"c{ask.seq}")
            case SignalCall():
                return RequestCompleted(at, ask.seq, name)
            case LockCall():
                assert self.free(ask), f"{name} has no free permit"
                self.held[ask.seq] = ask
                return RequestCompleted(at, ask.seq, name, value)

    def as_of(self, entries: Sequence[Entry], rows: Sequence[InboxItem]) -> Others:
        """What was asked and had when a journal had these entries, and the inbox these rows besides."""
        then = Others()
        then.made = self.made
        issued = 0
        for entry in effective(entries):
            event = entry.event
            if isinstance(event, RequestCompleted) and event.step in then.open:
                ask = then.open.pop(event.step)
                if isinstance(ask.call, LockCall) and event.failure is None:
                    then.held[event.step] = ask
            elif isinstance(event, RequestsReissued):
                for seq in event.steps:
                    then.held.pop(seq, None)
                    then.open.pop(seq, None)
                    then.open[seq] = self.made[seq]
            for labelled in entry.issued:
                issued += 1
                if kind_and_name(labelled)[0] in {"child", "signal", "lock"} and issued in self.made:
                    then.open[issued] = self.made[issued]
            for seq in entry.dropped:
                then.open.pop(seq, None)
                then.held.pop(seq, None)
        answered = {row.step for row in rows if isinstance(row, RequestCompleted)}
        then.open = {seq: ask for seq, ask in then.open.items() if seq not in answered}
        return then
