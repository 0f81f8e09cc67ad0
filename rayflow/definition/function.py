"""Workflows that are written as durable functions."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, Generic, ParamSpec, Protocol, TypedDict, TypeVar, Unpack, cast, get_args, overload

from rayflow.definition.base import Definition, WorkflowDefinition, making_module
from rayflow.definition.checks import (
    check_function,
    check_name,
    check_options,
    default_name,
    is_async,
    return_annotation,
    signature_of,
)
from rayflow.definition.context import ChildCall, OnParentEnd, current_execution
from rayflow.definition.options import ExecutionOptions, Retention, check_retention
from rayflow.errors import DefinitionError
from rayflow.ids import check_id

P = ParamSpec("P")
R = TypeVar("R")


class WorkflowSettings(TypedDict, total=False):
    """What :func:`workflow` takes."""

    id: str
    version: str
    description: str
    retention: Retention | None


class WorkflowFunction(Definition, Generic[P, R]):
    """An ``async`` function that an engine runs durably.

    Calling it outside an execution simply runs it, and its steps with it.

    Attributes:
        fn: the undecorated function.
        id: the workflow's id.
        version: changes when executions of the old code could not go on with the new one.
        description: what it does, for people.
        retention: how long its executions are kept after their end; None where it does not say.
    """

    fn: Callable[..., Any]
    retention: Retention | None = None
    transient = Definition.transient | {"signature", "returns"}

    def __init__(
        self,
        fn: Callable[..., Any],
        *,
        id: str | None = None,
        version: str = "1",
        description: str = "",
        retention: Retention | None = None,
    ) -> None:
        if isinstance(fn, Definition):
            raise DefinitionError(f"{fn!r} is defined already; use its .fn")
        check_function("workflow", fn)
        self.id = check_id("workflow", default_name("workflow", fn, "id") if id is None else id)
        if not is_async(fn):
            raise DefinitionError(
                f"workflow {self.id!r} must be an `async def`; a plain function cannot wait for its steps. What only "
                "computes belongs into a step (@rf.step), which may be a plain function"
            )
        functools.update_wrapper(self, fn)
        self.fn = fn
        self.version = check_name("workflow version", version)
        self.description = description or (inspect.getdoc(fn) or "").partition("\n")[0]
        self.retention = check_retention(f"workflow {self.id!r}", retention)
        self.home = making_module()

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, R]:
        """A coroutine of the workflow's result. In another workflow it runs as a child: an execution of its own.

        Call ``.fn(...)`` to run it as a part of that other workflow instead.

        Raises:
            TypeError: the arguments do not fit.
        """
        self.bind(*args, **kwargs)
        if current_execution() is not None:
            called: Any = self.child()(*args, **kwargs)
            called.__qualname__ = self.id  # for messages about a coroutine that is never awaited
            return cast("Coroutine[Any, Any, R]", called)
        return self.begin(args, kwargs)

    def child(self, **settings: Unpack[ChildSettings]) -> ChildWorkflow[P, R]:
        """The workflow as a child with settings, to be called in another workflow.

        Args:
            settings: ``id`` (default: derived from the parent's), ``options`` (default: the parent's, without a limit
                on its time), ``on_parent_end``: "cancel", or "abandon", and it goes on alone.

        Raises:
            DefinitionError: a setting does not fit.

        Example:
            ``await analyse.child(id="doc-17")(document)`` in a workflow.
        """
        return ChildWorkflow(self, **settings)

    def bind(self, *args: Any, **kwargs: Any) -> inspect.BoundArguments:
        """Check arguments against the function's parameters.

        Raises:
            TypeError: one is missing, or too much; it names the workflow.
        """
        try:
            return self.signature.bind(*args, **kwargs)
        except TypeError as error:
            raise TypeError(f"workflow {self.id!r}: {error}; it takes {self.signature}") from None

    def begin(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Coroutine[Any, Any, R]:
        """The coroutine that an execution runs."""
        coroutine: Coroutine[Any, Any, R] = self.fn(*args, **kwargs)
        return coroutine

    @functools.cached_property
    def signature(self) -> inspect.Signature:
        """The function's signature."""
        return signature_of("workflow", self.fn)

    @functools.cached_property
    def returns(self) -> Any:
        """The annotation of the result, to rebuild it; None where there is none or it cannot be resolved."""
        return return_annotation(self.fn)

    def __repr__(self) -> str:
        return f"<workflow {self.id!r} version {self.version!r} of {self.fn!r}>"


class WorkflowDecorator(Protocol):
    """What ``rf.workflow(...)`` with options answers."""

    def __call__(self, fn: Callable[P, Coroutine[Any, Any, R]], /) -> WorkflowFunction[P, R]:
        """Make a workflow of an ``async def``."""


@overload
def workflow(
    fn: Callable[P, Coroutine[Any, Any, R]], /, **settings: Unpack[WorkflowSettings]
) -> WorkflowFunction[P, R]: ...
@overload
def workflow(**settings: Unpack[WorkflowSettings]) -> WorkflowDecorator: ...
def workflow(fn: Callable[..., Any] | None = None, /, **settings: Unpack[WorkflowSettings]) -> Any:
    """Make a durable workflow of an ``async`` function.

    Args:
        fn: the function; left out in ``@rf.workflow(...)`` with options.
        settings: ``id`` (default: the function's name), ``version`` (default "1"), ``description`` (default: the
            first line of the docstring), ``retention`` (default: what the engine's configuration says).

    Raises:
        DefinitionError: an option is unknown or does not fit, or ``fn`` is no ``async def``.

    Example:
        >>> @workflow(version="2")
        ... async def analyse(document: str) -> int:
        ...     return len(document)
        >>> analyse.id, analyse.version
        ('analyse', '2')
    """
    check_options("workflow", settings, WorkflowSettings.__annotations__)
    if fn is None:
        return lambda function: WorkflowFunction(function, **settings)
    return WorkflowFunction(fn, **settings)


class ChildSettings(TypedDict, total=False):
    """What :meth:`WorkflowFunction.child` takes."""

    id: str | None
    options: ExecutionOptions | None
    on_parent_end: OnParentEnd | None


class ChildWorkflow(Generic[P, R]):
    """A workflow with the settings of a child. Call it in a workflow, or give it to ``rf.start_child()``.

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
