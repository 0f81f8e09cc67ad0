"""Calls of one run of a workflow: their numbers, their recorded outcomes, and the permits of locks.

Steps, children, signals and locks are alike here: each call gets the next number, and one recorded outcome.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from dataclasses import replace
from typing import Any

from rayflow.core.events import RequestCompleted, StepCompleted, StepFailed
from rayflow.core.failures import failure_of, request_error, step_error
from rayflow.core.interpreter.context_variables import ContextVariables
from rayflow.core.interpreter.effects import Dispatch, Effects, Payloads
from rayflow.core.interpreter.event_loop import DurableLoop
from rayflow.core.interpreter.replay_check import named
from rayflow.definition.context import Call, ChildCall, LockCall, SignalCall, StepCall
from rayflow.errors import NonDeterminismError


class Calls:
    """Calls that the code has issued, by number.

    Attributes:
        effects: effects of the event being applied, to which issued and dropped calls are added.
        issued: number of calls so far, and the number of the newest call.
        answered: in a replay, numbers of the calls with a recorded outcome. Their arguments are not encoded again.
        failed: position in the order of failures, by the number of the call.
    """

    def __init__(
        self,
        loop: DurableLoop,
        payloads: Payloads,
        variables: ContextVariables,
        on_issued: Callable[[int], None],
    ) -> None:
        self.loop = loop
        self.effects = Effects()
        self.issued = 0
        self.answered: Collection[int] = frozenset()
        self.failed: dict[int, int] = {}
        self._payloads = payloads
        self._variables = variables
        self._on_issued = on_issued
        self._open: dict[int, tuple[str, Call, asyncio.Future[Any]]] = {}
        self._held: dict[int, LockPermit] = {}

    def is_open(self, seq: int) -> bool:
        """Return whether the code still waits for that call."""
        return seq in self._open

    @property
    def held(self) -> list[LockPermit]:
        """Permits of locks that the code holds."""
        return list(self._held.values())

    def mark_locks_foreign(self) -> None:
        """Forget the tokens of all permits: in a fork, they were granted to the source."""
        for held in self._held.values():
            held.own_token = 0

    def drop_all(self) -> None:
        """Drop all calls that the code waits for."""
        self.effects.dropped.extend(self._open)
        self._open.clear()

    def issue(self, call: Call, payload: bytes = b"", *, compensation: bool = False) -> int:
        """Issue a call and return its number. Raises CodecError if its arguments cannot be encoded."""
        self.issued = seq = self.issued + 1
        self._on_issued(seq)
        if seq not in self.answered and not compensation:
            # Encoded now, not when the call is dispatched: the code may change its arguments afterwards.
            try:
                payload = self._encoded(call)
                if isinstance(call, StepCall) and (context := self._variables.encoded()):
                    call = replace(call, context=context)
            except BaseException:
                # The number is used up. If the next step had it, a replay that finds that step completed would not
                # encode these arguments, and so would not fail here.
                self.effects.dispatches.append(Dispatch(seq, call, b""))
                self.effects.dropped.append(seq)
                raise
        dispatch = Dispatch(seq, call, payload, compensation)
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

    def _release(self, seq: int) -> None:
        if self._held.pop(seq, None) is not None and not self.loop.dead:
            self.effects.dropped.append(seq)

    async def lock(self, call: LockCall) -> LockPermit:
        """Claim a permit and wait until it is granted."""
        seq = self.issue(call)
        try:
            token = await self.wait_for(seq)
        except BaseException:
            if seq in self._held:  # granted, and cancelled before the code continued
                self._release(seq)
            raise
        held = self._held[seq]
        assert held.token == token
        return held

    def answer(self, event: StepCompleted | StepFailed | RequestCompleted) -> None:
        """Give the code the outcome of a call. Raises NonDeterminismError if the code does not wait for that call."""
        if isinstance(event, RequestCompleted) and event.step in self._held and isinstance(event.value, int):
            self._held[event.step].granted(event.value)  # granted again, after a rewind
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
        """Resolve the future that the code awaits, and return the event if the call failed."""
        if isinstance(event, StepFailed):
            future.set_exception(step_error(event))
            return event
        if isinstance(event, RequestCompleted):
            if event.failure is not None:
                future.set_exception(request_error(event, event.failure))
                return event
            if isinstance(call, LockCall):
                assert isinstance(event.value, int)
                self._held[event.step] = LockPermit(event.step, call, event.value, self._release)
            if event.result is None:
                future.set_result(event.value)
                return None
        assert event.result is not None
        future.set_result(self._payloads.decode(event.result, call.returns))
        return None


class LockPermit:
    """Permit of a lock or semaphore that the code holds.

    Attributes:
        token: fencing token of the newest grant.
        own_token: the same; 0 in a fork until the lock is granted to the fork itself.
    """

    def __init__(self, seq: int, call: LockCall, token: int, on_release: Callable[[int], None]) -> None:
        self.seq = seq
        self.call = call
        self.token = self.own_token = token
        self._release = on_release

    def granted(self, token: int) -> None:
        """Take the token of a new grant."""
        self.token = self.own_token = token

    def release(self) -> None:
        """Release the permit."""
        self._release(self.seq)
