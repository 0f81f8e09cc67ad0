"""A loop whose time jumps, and an execution that runs steps at once and writes down what happened."""

from __future__ import annotations

import asyncio
import random
import selectors
import uuid
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, TypeVar

from rayflow.definition.agent import run_agent
from rayflow.definition.context import StepCall
from rayflow.definition.results import failure_from
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
    #: What happened, in order: ("call" | "done" | "dropped", name), ("state", key, value), ("stage", …).
    log: list[tuple[Any, ...]] = field(default_factory=list)
    random: random.Random = field(default_factory=lambda: random.Random("doc-17"))

    def run(self, begin: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Run workflow code in this execution."""
        with asyncio.Runner(loop_factory=lambda: FakeLoop(self)) as runner:
            return runner.run(begin())

    async def call(self, call: StepCall) -> Any:
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

    def now(self) -> float:
        return asyncio.get_running_loop().time()

    def uuid4(self) -> uuid.UUID:
        return uuid.UUID(int=self.random.getrandbits(128), version=4)

    def publish(self, key: str, value: Any) -> None:
        self.log.append(("state", key, value))

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
