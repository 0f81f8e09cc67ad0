"""Functions that workflow code and step code call: time, random numbers, signals, locks, child workflows."""

from __future__ import annotations

import asyncio
import contextlib
import random as random_module
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, NoReturn, ParamSpec, Self, TypeVar, overload

from rayflow.definition.checks import check_name
from rayflow.definition.context import (
    ExecutionContext,
    HeldPermit,
    LockCall,
    SignalCall,
    StepCall,
    Target,
    current_execution,
)
from rayflow.definition.function import WorkflowFunction
from rayflow.definition.start_options import ConfiguredWorkflow
from rayflow.definition.step import Step
from rayflow.definition.workflow import AnyWorkflow, Workflow, configured
from rayflow.errors import InvalidArgument
from rayflow.ids import check_id


def now() -> float:
    """Seconds since the epoch, as of the event that the workflow is reacting to; the same in every replay.

    Raises:
        RuntimeError: outside a workflow; use ``time.time()`` there.
    """
    return _workflow("rf.now()", "use time.time()").now()


def random() -> random_module.Random:
    """Return the execution's generator of random numbers, which repeats its numbers in every replay.

    Raises:
        RuntimeError: outside a workflow; use the ``random`` module there.

    Example:
        ``rf.random().choice(candidates)`` in a workflow.
    """
    return _workflow("rf.random()", "use the random module").random


def uuid4() -> uuid.UUID:
    """Return a random UUID from the execution's generator; it is the same in every replay.

    Raises:
        RuntimeError: outside a workflow; use ``uuid.uuid4()`` there.
    """
    return _workflow("rf.uuid4()", "use uuid.uuid4()").uuid4()


def _workflow(what: str, instead: str = "an engine's methods do it from outside") -> ExecutionContext:
    """Return the execution whose workflow code runs here. Raises RuntimeError, naming the call that is right."""
    execution = current_execution()
    if execution is None:
        raise RuntimeError(f"{what} works in a workflow's own code, and no workflow is running here: {instead}")
    return execution


def _unheard(progress: Any) -> None:
    """Discard a heartbeat outside a worker."""


def _nothing_prepared() -> Any:
    raise RuntimeError("rf.step_context().setup: no setup of a pool has run where this step runs")


@dataclass(frozen=True, slots=True)
class StepContext:
    """Which attempt at which step is running.

    Args:
        execution_id: the execution's id.
        workflow_id: the workflow's id.
        step: the step's name.
        seq: its number in the execution, from 1.
        attempt: from 1.
        idempotency_key: the same on each attempt; give it to services that should act only once.
        epoch: number of the execution's coordinator; a fencing token for the outside world: what carries a
            lower one than was seen before is late.
        worker: the worker's name.
        cancel: set by the worker when it abandons the attempt.
        beat: takes each heartbeat, with its progress.
        prepared: returns the value of the pool's setup function.
    """

    execution_id: str
    workflow_id: str
    step: str
    seq: int
    attempt: int
    idempotency_key: str
    epoch: int
    worker: str
    cancel: threading.Event = field(default_factory=threading.Event, repr=False, compare=False)
    beat: Callable[[Any], None] = field(default=_unheard, repr=False, compare=False)
    prepared: Callable[[], Any] = field(default=_nothing_prepared, repr=False, compare=False)

    @property
    def cancelled(self) -> bool:
        """Whether the worker has abandoned the attempt (timeout, cancellation, drain): its result is discarded."""
        return self.cancel.is_set()

    @property
    def setup(self) -> Any:
        """What the ``setup`` of the step's pool answered in this worker; of a context manager, what entering it did.

        Raises:
            RuntimeError: the pool has no setup, or the step does not run on one of the pool's workers.
        """
        return self.prepared()

    def heartbeat(self, progress: Any = None) -> None:
        """Say that the step is alive and, if you like, how far it is.

        Call it as often as you like, from any thread: only now and then one goes out, with the newest progress. A step
        with a ``heartbeat_timeout`` has to call it more often than that.

        Args:
            progress: anything that the codec can write; None keeps the previous progress.

        Raises:
            CodecError: the progress cannot be written.

        Example:
            ``rf.step_context().heartbeat({"pages": done, "of": total})`` in a loop of a step.
        """
        self.beat(progress)


_STEP: ContextVar[StepContext] = ContextVar("rayflow_step")


def step_context() -> StepContext:
    """Return the context of the running step.

    Raises:
        RuntimeError: no step is running here, or it simply runs, outside an execution.
    """
    try:
        return _STEP.get()
    except LookupError:
        raise RuntimeError(
            "rf.step_context() works in a step that an engine runs; here none is running. In a thread of your own, run "
            "the code through contextvars.copy_context()"
        ) from None


