"""A loop whose time jumps, and an execution that runs steps at once and writes down what happened."""

from __future__ import annotations

import asyncio
import functools
import random
import selectors
import uuid
from collections import UserDict
from collections.abc import Awaitable, Callable, Coroutine, Mapping, MutableMapping
from dataclasses import dataclass, field
from typing import Any, NoReturn, TypeVar

from rayflow.definition.agent import run_agent
from rayflow.definition.checks import fitted
from rayflow.definition.context import Call, ChildCall, LockCall, StepCall
from rayflow.definition.declared_steps import failure_from
from rayflow.definition.step import Step
from rayflow.errors import StepFailed

T = TypeVar("T")

#: When every fake execution begins, in seconds since the epoch.
BEGINNING = 1000.0


class _Jump(selectors.DefaultSelector):
    now = BEGINNING

    def select(self, timeout: float | None = None) -> Any:
        if timeout is None:
            raise RuntimeError("nothing is left that could happen: the test hangs")
        self.now += max(timeout, 0.0)
        return super().select(0)


class FakeLoop(asyncio.SelectorEventLoop):
    """An event loop that never waits: time jumps to the next timer."""

    def __init__(self, execution: FakeExecution | None = None) -> None:
        self._jump = _Jump()
        super().__init__(self._jump)
        self.execution = execution

    def time(self) -> float:
        return self._jump.now


def plainly(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine outside an execution."""
    with asyncio.Runner(loop_factory=FakeLoop) as runner:
        return runner.run(coroutine)


class _LoggedState(UserDict[str, Any]):
    """Writes down what is set and deleted."""

    def __init__(self, log: list[tuple[Any, ...]]) -> None:
        super().__init__()
        self._log = log

    def __setitem__(self, key: str, value: Any) -> None:
        super().__setitem__(key, value)
        self._log.append(("state", key, value))

    def __delitem__(self, key: str) -> None:
        super().__delitem__(key)
        self._log.append(("state", key))


class ContinuesAsNew(BaseException):
    """Ends the fake's workflow code."""


@dataclass
class FakeHeld:
    """A permit, noted in the log when it is given back."""

    name: str
    token: int
    log: list[tuple[Any, ...]]

    def release(self) -> None:
        self.log.append(("released", self.name))


@dataclass
class FakeExecution:
    """Runs what it is asked to, outside the workflow's loop's execution, and keeps the record.

    Args:
        attempt: what runs a call; tests put failures and delays here.
    """

    attempt: Callable[[StepCall], Awaitable[Any]] | None = None
    execution_id: str = "doc-17"
    workflow_id: str = "analyse"
    calls: list[StepCall] = field(default_factory=list)
    #: Calls that are no steps; children run at once, inline.
    others: list[Call] = field(default_factory=list)
    #: The payloads that signals bring, in order.
    signals: list[Any] = field(default_factory=list)
    #: What happened, in order: ("call" | "done" | "dropped", name), ("state", key, value), ("stage", …), …
    log: list[tuple[Any, ...]] = field(default_factory=list)
    random: random.Random = field(default_factory=lambda: random.Random("doc-17"))

    def run(self, begin: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Run workflow code in this execution."""
        with asyncio.Runner(loop_factory=lambda: FakeLoop(self)) as runner:
            return runner.run(begin())

    async def call(self, call: Call) -> Any:
        if not isinstance(call, StepCall):
            self.others.append(call)
            if not isinstance(call, ChildCall):
                return None
            return await call.workflow.begin(call.args, call.kwargs) if call.waits else f"child {len(self.others)}"
        self.calls.append(call)
        self.log.append(("call", call.name))
        try:
            result = await (self.attempt or self.perform)(call)
        except Exception as error:  # noqa: BLE001 - as a worker does: whatever a step raises is its failure
            raise StepFailed(call.name, failure_from(error), attempts=1, seq=len(self.calls)) from None
        except asyncio.CancelledError:
            self.log.append(("dropped", call.name))
            raise
        self.log.append(("done", call.name))
        return result

    async def perform(self, call: StepCall) -> Any:
        """What a worker does with a call."""
        if call.target.part:
            return await run_agent(call.target.owner.part(call.target.part), call.args[0], self.now)
        assert isinstance(call.target.owner, Step)
        answer = call.target.owner.fn(*call.args, **call.kwargs)
        return await answer if call.target.owner.is_async else answer

    async def lock(self, call: LockCall) -> FakeHeld:
        self.others.append(call)
        self.log.append(("locked", call.name, call.limit))
        return FakeHeld(call.name, len(self.others), self.log)

    async def receive(self, name: str, annotation: Any) -> Any:
        self.log.append(("receive", name))
        if not self.signals:
            await asyncio.get_running_loop().create_future()
        return fitted(self.signals.pop(0), annotation)

    def compensate(self, call: StepCall) -> None:
        self.log.append(("compensate", call.name, call.args, dict(call.kwargs)))

    def continue_as_new(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> NoReturn:
        self.log.append(("continue_as_new", args, dict(kwargs)))
        raise ContinuesAsNew

    def patched(self, change: str) -> bool:
        self.log.append(("patched", change))
        return True

    def now(self) -> float:
        return asyncio.get_running_loop().time()

    def uuid4(self) -> uuid.UUID:
        return uuid.UUID(int=self.random.getrandbits(128), version=4)

    @functools.cached_property
    def state(self) -> MutableMapping[str, Any]:
        return _LoggedState(self.log)

    def stage(self, index: int, name: str, status: str, result: Any = None) -> None:
        self.log.append(("stage", index, name, status, result))

    @property
    def names(self) -> list[str]:
        """The names of the calls, in order."""
        return [call.name for call in self.calls]

    @property
    def stages(self) -> list[tuple[int, str, str]]:
        """Index, name and status of each stage, in order."""
        return [(entry[1], entry[2], entry[3]) for entry in self.log if entry[0] == "stage"]

    @property
    def results(self) -> list[Any]:
        """The StepResults, in order."""
        return [entry[4] for entry in self.log if entry[0] == "stage" and entry[4] is not None]
