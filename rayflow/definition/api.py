"""What workflow code and step code may ask of whoever runs them."""

from __future__ import annotations

import contextlib
import random as random_module
import threading
import uuid
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from rayflow.definition.context import ExecutionContext, current_execution


def now() -> float:
    """Seconds since the epoch, as of the event that the workflow is reacting to; the same in every replay.

    Raises:
        RuntimeError: outside a workflow; use ``time.time()`` there.
    """
    return _execution("rf.now()", "time.time()").now()


def random() -> random_module.Random:
    """The execution's own generator of random numbers; the same numbers in every replay.

    Raises:
        RuntimeError: outside a workflow; use the ``random`` module there.

    Example:
        ``rf.random().choice(candidates)`` in a workflow.
    """
    return _execution("rf.random()", "the random module").random


def uuid4() -> uuid.UUID:
    """A random UUID from the execution's own generator; the same in every replay.

    Raises:
        RuntimeError: outside a workflow; use ``uuid.uuid4()`` there.
    """
    return _execution("rf.uuid4()", "uuid.uuid4()").uuid4()


def _execution(what: str, instead: str) -> ExecutionContext:
    execution = current_execution()
    if execution is None:
        raise RuntimeError(f"{what} works in a workflow's own code, and no workflow is running here: use {instead}")
    return execution


def _unheard(progress: Any) -> None:
    """Where nobody listens for heartbeats."""


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
        cancel: set by the worker when the attempt is given up.
        beat: takes each heartbeat, with its progress.
        prepared: answers what the pool's setup did.
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
        """Whether the attempt was given up (timeout, cancellation, drain): its result no longer counts."""
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
            progress: anything that the codec can write; None leaves what was said last.

        Raises:
            CodecError: the progress cannot be written.

        Example:
            ``rf.step_context().heartbeat({"pages": done, "of": total})`` in a loop of a step.
        """
        self.beat(progress)


_STEP: ContextVar[StepContext] = ContextVar("rayflow_step")


def step_context() -> StepContext:
    """The context of the step that is running here.

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
