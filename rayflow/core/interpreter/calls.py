"""The calls of one run of a workflow: their numbers, which of them the code waits for, and the locks that it has.

It owns no meaning: steps, children, signals and locks are all issued with the next number, and answered once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from typing import Any

from rayflow.core.events import RequestCompleted, StepCompleted, StepFailed
from rayflow.core.failures import failure_of, request_error, step_error
from rayflow.core.interpreter.effects import Dispatch, Effects, Payloads
from rayflow.core.interpreter.event_loop import DurableLoop
from rayflow.core.interpreter.replay_check import named
from rayflow.definition.context import Call, ChildCall, LockCall, SignalCall, StepCall
from rayflow.errors import NonDeterminismError


class Calls:
    """See the module's docstring.

    Args:
        loop: on which the code runs.
        payloads: the codec.
        on_issued: receives the number of each call as soon as it is issued.

    Attributes:
        effects: of the event being applied; what happens is noted there.
        issued: the number of calls so far; the newest call has this number.
        answered: numbers of those that a replay knows to be answered: their arguments are not encoded again.
        failed: the order in which calls failed, by their numbers.
    """

    def __init__(self, loop: DurableLoop, payloads: Payloads, on_issued: Callable[[int], None]) -> None:
        self.loop = loop
        self.effects = Effects()
        self.issued = 0
        self.answered: Collection[int] = frozenset()
        self.failed: dict[int, int] = {}
        self._payloads = payloads
        self._on_issued = on_issued
        self._open: dict[int, tuple[str, Call, asyncio.Future[Any]]] = {}
        self._held: dict[int, LockPermit] = {}

    def is_open(self, seq: int) -> bool:
        """Whether the code still waits for that call."""
        return seq in self._open

    @property
    def held(self) -> list[LockPermit]:
        """The permits that the code has."""
        return list(self._held.values())

    def disown(self) -> None:
        """Forget the permits, which belong to the source of a fork."""
        for held in self._held.values():
            held.own_token = 0

    def drop_all(self) -> None:
        """Drop all open calls."""
        self.effects.dropped.extend(self._open)
        self._open.clear()

    def issue(self, call: Call, payload: bytes = b"", *, undo: bool = False) -> int:
        """Issue a call, and return its number.

        Args:
            call: the call.
            payload: the encoded arguments of a compensation.
            undo: whether it is one.

        Raises:
            CodecError: its arguments cannot be written.
        """
        self.issued = seq = self.issued + 1
        self._on_issued(seq)
        if seq not in self.answered and not undo:
            # Encoded now, not when it is sent: the code may change its arguments afterwards.
            try:
                payload = self._encoded(call)
            except BaseException:
                # Its number is used up all the same. Were it given to the next step, a replay that finds that one
                # answered would not encode these arguments, and so would not fail here.
                self.effects.dispatches.append(Dispatch(seq, call, b""))
                self.effects.dropped.append(seq)
                raise
        dispatch = Dispatch(seq, call, payload, undo)
        self.effects.dispatches.append(dispatch)
        self._open[seq] = (dispatch.label, call, self.loop.create_future())
        return seq

    def _encoded(self, call: Call) -> bytes:
        match call:
            case StepCall():
                return self._payloads.encode([list(call.args), dict(call.kwargs)])
            case ChildCall():
                return self._payloads.encode((call.args, dict(call.kwargs)))
            case SignalCall():
                return self._payloads.encode(call.payload)
            case LockCall():
                return b""

    async def wait_for(self, seq: int) -> Any:
        """Wait for the recorded outcome of a call."""
        loop, future = self.loop, self._open[seq][2]
        try:
            return await future
        finally:
            if seq in self._open and not loop.dead:
                del self._open[seq]
                self.effects.dropped.append(seq)

    def _give_back(self, seq: int) -> None:
        if self._held.pop(seq, None) is not None and not self.loop.dead:
            self.effects.dropped.append(seq)

    async def lock(self, call: LockCall) -> LockPermit:
        """Claim a permit and wait until it is granted."""
        seq = self.issue(call)
        try:
            token = await self.wait_for(seq)
        except BaseException:
            if seq in self._held:  # granted, and then cancelled before the code continued
                self._give_back(seq)
            raise
        held = self._held[seq]
        assert held.token == token
        return held

    def answer(self, event: StepCompleted | StepFailed | RequestCompleted) -> None:
        """Give the code the answer to a call.

        Raises:
            NonDeterminismError: the code does not wait for it.
        """
        if isinstance(event, RequestCompleted) and event.step in self._held and isinstance(event.value, int):
            self._held[event.step].granted(event.value)  # again, after a rewind
            return
        labelled, call, future = self._open.get(event.step, (None, None, None))
        if call is None or future is None or labelled != event.name:
            seen = "no such call waiting" if labelled is None else named(event.step, labelled)
            raise NonDeterminismError(expected=named(event.step, event.name), seen=seen, position=event.step)
        del self._open[event.step]
        try:
            failed = self._resolve(event, call, future)
        except Exception as error:  # noqa: BLE001 - whatever a codec or a model raises becomes the call's failure
            failed = StepFailed(event.at, event.step, event.name, 1, failure_of(error), issued=self.issued)
            future.set_exception(step_error(failed))
        if failed is not None:
            self.failed[event.step] = len(self.failed)

    def _resolve(
        self, event: StepCompleted | StepFailed | RequestCompleted, call: Call, future: asyncio.Future[Any]
    ) -> object | None:
        """Give the code its answer, and return the event if it is a failure."""
        if isinstance(event, StepFailed):
            future.set_exception(step_error(event))
            return event
        if isinstance(event, RequestCompleted):
            if event.failure is not None:
                future.set_exception(request_error(event, event.failure))
                return event
            if isinstance(call, LockCall):
                assert isinstance(event.value, int)
                self._held[event.step] = LockPermit(event.step, call, event.value, self._give_back)
            if event.result is None:
                future.set_result(event.value)
                return None
        assert event.result is not None
        future.set_result(self._payloads.decode(event.result, call.returns))
        return None


class LockPermit:
    """See :class:`rayflow.definition.context.Held`.

    Args:
        seq: the number of the call that claimed it.
        call: that call.
        token: the fencing token of its newest grant.
        give_back: told its number when it is released.

    Attributes:
        own_token: the same, but 0 as long as it was granted to the execution that this one was forked from.
    """

    def __init__(self, seq: int, call: LockCall, token: int, give_back: Callable[[int], None]) -> None:
        self.seq = seq
        self.call = call
        self.token = self.own_token = token
        self._give_back = give_back

    def granted(self, token: int) -> None:
        """Record that the permit is granted again."""
        self.token = self.own_token = token

    def release(self) -> None:
        """Give the permit back."""
        self._give_back(self.seq)
