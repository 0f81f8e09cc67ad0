"""Workflows that are called in other workflows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Generic, ParamSpec, TypedDict, TypeVar, cast, get_args

from rayflow.definition.base import WorkflowDefinition
from rayflow.definition.context import ChildCall, OnParentEnd, current_execution
from rayflow.definition.options import ExecutionOptions
from rayflow.errors import DefinitionError
from rayflow.ids import check_id

P = ParamSpec("P")
R = TypeVar("R")


class ChildSettings(TypedDict, total=False):
    """What :meth:`WorkflowFunction.child` takes."""

    id: str | None
    options: ExecutionOptions | None
    on_parent_end: OnParentEnd | None


class ChildWorkflow(Generic[P, R]):
    """A workflow with the settings of a child. Call it in a workflow, or give it to ``rf.start()``.

    Args:
        workflow: the workflow.
        id: the child's id; None derives one.
        options: how it runs; None as its parent does.
        on_parent_end: what becomes of it when its parent ends or stops waiting: "cancel" or "abandon". None cancels
            one whose result is awaited, and leaves one alone that was only started.
    """

    def __init__(
        self,
        workflow: WorkflowDefinition,
        *,
        id: str | None = None,
        options: ExecutionOptions | None = None,
        on_parent_end: OnParentEnd | None = None,
    ) -> None:
        if on_parent_end not in {None, *get_args(OnParentEnd)}:
            raise DefinitionError(
                f"workflow {workflow.id!r}: on_parent_end must be 'cancel' or 'abandon', not {on_parent_end!r}"
            )
        self._workflow = workflow
        self._id = None if id is None else check_id("execution", id)
        self._options = options
        self._on_parent_end = on_parent_end

    def call(self, args: tuple[Any, ...], kwargs: Mapping[str, Any], *, waits: bool) -> ChildCall:
        """The call as the execution gets it. Raises TypeError if the arguments do not fit."""
        self._workflow.bind(*args, **kwargs)
        end: OnParentEnd = self._on_parent_end or ("cancel" if waits else "abandon")
        return ChildCall(self._workflow.id, self._workflow, args, kwargs, self._id, self._options, end, waits)

    async def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run the workflow as a child and wait for its result.

        Raises:
            ChildFailed: it failed or was cancelled.
            RuntimeError: outside a workflow.
        """
        execution = current_execution()
        if execution is None:
            raise RuntimeError(f"workflow {self._workflow.id!r}: .child() is for calls in another workflow")
        return cast("R", await execution.call(self.call(args, kwargs, waits=True)))