@contextlib.contextmanager
def entered(context: StepContext) -> Iterator[None]:
    """Run a step's code under its context; for workers."""
    token = _STEP.set(context)
    try:
        yield
    finally:
        _STEP.reset(token)


P = ParamSpec("P")
T = TypeVar("T")


# --- state ------------------------------------------------------------------------------------------------
class State(MutableMapping[str, Any]):
    """The running execution's state: what others see of it while it runs, in its snapshot.

    An assigned value is recorded with the event that the workflow reacts to, and is visible at once. A change inside
    a value is not recorded: assign the value again.

    Example:
        ``rf.state["reviewed"] = 12`` in a workflow; ``handle.status().state["reviewed"]`` anywhere.
    """

    def __getitem__(self, key: str) -> Any:
        return self._state()[key]

    def __setitem__(self, key: str, value: Any) -> None:
        self._state()[check_name("state key", key)] = value

    def __delitem__(self, key: str) -> None:
        del self._state()[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._state())

    def __len__(self) -> int:
        return len(self._state())

    def __repr__(self) -> str:
        return f"<state {dict(self._state())}>" if current_execution() else "<the state of the running execution>"

    def _state(self) -> MutableMapping[str, Any]:
        return _workflow("rf.state", "engine.status(id).state shows it from outside").state


state = State()


# --- signals ----------------------------------------------------------------------------------------------
@overload
async def wait_for_signal(name: str, *, type: type[T], timeout: float | None = None) -> T: ...
@overload
async def wait_for_signal(name: str, *, type: Any = None, timeout: float | None = None) -> Any: ...
async def wait_for_signal(name: str, *, type: Any = None, timeout: float | None = None) -> Any:
    """Wait for the next signal of that name and answer its payload. Each signal is received once, in order.

    Signals that came before the wait began are kept for it. While an execution only waits, it costs nothing.

    Args:
        name: the signal's name.
        type: what the payload has to be: a pydantic model, a dataclass, any annotation. A sender whose payload does
            not fit gets the error where the type is known to him; a signal that does not fit all the same is kept as
            a dead letter, and the wait continues.
        timeout: seconds; None for as long as it takes.

    Raises:
        TimeoutError: no signal came in that time.
        RuntimeError: outside a workflow.

    Example:
        ``verdict = await rf.wait_for_signal("review", type=Verdict, timeout=3600)`` in a workflow, and
        ``engine.signal(id, "review", Verdict(ok=True))`` anywhere.
    """
    execution = _workflow("rf.wait_for_signal()", "engine.signal() sends one")
    return await asyncio.wait_for(execution.receive(check_name("signal name", name), type), timeout)


async def send_signal(execution_id: str, name: str, payload: Any = None) -> None:
    """Send a signal to another execution, exactly once. It is durable when this returns.

    Args:
        execution_id: to whom.
        name: the signal's name.
        payload: anything that the codec can write.

    Raises:
        StepFailed: the execution does not exist or has finished; ``.failure`` says which.
        RuntimeError: outside a workflow; use ``engine.signal()`` there.
    """
    call = SignalCall(check_id("execution", execution_id), check_name("signal name", name), payload)
    await _workflow("rf.send_signal()", "use engine.signal()").call(call)


# --- children ---------------------------------------------------------------------------------------------
@overload
async def start_child(
    workflow: WorkflowFunction[P, Any] | ConfiguredWorkflow[P, Any], /, *args: P.args, **kwargs: P.kwargs
) -> str: ...
@overload
async def start_child(workflow: Workflow, state: Mapping[str, Any] | None = None, /) -> str: ...
async def start_child(workflow: AnyWorkflow | ConfiguredWorkflow[..., Any], /, *args: Any, **kwargs: Any) -> str:
    """Start a workflow as a separate execution and return its id once the start is durable.

    The child outlives this execution unless it is started with ``analyse.options(on_parent_end="cancel")``. To wait
    for the child instead, await the workflow itself: ``await analyse(document)``.

    Args:
        workflow: the workflow, or one with options: ``analyse.options(id="doc-17", priority=3)``.
        args: its arguments.
        kwargs: its keyword arguments.

    Raises:
        StepFailed: the id belongs to another execution.
        InvalidInput: the arguments do not fit.
        RuntimeError: the call is outside a workflow; use ``engine.start()`` there.

    Example:
        ``child = await rf.start_child(analyse, document)``, then ``await rf.send_signal(child, "go")`` in a workflow.
    """
    chosen = configured(workflow)
    started: str = await _workflow("rf.start_child()", "use engine.start()").call(
        chosen.child(args, kwargs, waits=False)
    )
    return started


