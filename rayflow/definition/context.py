"""Interface between definitions and the execution that runs them.

Definitions do not know the interpreter: they ask the running event loop. In a workflow, the loop has an ``execution``,
which the interpreter sets. Anywhere else there is no execution, and a step just runs its function.
"""

from __future__ import annotations

import asyncio
import random
import uuid
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NoReturn, Protocol

from rayflow.definition.options import StepOptions
from rayflow.errors import SideEffectError

if TYPE_CHECKING:
    from rayflow.definition.base import WorkflowDefinition

OnParentEnd = Literal["cancel", "abandon"]


@dataclass(frozen=True, slots=True)
class Target:
    """Object that a worker calls: an importable or stored owner, and a part of it.

    Args:
        owner: a ``Step``, or the declared ``Workflow`` that holds the agent.
        part: "" for the owner itself, or a path that ``owner.part(path)`` resolves.
    """

    owner: Any
    part: str = ""


@dataclass(frozen=True, slots=True)
class StepCall:
    """Call of a step, as the workflow's code issued it."""

    name: str
    target: Target
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    options: StepOptions = StepOptions()
    #: Annotation of the result, by which it is rebuilt; None without one.
    returns: Any = None
    #: Context variables that the code has set, as ``module:name``, with their encoded values.
    context: tuple[tuple[str, bytes], ...] = ()
    kind: ClassVar[str] = "step"


@dataclass(frozen=True, slots=True)
class ChildCall:
    """Call of a workflow in a workflow: a child execution.

    Args:
        name: id of the workflow.
        workflow: definition of the workflow.
        args: positional arguments.
        kwargs: keyword arguments.
        id: id of the execution; None derives one from the parent's id and the number of the call.
        changes: fields of the execution's options; the others are the parent's, without a limit on the time.
        on_parent_end: "cancel" or "abandon": what happens when the parent ends, or stops waiting.
        waits: whether the outcome of the call is the child's result; otherwise it is the child's id, once started.
    """

    name: str
    workflow: WorkflowDefinition
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    id: str | None = None
    changes: Mapping[str, Any] = field(default_factory=dict)
    on_parent_end: OnParentEnd = "cancel"
    waits: bool = True
    kind: ClassVar[str] = "child"

    @property
    def returns(self) -> Any:
        """Annotation of the result."""
        return self.workflow.returns


@dataclass(frozen=True, slots=True)
class SignalCall:
    """Signal to another execution; completed once the signal is durable."""

    execution_id: str
    name: str
    payload: Any
    returns: ClassVar[Any] = None
    kind: ClassVar[str] = "signal"


@dataclass(frozen=True, slots=True)
class LockCall:
    """Claim of one permit of a lock or semaphore; completed with a fencing token when it is granted."""

    name: str
    limit: int = 1
    returns: ClassVar[Any] = None
    kind: ClassVar[str] = "lock"


Call = StepCall | ChildCall | SignalCall | LockCall


class HeldPermit(Protocol):
    """Permit of a lock or semaphore that the execution holds."""

    @property
    def token(self) -> int:
        """Fencing token of the newest grant."""

    def release(self) -> None:
        """Release the permit."""


class ExecutionContext(Protocol):
    """Execution in which workflow code runs, as definitions see it."""

    execution_id: str
    workflow_id: str

    async def call(self, call: Call) -> Any:
        """Issue the call, and return its recorded outcome, decoded. Raises StepFailed, StepTimeout."""

    async def lock(self, call: LockCall) -> HeldPermit:
        """Issue the claim and wait until it is granted."""

    async def receive(self, name: str, annotation: Any) -> Any:
        """Return the next signal of that name. A signal that does not fit the annotation becomes a dead letter."""

    def compensate(self, call: StepCall) -> None:
        """Register a step that runs if the workflow fails or is cancelled."""

    def continue_as_new(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> NoReturn:
        """End this run, and start the workflow again with other arguments."""

    def patched(self, change: str) -> bool:
        """Return whether the running code follows a change."""

    def now(self) -> float:
        """Return the time of the event being applied, in seconds since the epoch; the same in every replay."""

    @property
    def random(self) -> random.Random:
        """Random numbers that follow from the execution's seed; the same in every replay."""

    def uuid4(self) -> uuid.UUID:
        """Return a UUID made of these random numbers."""

    @property
    def state(self) -> MutableMapping[str, Any]:
        """State that snapshots of the execution show."""

    def stage(self, index: int, name: str, status: str, result: Any = None) -> None:
        """Record that a declared step is "running", "completed", "failed" or "skipped"."""


def current_execution() -> ExecutionContext | None:
    """Return the execution whose workflow code runs on this thread; None outside of workflows."""
    loop = asyncio._get_running_loop()
    return getattr(loop, "execution", None)


def refuse_in_workflow(call: str, instead: str) -> None:
    """Refuse a call in workflow code: it would block the loop on which the code runs, or repeat at each replay.

    Args:
        call: the call, as user code writes it.
        instead: what to call instead, as a sentence without its full stop.

    Raises:
        SideEffectError: this thread runs workflow code.
    """
    if current_execution() is not None:
        raise SideEffectError(call, instead=instead)
