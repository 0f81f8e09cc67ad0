"""Steps and agents that the tests of workers run, imported by reference."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
import threading
from collections.abc import Coroutine
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, NoReturn

import pydantic

from rayflow.definition.agent import AgentOutput, AgentResult, TokenUsage, agent
from rayflow.definition.api import step_context
from rayflow.definition.declared_steps import SequentialStep
from rayflow.definition.step import step
from rayflow.definition.workflow import Workflow
from rayflow.errors import Failure, TerminalError

#: Seconds that a test waits for an event; only a failing test waits that long.
PATIENCE = 20.0


@dataclass
class Gate:
    """A place where a step waits until a test opens it."""

    reached: threading.Event = field(default_factory=threading.Event)
    opened: threading.Event = field(default_factory=threading.Event)

    def wait(self) -> None:
        self.reached.set()
        assert self.opened.wait(PATIENCE), "the test never opened the gate"


class Stage:
    """State that the steps of one test share with it."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        self.gates: dict[str, Gate] = {}
        self.ran: list[Any] = []
        self._lock = threading.Lock()

    def gate(self, name: str) -> Gate:
        with self._lock:
            return self.gates.setdefault(name, Gate())


STAGE = Stage()


class Broken(Exception):
    pass


class Unprintable(Exception):
    retryable = "yes, please"

    def __str__(self) -> str:
        raise ValueError("no words")


class Unpicklable(Exception):
    def __init__(self) -> None:
        super().__init__("holds a lock")
        self.lock = threading.Lock()


class Verdict(pydantic.BaseModel):
    score: int


@dataclass(frozen=True)
class Point:
    x: int
    y: int


# --- what goes well -----------------------------------------------------------------------------------------
@step
def double(n: int) -> int:
    STAGE.ran.append(n)
    return 2 * n


@step
async def double_slowly(n: int) -> int:
    await asyncio.sleep(0)
    STAGE.ran.append(n)
    return 2 * n


@step
def wait_at(gate: str) -> str:
    STAGE.gate(gate).wait()
    STAGE.ran.append(gate)
    return gate


@step
async def wait_for_ever(gate: str) -> None:
    STAGE.gate(gate).reached.set()
    try:
        await asyncio.Event().wait()
    finally:
        STAGE.ran.append(f"{gate} cleaned up")


@step
async def clean_up_at(gate: str, cleaning: str) -> None:
    STAGE.gate(gate).reached.set()
    try:
        await asyncio.Event().wait()
    finally:
        await asyncio.to_thread(STAGE.gate(cleaning).wait)
        STAGE.ran.append(f"{gate} cleaned up")


@step
def until_cancelled(gate: str) -> str:
    STAGE.gate(gate).reached.set()
    assert step_context().cancel.wait(PATIENCE)
    return "stopped" if step_context().cancelled else "not stopped"


@step
def thread_name() -> str:
    return threading.current_thread().name


@step
async def async_thread_name() -> str:
    return threading.current_thread().name


@step
def context() -> dict[str, Any]:
    return _context()


@step
async def async_context() -> dict[str, Any]:
    await asyncio.sleep(0)
    return _context()


def _context() -> dict[str, Any]:
    found = step_context()
    names = (
        "execution_id",
        "workflow_id",
        "step",
        "seq",
        "attempt",
        "idempotency_key",
        "epoch",
        "worker",
        "cancelled",
    )
    return {name: getattr(found, name) for name in names}


@step
def takes_models(verdict: Verdict, points: list[Point], *more: Point, scale: int = 1) -> list[str]:
    return [repr(value) for value in (verdict, *points, *more, scale)]


def _plain(n: int) -> Coroutine[Any, Any, int]:
    return double_slowly.fn(n)  # type: ignore[no-any-return]


plain_around_async = step(_plain, name="plain_around_async")


@step
def beat(*progress: Any) -> None:
    for value in progress:
        step_context().heartbeat(value)


@step
def beat_and_wait(before: list[Any], gate: str, after: list[Any], last: str) -> None:
    for value in before:
        step_context().heartbeat(value)
    STAGE.gate(gate).wait()
    for value in after:
        step_context().heartbeat(value)
    STAGE.gate(last).wait()


@step
async def beat_on_the_loop(gate: str) -> None:
    step_context().heartbeat()
    STAGE.gate(gate).reached.set()
    await asyncio.to_thread(STAGE.gate(gate).wait)


@step
def beat_a_lock() -> str:
    try:
        step_context().heartbeat({"held": threading.Lock()})
    except TypeError as error:
        return f"{type(error).__name__}: {error}"
    return "nothing happened"


@step
def fail_when_told(gate: str) -> None:
    STAGE.gate(gate).reached.set()
    assert step_context().cancel.wait(PATIENCE)
    raise Broken("told to stop")


@step
def what_was_prepared() -> str:
    return str(step_context().setup)


@step
def first_path() -> str:
    return sys.path[0]


# --- what goes wrong ----------------------------------------------------------------------------------------
@step
def fail(kind: str) -> NoReturn:
    _fail(kind)


@step
async def fail_async(kind: str) -> NoReturn:
    await asyncio.sleep(0)
    _fail(kind)


_ERRORS: dict[str, type[BaseException]] = {
    "broken": Broken,
    "unprintable": Unprintable,
    "unpicklable": Unpicklable,
    "terminal": TerminalError,
    "exit": SystemExit,
    "interrupt": KeyboardInterrupt,
    "cancelled": asyncio.CancelledError,
    "stop": StopIteration,
}


def _fail(kind: str) -> NoReturn:
    raise _ERRORS[kind]


@step
async def exit_in_a_task() -> str:
    async def leave() -> None:
        sys.exit(3)

    try:
        await asyncio.create_task(leave())
    except SystemExit as error:
        return f"the task left with {error.code}"
    return "nothing happened"


@step
async def time_out_inside() -> None:
    async with asyncio.timeout(0):
        await asyncio.Event().wait()


@step
def answer_a_lock() -> dict[str, Any]:
    return {"held": [threading.Lock()]}


# --- what is said -------------------------------------------------------------------------------------------
@step
def say(*words: str) -> None:
    for word in words:
        print(word)


@step
async def say_async(word: str) -> None:
    print(word, end="")
    await asyncio.sleep(0)
    print("!", file=sys.stderr)


@step
def say_and_wait(word: str, gate: str) -> None:
    print(word)
    STAGE.gate(gate).wait()
    print("bye")


@step
def log_something(logger: str) -> None:
    logging.getLogger(logger).warning("careful with %d", 7)


@step
def leak_a_variable() -> str:
    with contextlib.suppress(LookupError):
        return LEAK.get()
    LEAK.set("leaked")
    return "clean"


LEAK: ContextVar[str] = ContextVar("leak")


# --- agents -------------------------------------------------------------------------------------------------
@agent
def shout(text: str) -> AgentOutput:
    return AgentOutput(text.upper(), usage=TokenUsage(3, 4))


@agent
async def shout_async(text: str) -> str:
    await asyncio.sleep(0)
    return text.upper()


@agent
def give_up(text: str) -> AgentResult:
    return AgentResult("give_up", text, error=Failure("Broken", "no more", retryable=False))


declared = Workflow("declared")
_agents: dict[str, Any] = {"loud": shout, "later": shout_async, "given up": give_up, "doubled": double}
for _name, _agent in _agents.items():
    declared.add_step(SequentialStep(_name, agent=_agent, input=lambda state: state["text"], output_key=_name))
