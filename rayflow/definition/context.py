"""Interface between definitions and the machine that runs them.

Floor 1 knows no machine: it asks the running event loop. Inside a workflow that loop carries an ``execution``
(the machine of floor 2 sets it). Without an ``execution``, a step simply runs.
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
    """What a worker has to call: an object that can be found again, and a part of it.

    Args:
        owner: a ``Step``, or the declared ``Workflow`` that holds the agent.
        part: "" for the owner itself, else a path that ``owner.part(path)`` resolves.
    """

    owner: Any
    part: str = ""


@dataclass(frozen=True, slots=True)
class StepCall:
    """One call of a step, as the workflow's code issued it."""

    name: str
    target: Target
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    options: StepOptions = StepOptions()
    #: The annotation of the result, to rebuild it; None without one.
    returns: Any = None
    kind: ClassVar[str] = "step"


@dataclass(frozen=True, slots=True)
class ChildCall:
    """A call of a workflow in a workflow, which runs as a separate execution.

    Args:
        name: the workflow's id.
        workflow: its definition.
        args: its arguments.
        kwargs: its keyword arguments.
        id: the execution's id; None derives one from the parent's id and the call's number.
        changes: fields of its ExecutionOptions; the others are its parent's, without a limit on its time.
        on_parent_end: what becomes of it when its parent ends, or stops waiting for it: "cancel" or "abandon".
        waits: whether the answer is its result; otherwise it is its id, as soon as it has been started.
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
        """The annotation of the result."""
        return self.workflow.returns


@dataclass(frozen=True, slots=True)
class SignalCall:
    """A signal to another execution; answered once it is durable."""

    execution_id: str
    name: str
    payload: Any
    returns: ClassVar[Any] = None
    kind: ClassVar[str] = "signal"


@dataclass(frozen=True, slots=True)
class LockCall:
    """A claim to one of the permits of a lock or semaphore; answered when it is granted, with a fencing token."""

    name: str
    limit: int = 1
    returns: ClassVar[Any] = None
    kind: ClassVar[str] = "lock"


Call = StepCall | ChildCall | SignalCall | LockCall


class HeldPermit(Protocol):
    """A permit of a lock or semaphore that the execution has."""

    @property
    def token(self) -> int:
        """The fencing token of the newest grant."""

    def release(self) -> None:
        """Give the permit back."""


class ExecutionContext(Protocol):
    """The execution in which workflow code runs, as the definition floor sees it."""

    execution_id: str
    workflow_id: str

    async def call(self, call: Call) -> Any:
        """Issue the call, wait for its recorded answer, return it decoded. Raises StepFailed, StepTimeout."""

    async def lock(self, call: LockCall) -> HeldPermit:
        """Issue the claim and wait until it is granted."""

    async def receive(self, name: str, annotation: Any) -> Any:
        """Take the next signal of that name; one that does not fit the annotation is passed over and kept."""

    def compensate(self, call: StepCall) -> None:
        """Have that step run if the workflow fails or is cancelled."""

    def continue_as_new(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> NoReturn:
        """End this run, and restart the workflow with other arguments."""

    def patched(self, change: str) -> bool:
        """Whether the code that is running here is to behave as changed."""

    def now(self) -> float:
        """Seconds since the epoch, as of the event being applied; the same in every replay."""

    @property
    def random(self) -> random.Random:
        """A generator seeded by the execution's id; the same in every replay."""

    def uuid4(self) -> uuid.UUID:
        """Return a random UUID from that generator."""

    @property
    def state(self) -> MutableMapping[str, Any]:
        """What the snapshot shows as the execution's state."""

    def stage(self, index: int, name: str, status: str, result: Any = None) -> None:
        """Record that a declared step is "running", "completed", "failed" or "skipped"."""


def current_execution() -> ExecutionContext | None:
    """Return the execution whose workflow code is running here, or None outside a workflow."""
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
