"""Steps: functions whose results are recorded."""

from __future__ import annotations

import copy
import datetime as dt
import functools
import inspect
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Generic, Literal, ParamSpec, Protocol, TypedDict, TypeVar, Unpack, cast, overload

from rayflow.definition.base import Definition, making_module
from rayflow.definition.checks import (
    check_function,
    check_name,
    check_options,
    default_name,
    is_async,
    return_annotation,
    signature_of,
)
from rayflow.definition.context import StepCall, Target, current_execution
from rayflow.definition.options import RateLimit, RetryPolicy, StepOptions
from rayflow.errors import DefinitionError

P = ParamSpec("P")
R = TypeVar("R")


class StepKeywords(TypedDict, total=False):
    """What :func:`step` and :meth:`Step.options` take; see :class:`~rayflow.definition.options.StepOptions`."""

    name: str
    retry: RetryPolicy | None
    timeout: float | dt.timedelta | None
    local: bool | None
    pool: str
    not_before: float | None
    concurrency_limit: int | None
    concurrency_key: str | Callable[..., object] | None
    rate_limit: RateLimit | None
    heartbeat_timeout: float | dt.timedelta | None
    when_full: Literal["wait", "raise"]
    num_cpus: float | None
    num_gpus: float | None
    memory: int | None
    resources: Mapping[str, float] | None
    runtime_env: Mapping[str, Any] | None
    scheduling_strategy: Any


class Step(Definition, Generic[P, R]):
    """One unit of work with its own retry, timeout and placement.

    A call returns a coroutine. Awaited in a workflow, the coroutine issues the step and returns its recorded result;
    anywhere else it simply runs the function.

    Attributes:
        fn: the undecorated function.
        name: what the journal and the metrics call it.
        settings: retry, timeouts, placement, limits.
    """

    fn: Callable[..., Any]
    transient = Definition.transient | {"origin", "signature", "returns"}

    def __init__(self, fn: Callable[..., Any], *, name: str | None = None, options: StepOptions | None = None) -> None:
        if isinstance(fn, Definition):
            raise DefinitionError(f"{fn!r} is defined already; use its .fn, or .options(...) of a step")
        check_function("step", fn)
        self.name = check_name("step name", default_name("step", fn, "name") if name is None else name)
        functools.update_wrapper(self, fn)
        self.fn = fn
        self.settings = StepOptions() if options is None else options
        self.home = making_module()
        #: The step that this one was derived from by ``options()``; itself for one that was not.
        self.origin: Step[P, R] = self

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.origin = self

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, R]:
        """Return a coroutine of the step's result.

        Raises:
            TypeError: the arguments do not fit the function.
        """
        self.check_arguments(args, kwargs)
        called: Any = self._call(args, kwargs)
        called.__qualname__ = self.name  # for messages about a coroutine that is never awaited
        return cast("Coroutine[Any, Any, R]", called)

    def check_arguments(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Raise TypeError if the arguments do not fit the function."""
        try:
            self.signature.bind(*args, **kwargs)
        except TypeError as error:
            raise TypeError(f"step {self.name!r}: {error}; it takes {self.signature}") from None

    async def _call(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> R:
        execution = current_execution()
        if execution is not None:
            call = StepCall(self.name, Target(self), args, kwargs, self.settings, self.returns)
            return cast("R", await execution.call(call))
        answer = self.fn(*args, **kwargs)
        # Also where `is_async` could not tell: a plain wrapper around an async function.
        return cast("R", await answer if inspect.isawaitable(answer) else answer)

    @functools.cached_property
    def signature(self) -> inspect.Signature:
        """The function's signature."""
        return signature_of("step", self.fn)

    @functools.cached_property
    def returns(self) -> Any:
        """The annotation of the result, to rebuild it; None if it is missing or cannot be resolved."""
        return return_annotation(self.fn)

    @property
    def is_async(self) -> bool:
        """Whether the function is an ``async def``."""
        return is_async(self.fn)

    def options(self, **changes: Unpack[StepKeywords]) -> Step[P, R]:
        """Return a copy of the step with some settings changed.

        Args:
            changes: the keywords of :func:`step`.

        Raises:
            DefinitionError: an option is unknown or does not fit.

        Example:
            >>> @step
            ... def read(path: str) -> str: ...
            >>> read.options(timeout=5).settings.timeout
            5.0
        """
        name, options = _settings(changes)
        derived = copy.copy(self)
        derived.name = self.name if name is None else check_name("step name", name)
        derived.settings = self.settings.replace(**options)
        derived.home = making_module()
        derived.origin = self.origin
        return derived

    def __copy__(self) -> Step[P, R]:
        # The default goes through __reduce__, which returns the very same object where it can be imported.
        twin = type(self).__new__(type(self))
        twin.__dict__.update({name: value for name, value in self.__dict__.items() if name != "stamp"})
        return twin

    def __repr__(self) -> str:
        return f"<step {self.name!r} of {self.fn!r}>"


class StepDecorator(Protocol):
    """Decorator that ``rf.step(...)`` with options returns."""

    @overload
    def __call__(self, fn: Callable[P, Coroutine[Any, Any, R]], /) -> Step[P, R]: ...
    @overload
    def __call__(self, fn: Callable[P, R], /) -> Step[P, R]: ...


@overload
def step(fn: Callable[P, Coroutine[Any, Any, R]], /, **settings: Unpack[StepKeywords]) -> Step[P, R]: ...
@overload
def step(fn: Callable[P, R], /, **settings: Unpack[StepKeywords]) -> Step[P, R]: ...
@overload
def step(**settings: Unpack[StepKeywords]) -> StepDecorator: ...
def step(fn: Callable[..., Any] | None = None, /, **settings: Unpack[StepKeywords]) -> Any:
    """Make a step of a function, ``async`` or not.

    Args:
        fn: the function; left out in ``@rf.step(...)`` with options.
        settings: ``name`` (default: the function's own), and the fields of
            :class:`~rayflow.definition.options.StepOptions`: ``retry`` (a RetryPolicy), ``timeout`` (seconds for
            one attempt; None takes the execution's ``step_timeout``, ``float("inf")`` sets no limit), ``local`` (True
            runs it in the coordinator, False always on a worker), ``pool`` (name of the worker pool), limits, and
            the options of a separate Ray task (``num_gpus`` …).

    Raises:
        DefinitionError: an option is unknown or does not fit, or ``fn`` is a method, a class, a generator or a
            lambda without a name.

    Example:
        >>> @step(retry=RetryPolicy(max_retries=5), timeout=30)
        ... async def extract(text: str) -> list[str]:
        ...     return text.split()
    """
    name, options = _settings(settings)
    made = StepOptions(**options)
    if fn is None:
        return lambda function: Step(function, name=name, options=made)
    return Step(fn, name=name, options=made)


def _settings(given: StepKeywords) -> tuple[str | None, dict[str, Any]]:
    check_options("step", given, {"name", *StepOptions.model_fields})
    options: dict[str, Any] = dict(given)
    return options.pop("name", None), options