# --- locks ------------------------------------------------------------------------------------------------
class Lock:
    """A permit of a lock or semaphore, for ``async with``. Made by :func:`lock` and :func:`semaphore`.

    Attributes:
        name: the lock's name.
    """

    def __init__(self, name: str, limit: int) -> None:
        self.name = check_name("lock name", name)
        if type(limit) is not int or limit < 1:
            raise InvalidArgument(f"semaphore {name!r} must have a whole number of permits from 1, not {limit!r}")
        self._call = LockCall(self.name, limit)
        self._held: HeldPermit | None = None

    @property
    def token(self) -> int:
        """The fencing token: each grant of this lock has a higher one, so a resource can refuse lower ones.

        Raises:
            RuntimeError: the lock is not held.
        """
        if self._held is None:
            raise RuntimeError(f"lock {self.name!r} is not held here; use it within its `async with`")
        return self._held.token

    async def __aenter__(self) -> Self:
        if self._held is not None:
            raise RuntimeError(f"this lock object of {self.name!r} is held already; make another with rf.lock()")
        self._held = await _workflow("rf.lock()", "use engine.lock()").lock(self._call)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        held, self._held = self._held, None
        if held is not None:
            held.release()


def lock(name: str) -> Lock:
    """Return a lock that one execution holds at a time, across the whole store: ``async with rf.lock("ledger"):``.

    It is granted in the order in which it was asked for. It is kept while the execution is parked and while its
    coordinator crashes and comes back; it is given back by the end of the block, or of the execution.

    Args:
        name: the lock's name; all executions that use this name share the lock.

    Raises:
        Deadlock: in ``async with``: this execution and others wait for each other in a circle.
        RuntimeError: in ``async with`` outside a workflow; use ``engine.lock()`` there.

    Example:
        ``async with rf.lock("ledger") as held: await book(entry, token=held.token)`` in a workflow.
    """
    return Lock(name, 1)


def semaphore(name: str, permits: int) -> Lock:
    """Return a lock that ``permits`` executions (or tasks of one) hold at a time. See :func:`lock`.

    Args:
        name: its name; all uses of this name must give the same number of permits.
        permits: how many, from 1.
    """
    return Lock(name, permits)


# --- compensation, continuation, versions -------------------------------------------------------------------
def compensate(step: Step[P, Any], *args: P.args, **kwargs: P.kwargs) -> None:
    """Register a compensation: a step that runs if the workflow fails or is cancelled from here on.

    Compensations run after the workflow's own clean-up, the last one first, each as durable as any step and with its
    retries. One that fails all the same is kept as a dead letter, and the others still run.

    Args:
        step: what to run.
        args: its arguments, as they are when it runs.
        kwargs: its keyword arguments.

    Raises:
        TypeError: the arguments do not fit the step.
        RuntimeError: outside a workflow.

    Example:
        ``order = await book(trip)``, then ``rf.compensate(cancel_booking, order)`` in a workflow.
    """
    if not isinstance(step, Step):
        raise InvalidArgument(f"rf.compensate() takes a step and its arguments, not {step!r}")
    step.check_arguments(args, kwargs)
    call = StepCall(step.name, Target(step), args, kwargs, step.settings, step.returns)
    _workflow("rf.compensate()", "call the step").compensate(call)


def continue_as_new(*args: Any, **kwargs: Any) -> NoReturn:
    """End this run of the workflow here and restart it with other arguments and an empty journal.

    For workflows that never end: their journal would grow for ever. The execution keeps its id, its state and the
    signals that it has not received yet. The function never returns.

    Args:
        args: the workflow's arguments.
        kwargs: its keyword arguments.

    Raises:
        RuntimeError: outside a workflow, or there are compensations, which a new run would forget.

    Example:
        ``rf.continue_as_new(cursor + 1)`` at the end of a workflow.
    """
    _workflow("rf.continue_as_new()", "start the workflow").continue_as_new(args, kwargs)


def patched(change: str) -> bool:
    """Whether this execution runs the changed code: ask it before code that older executions do not know.

    The function returns False in executions that passed this place before the change existed, and True in all others.
    The answer is recorded and stays the same for the execution, so one definition serves both.

    Args:
        change: the change's id; never used for another change.

    Example:
        ``reply = await (draft_with_sources(text) if rf.patched("sources") else draft(text))`` in a workflow.
    """
    return _workflow("rf.patched()").patched(check_name("change id", change))
