"""What a definition needs of whoever runs it.

Floor 1 knows no machine: it asks the running event loop. Inside a workflow that loop carries an ``execution``
(the machine of floor 2 sets it); anywhere else there is none, and a step simply runs.
"""

from __future__ import annotations

import asyncio
import random
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from rayflow.definition.options import StepOptions


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
    #: The annotation of the result, to rebuild it; None where there is none.
    returns: Any = None


class ExecutionContext(Protocol):
    """The execution in which workflow code runs, as the definition floor sees it."""

    execution_id: str
    workflow_id: str

    async def call(self, call: StepCall) -> Any:
        """Issue the step, wait for its recorded result, return it decoded. Raises StepFailed, StepTimeout."""

    def now(self) -> float:
        """Seconds since the epoch, as of the event being applied; the same in every replay."""

    @property
    def random(self) -> random.Random:
        """A generator seeded by the execution's id; the same in every replay."""

    def uuid4(self) -> uuid.UUID:
        """A random UUID from that generator."""

    def publish(self, key: str, value: Any) -> None:
        """Make ``value`` visible in the snapshot's state under ``key``."""

    def stage(self, index: int, name: str, status: str, result: Any = None) -> None:
        """Record that a declared step is "running", "completed", "failed" or "skipped"."""


def current_execution() -> ExecutionContext | None:
    """The execution whose workflow code is running here, or None outside a workflow."""
    loop = asyncio._get_running_loop()
    return getattr(loop, "execution", None)
