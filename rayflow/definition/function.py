"""Workflows that are written as durable functions."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, Generic, ParamSpec, Protocol, TypedDict, TypeVar, Unpack, cast, overload

from rayflow.definition.base import Definition, making_module
from rayflow.definition.checks import (
    annotations_of,
    check_function,
    check_input,
    check_name,
    check_options,
    default_name,
    is_async,
    signature_of,
)
from rayflow.definition.context import current_execution
from rayflow.definition.options import Retention, check_retention
from rayflow.definition.start_options import ConfiguredWorkflow, StartOptions, WorkflowCall
from rayflow.errors import DefinitionError, InvalidInput
from rayflow.ids import check_id

P = ParamSpec("P")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)


class WorkflowSettings(TypedDict, total=False):
    """What :func:`workflow` takes."""

    id: str
    version: str
    description: str
    retention: Retention | None


class WorkflowFunction(Definition, Generic[P, R_co]):
    """An ``async`` function that an engine runs durably.

    Calling it outside an execution simply runs it, and its steps with it.

    Attributes:
        fn: the undecorated function.
        id: the workflow's id.
        version: must change when executions of the old code could not continue with the new one.
        description: what it does, for people.
        retention: how long its executions are kept after their end; None where it does not say.
    """

    fn: Callable[..., Any]
    retention: Retention | None = None
    transient = Definition.transient | {"signature", "annotations"}

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

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, R_co]:
        """Return a coroutine of the result. In another workflow it runs as a child: a separate execution.

        Call ``.fn(...)`` to run it as a part of that other workflow instead.

        Raises:
            InvalidInput: the arguments do not fit.
        """
        self.bind(*args, **kwargs)
        if current_execution() is not None:
            called: Any = self.options()(*args, **kwargs)
            called.__qualname__ = self.id  # for messages about a coroutine that is never awaited
            return cast("Coroutine[Any, Any, R_co]", called)
        return self.begin(args, kwargs)

    def options(self, **given: Unpack[StartOptions]) -> ConfiguredWorkflow[P, R_co]:
        """Return the workflow with options for one start: its id, priority, timeout and so on.

        Args:
            given: see :class:`~rayflow.definition.start_options.StartOptions`.

        Raises:
            InvalidArgument: an option is unknown or not valid.

        Example:
            ``engine.start(analyse.options(id="doc-17", priority=3), document)``, and in a workflow
            ``await analyse.options(id="doc-17")(document)``.
        """
        return ConfiguredWorkflow(self, given)

    def call(self, *args: P.args, **kwargs: P.kwargs) -> WorkflowCall[R_co]:
        """Return a call of the workflow with these arguments, for ``engine.start_many()`` and schedules.

        Raises:
            InvalidInput: the arguments do not fit the workflow's parameters.

        Example:
            ``engine.start_many([analyse.call(document) for document in documents])``
        """
        return self.options().call(*args, **kwargs)

    def bind(self, *args: Any, **kwargs: Any) -> inspect.BoundArguments:
        """Check arguments against the function's parameters and their annotations.

        Raises:
            InvalidInput: an argument is missing, unexpected or of another type.
        """
        try:
            bound = self.signature.bind(*args, **kwargs)
        except TypeError as error:
            raise InvalidInput(f"workflow {self.id!r}: {error}; it takes {self.signature}") from None
        check_input(f"workflow {self.id!r}", bound, self.annotations)
        return bound

    def begin(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Coroutine[Any, Any, R_co]:
        """Return the coroutine that an execution runs."""
        coroutine: Coroutine[Any, Any, R_co] = self.fn(*args, **kwargs)
        return coroutine

    @functools.cached_property
    def signature(self) -> inspect.Signature:
        """The function's signature."""
        return signature_of("workflow", self.fn)

    @functools.cached_property
    def annotations(self) -> Mapping[str, Any]:
        """The resolved annotations of parameters and result, by name."""
        return annotations_of(self.fn)

    @property
    def returns(self) -> Any:
        """The annotation of the result, to rebuild it; None if it is missing or cannot be resolved."""
        return self.annotations.get("return")

    def __repr__(self) -> str:
        return f"<workflow {self.id!r} version {self.version!r} of {self.fn!r}>"


class WorkflowDecorator(Protocol):
    """Decorator that ``rf.workflow(...)`` with options returns."""

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
        DefinitionError: an option is unknown or does not fit, or ``fn`` is not an ``async def``.

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
