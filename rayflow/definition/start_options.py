"""Options of a start: an execution's id and how it runs, kept apart from the workflow's own arguments."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, ParamSpec, TypedDict, TypeVar, Unpack, cast, get_args

from rayflow.definition.base import WorkflowDefinition
from rayflow.definition.checks import check_name
from rayflow.definition.context import ChildCall, OnParentEnd, current_execution
from rayflow.definition.options import Checkpoints, ExecutionOptions, Retention, RetryPolicy
from rayflow.errors import InvalidArgument
from rayflow.ids import check_id

P = ParamSpec("P")
R_co = TypeVar("R_co", covariant=True)

WhenFull = Literal["wait", "raise"]


class StartOptions(TypedDict, total=False):
    """Keywords of ``.options()`` of a workflow.

    The keys below ``when_full`` are the fields of :class:`~rayflow.definition.options.ExecutionOptions`. A field that
    is left out comes from the engine's configuration, or for a child from its parent.

    Keys:
        id: the execution's id. Starting it again with the same workflow and input returns the same execution.
        on_parent_end: for a child: "cancel" it when its parent ends or stops waiting, or "abandon" it. Default:
            "cancel" for a child whose result is awaited, "abandon" for one that was only started.
        when_full: for ``engine.start()``: "wait" while the queue of the default pool is at its ``queue_limit``
            (default), or "raise" QueueFull.
    """

    id: str | None
    on_parent_end: OnParentEnd | None
    when_full: WhenFull
    timeout: float | dt.timedelta | None
    deadline: float | None
    retry: RetryPolicy
    step_timeout: float | dt.timedelta | None
    checkpoints: Checkpoints | bool
    priority: int
    distributed: bool
    strict_versions: bool
    start_at: float | None
    delay: float | dt.timedelta | None
    singleton: str | None
    retention: Retention | None
    attributes: Mapping[str, str | int | float | bool]


#: Keys of StartOptions that are not fields of ExecutionOptions.
OWN_KEYS = frozenset({"id", "on_parent_end", "when_full"})


class SavedWorkflow:
    """A workflow that an engine saved or started before, named by its id.

    Its arguments are checked when the execution begins: the code may not be importable where it is started.

    Args:
        id: the workflow's id.
        version: its version; None for the version that was saved last.

    Raises:
        InvalidArgument: the id or the version is not valid.

    Example:
        >>> SavedWorkflow("research").options(id="rivers-1").id
        'rivers-1'
    """

    def __init__(self, id: str, version: str | None = None) -> None:
        self.id = check_id("workflow", id)
        self.version = None if version is None else check_name("workflow version", version)

    def options(self, **given: Unpack[StartOptions]) -> ConfiguredWorkflow[..., Any]:
        """Return the workflow with options for one start.

        Args:
            given: see :class:`StartOptions`.

        Raises:
            InvalidArgument: an option is unknown or not valid.
        """
        return ConfiguredWorkflow(self, given)

    def call(self, *args: Any, **kwargs: Any) -> WorkflowCall[Any]:
        """Return a call of the workflow with these arguments, for ``start_many()`` and schedules."""
        return self.options().call(*args, **kwargs)

    def __repr__(self) -> str:
        return f"<saved workflow {self.id!r}{'' if self.version is None else f' version {self.version!r}'}>"


class ConfiguredWorkflow(Generic[P, R_co]):
    """A workflow with options for one start, as ``workflow.options(...)`` returns it.

    Give it to ``engine.start()``, ``rf.start_child()`` or a schedule; call it in workflow code to run a child.

    Args:
        workflow: the workflow.
        given: its options, see :class:`StartOptions`.

    Attributes:
        workflow: the workflow.
        id: the execution's id; None for a new one.
        on_parent_end: as given.
        when_full: as given.
        changes: the fields of ExecutionOptions that were given.

    Raises:
        InvalidArgument: an option is unknown or not valid.
    """

    def __init__(self, workflow: WorkflowDefinition | SavedWorkflow, given: StartOptions) -> None:
        unknown = sorted(set(given) - set(StartOptions.__annotations__))
        if unknown:
            raise InvalidArgument(
                f"workflow {workflow.id!r}: options() has no option {unknown[0]!r}; it has: "
                f"{', '.join(sorted(StartOptions.__annotations__))}"
            )
        self.workflow = workflow
        self._given = given
        execution_id = given.get("id")
        self.id = None if execution_id is None else check_id("execution", execution_id)
        self.on_parent_end = _one_of(workflow, "on_parent_end", given.get("on_parent_end"), OnParentEnd)
        self.when_full = _one_of(workflow, "when_full", given.get("when_full"), WhenFull)
        self.changes: Mapping[str, Any] = {key: value for key, value in given.items() if key not in OWN_KEYS}
        ExecutionOptions(**self.changes)  # an option that is not valid is refused here

    def options(self, **given: Unpack[StartOptions]) -> ConfiguredWorkflow[P, R_co]:
        """Return the workflow with further options; those given later win.

        Raises:
            InvalidArgument: an option is unknown or not valid.
        """
        return ConfiguredWorkflow(self.workflow, cast("StartOptions", {**self._given, **given}))

    def call(self, *args: P.args, **kwargs: P.kwargs) -> WorkflowCall[R_co]:
        """Return a call of the workflow with these arguments, for ``start_many()`` and schedules.

        Raises:
            InvalidInput: the arguments do not fit the workflow's parameters.
        """
        if not isinstance(self.workflow, SavedWorkflow):
            self.workflow.bind(*args, **kwargs)
        return WorkflowCall(self, args, kwargs)

    def child(self, args: tuple[Any, ...], kwargs: Mapping[str, Any], *, waits: bool) -> ChildCall:
        """Return the call as the execution of the calling workflow takes it.

        Raises:
            InvalidInput: the arguments do not fit.
            InvalidArgument: the workflow is a saved one, or an option applies to ``engine.start()`` only.
        """
        if isinstance(self.workflow, SavedWorkflow):
            raise InvalidArgument(f"{self.workflow!r} cannot be a child: import the workflow and call it")
        if self.when_full is not None:
            raise InvalidArgument(
                f"workflow {self.workflow.id!r}: when_full applies to engine.start() only; leave it out for a child"
            )
        self.workflow.bind(*args, **kwargs)
        end: OnParentEnd = self.on_parent_end or ("cancel" if waits else "abandon")
        return ChildCall(self.workflow.id, self.workflow, args, kwargs, self.id, self.changes, end, waits)

    async def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R_co:
        """Run the workflow as a child and return its result.

        Raises:
            ChildFailed: the child failed or was cancelled.
            RuntimeError: the call is outside a workflow.
        """
        execution = current_execution()
        if execution is None:
            raise RuntimeError(
                f"workflow {self.workflow.id!r}: with options it is called in another workflow; outside one, use "
                "engine.start(workflow.options(...), ...)"
            )
        return cast("R_co", await execution.call(self.child(args, kwargs, waits=True)))

    def __repr__(self) -> str:
        return f"{self.workflow!r} with {dict(self._given)}"


@dataclass(frozen=True)
class WorkflowCall(Generic[R_co]):
    """A workflow with its options and arguments, not started yet.

    Args:
        configured: the workflow with its options.
        args: its positional arguments.
        kwargs: its keyword arguments.
    """

    configured: ConfiguredWorkflow[..., R_co]
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)


def _one_of(workflow: WorkflowDefinition | SavedWorkflow, option: str, value: Any, allowed: Any) -> Any:
    if value is not None and value not in get_args(allowed):
        words = " or ".join(repr(word) for word in get_args(allowed))
        raise InvalidArgument(f"workflow {workflow.id!r}: {option} must be {words}, not {value!r}")
    return value
