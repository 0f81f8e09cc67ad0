"""Attempt runner: runs one attempt at a step and returns its outcome.

Sync functions run on the calling thread; awaitables are awaited on the worker's event loop. An exception of a step,
whatever its class, becomes a failure. Arguments are decoded here too, by the annotations of the step's function.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
import importlib
import inspect
import logging
import re
import threading
import time
import types
import typing
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, cast

from rayflow.core.interpreter.machine import failure_of
from rayflow.definition.agent import agent_id, run_agent
from rayflow.definition.api import StepContext, entered
from rayflow.definition.base import Definition
from rayflow.definition.step import Step
from rayflow.errors import (
    ClusterError,
    CodecError,
    CorruptRecord,
    Failure,
    IncompatibleVersion,
    StorageUnavailable,
    class_name,
)
from rayflow.ids import Clock
from rayflow.runtime import logs
from rayflow.runtime.large_values import Values
from rayflow.runtime.messages import TaskMessage, TaskOutcome
from rayflow.runtime.worker import output
from rayflow.runtime.worker.async_loop import LoopThread
from rayflow.runtime.worker.heartbeat import HeartbeatRecorder
from rayflow.storage.codec.annotations import fits, names_classes
from rayflow.storage.codec.payloads import Codec

log = logging.getLogger(__name__)

Resolve = Callable[[Mapping[str, Any], str], Any]
"""Resolves a code reference and a part of it to a step or agent."""

#: The part of a blob that is itself a definition, not an agent inside it.
_WHOLE = re.compile(r"@\d+")

#: Packages whose frames stand between the worker and the step's own code in a traceback.
_FRAMEWORK = frozenset({"rayflow", "asyncio", "concurrent"})


class Attempt:
    """One running attempt.

    Args:
        coordinator: name of the actor that receives output and heartbeats.
        beats: records heartbeats.
        prepared: returns the value of the pool's setup.
        values: creates what reads and writes payloads. Its arguments: a function that waits for the store until the
            attempt is cancelled, and one to call when the step's code has finished.
        begun: called when the step's own code begins.

    Attributes:
        began: when the step's own code began, in seconds since the epoch; 0 before.
    """

    def __init__(
        self,
        task: TaskMessage,
        worker: str,
        coordinator: str,
        *,
        beats: HeartbeatRecorder,
        prepared: Callable[[], Any],
        values: Callable[[Callable[[float], bool], Callable[[], None]], Values],
        begun: Callable[[Attempt], None] | None = None,
        clock: Clock = time.time,
    ) -> None:
        self.task = task
        self.clock = clock
        self.coordinator = coordinator
        self.began = 0.0
        self.beats = beats
        self.since = time.monotonic()
        self.lines = output.OutputLines()
        #: During a phase whose errors another attempt would not fix: what to say if it fails.
        self.phase_error = ""
        self.context = StepContext(
            execution_id=task.execution_id,
            workflow_id=task.workflow_id,
            step=task.step,
            seq=task.seq,
            attempt=task.attempt,
            idempotency_key=task.idempotency_key,
            epoch=task.epoch,
            worker=worker,
            beat=beats.beat,
            prepared=prepared,
        )
        self.values = values(self.context.cancel.wait, beats.ran)
        self._begun = begun
        self._lock = threading.Lock()
        #: Whether a value that the step received is damaged or missing in the store.
        self.unreadable = False
        self._reason: str | None = None
        self._interrupt: Callable[[], None] | None = None

    def begin(self) -> None:
        """Record that the step's own code begins now. Raises TooLate if its time to begin has passed."""
        now = self.clock()
        if self.task.start_by is not None and now > self.task.start_by:
            raise TooLate
        first, self.began = not self.began, now
        if first and self._begun is not None:
            self._begun(self)

    @property
    def stopped(self) -> str | None:
        """Return why the attempt has to stop; None if it may run."""
        return self._reason

    def stop(self, reason: str) -> None:
        """Stop the attempt: an async step is cancelled, a sync step sees ``step_context().cancelled``."""
        with self._lock:
            if self._reason is None:
                self._reason = reason
            interrupt = self._interrupt
        self.context.cancel.set()
        if interrupt is not None:
            interrupt()

    def on_stop(self, interrupt: Callable[[], None]) -> None:
        """Call ``interrupt`` when the attempt is stopped; at once, if it was stopped already."""
        with self._lock:
            self._interrupt = interrupt
            stopped = self._reason is not None
        if stopped:
            interrupt()


class Runner:
    """Runs attempts, with code from ``resolve`` and async steps on ``loop``."""

    def __init__(self, resolve: Resolve, loop: LoopThread) -> None:
        self._resolve = resolve
        self._loop = loop

    def run(self, attempt: Attempt) -> TaskOutcome | None:
        """Run an attempt on this thread to its end. Return None if its time to begin had passed."""
        output.install()
        try:
            # With a new context, so that what one step sets in it does not reach the next.
            result, failure = contextvars.copy_context().run(self._run, attempt)
        except TooLate:
            return None
        return TaskOutcome(
            attempt.task.execution_id,
            attempt.task.seq,
            attempt.task.attempt,
            result,
            failure,
            attempt.began,
            attempt.clock(),
            attempt.lines.take(end=True),
            attempt.unreadable,
        )

    def _run(self, attempt: Attempt) -> tuple[bytes | None, Failure | None]:
        task = attempt.task
        place = logs.log_context(task.execution_id, task.step, task.attempt)
        with entered(attempt.context), place, output.capture(attempt.lines):
            try:
                return self._result(attempt), None
            except _TimedOut as late:
                return None, late.failure(task)
            except _Stopped as stopped:
                return None, cancelled(str(stopped))
            except TooLate:
                raise
            except BaseException as error:  # noqa: BLE001 - also SystemExit: a step does not end its worker
                return None, _failure_of(attempt, error)

    def _result(self, attempt: Attempt) -> bytes:
        task, agent = attempt.task, is_agent(attempt.task)
        attempt.phase_error = "the code of step {} cannot be loaded"
        target = self._resolve(task.code, task.part)
        fn = _function(target, task, agent=agent)
        attempt.phase_error = "the arguments of step {} cannot be read"
        args, kwargs = read_arguments(attempt.values.codec, task.payload, fn)
        attempt.phase_error = "the context variables of step {} cannot be read"
        set_variables(attempt.values.codec, task.context)
        given = _only(args) if agent else None
        attempt.phase_error = ""
        if attempt.stopped is not None:
            raise _Stopped(attempt.stopped)
        attempt.begin()
        if agent:
            on_this_thread = _OnThisThread(agent_id(target), lambda value: self._awaited_value(attempt, fn(value)))
            value = _run_to_end(run_agent(on_this_thread, given, attempt.clock))
        else:
            value = self._awaited_value(attempt, fn(*args, **kwargs))
        attempt.phase_error = "the result of step {} cannot be recorded"
        return attempt.values.encode(value)

    def _awaited_value(self, attempt: Attempt, answer: Any) -> Any:
        if not inspect.isawaitable(answer):
            return answer
        value, error = self._loop.run(self._await_with_timeout(attempt, answer))
        if error is not None:
            raise error
        return value

    async def _await_with_timeout(self, attempt: Attempt, answer: Awaitable[Any]) -> tuple[Any, BaseException | None]:
        # Exceptions of the step are returned, not raised: with asyncio, SystemExit would end the whole loop.
        task = cast("asyncio.Task[Any]", asyncio.current_task())
        limit = asyncio.timeout(attempt.task.timeout)
        try:
            attempt.on_stop(lambda: self._loop.call(task.cancel))
            if inspect.iscoroutine(answer) and inspect.getcoroutinestate(answer) == inspect.CORO_CREATED:
                attempt.begin()  # only now does its code begin
            async with limit:
                return await answer, None
        except BaseException as error:  # noqa: BLE001 - see above
            if isinstance(error, TooLate):
                cast("Coroutine[Any, Any, Any]", answer).close()
            if limit.expired():
                return None, _TimedOut(error)
            if isinstance(error, asyncio.CancelledError) and attempt.stopped is not None:
                return None, _Stopped(attempt.stopped)
            return None, error


@dataclass(frozen=True, slots=True)
class _OnThisThread:
    """An agent whose call has finished when it returns: awaitables were awaited on the event loop."""

    id: str
    run: Callable[[Any], Any]


def is_agent(task: TaskMessage) -> bool:
    """Return whether a task calls an agent of a declared workflow, rather than a step."""
    whole = task.code.get("kind") == "value" and _WHOLE.fullmatch(task.part) is not None
    return bool(task.part) and not whole


def _function(target: Any, task: TaskMessage, *, agent: bool) -> Callable[..., Any]:
    if not agent and not isinstance(target, Step):
        raise IncompatibleVersion(
            f"{task.code.get('module')}:{task.code.get('qualname')} is {target!r} here, which is not a step; the "
            f"execution issued step {task.step!r} from it"
        )
    fn: Callable[..., Any] | None = target.fn if isinstance(target, Definition) else target.run
    if fn is None:
        raise IncompatibleVersion(f"{target!r} has no function to call as step {task.step!r}")
    return fn


def _only(args: tuple[Any, ...]) -> Any:
    (value,) = args
    return value


def _run_to_end(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Return the result of a coroutine that never waits."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        return done.value
    coroutine.close()
    raise TypeError("the agent returned an awaitable whose result is again an awaitable")


class TooLate(BaseException):
    """The time to begin the attempt has passed. Not an error of the step: its code has not begun."""


class _Stopped(Exception):
    """The attempt was stopped on request."""


class _TimedOut(Exception):
    """The attempt exceeded its timeout."""

    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self.error = error

    def failure(self, task: TaskMessage) -> Failure:
        return Failure(
            type="rayflow.errors.StepTimeout",
            message=f"attempt {task.attempt} of step {task.step!r} took longer than its timeout of {task.timeout:g} s",
            traceback=failure_from(self.error.__cause__ or self.error).traceback,
            mro=("rayflow.errors.StepTimeout", "TimeoutError"),
        )


def _failure_of(attempt: Attempt, error: BaseException) -> Failure:
    found = failure_from(error)
    # Another attempt may reach the store or cluster again, but it cannot decode or encode the same value either.
    if not attempt.phase_error or isinstance(error, (ClusterError, StorageUnavailable)):
        return found
    attempt.unreadable = isinstance(error, CorruptRecord)
    what = attempt.phase_error.format(repr(attempt.task.step))
    return replace(found, message=f"{what}: {found.message or found.type}", retryable=False)


def failure_from(error: BaseException) -> Failure:
    """Return an exception of a step as data, with a traceback that begins at the step's own code."""
    own = error.__traceback__
    while own is not None and _is_framework_frame(own):
        own = own.tb_next
    if own is not None:
        error.__traceback__ = own
    return failure_of(error)


def _is_framework_frame(frame: TracebackType) -> bool:
    return str(frame.tb_frame.f_globals.get("__name__", "")).partition(".")[0] in _FRAMEWORK


def cancelled(reason: str) -> Failure:
    """Return the failure of an attempt that was cancelled from outside; its caller no longer waits for it."""
    cls = asyncio.CancelledError
    return Failure(
        type=class_name(cls),
        message=f"the attempt was cancelled: {reason}" if reason else "the attempt was cancelled",
        mro=tuple(class_name(base) for base in cls.__mro__[:-1]),
    )


Arguments = tuple[tuple[Any, ...], dict[str, Any]]


def set_variables(codec: Codec, variables: Sequence[tuple[str, bytes]]) -> None:
    """Set context variables of the workflow's code in the step's context. One that is not here is left out."""
    for place, value in variables:
        module, _, name = place.partition(":")
        try:
            variable = getattr(importlib.import_module(module), name, None)
        except ImportError:
            variable = None
        if isinstance(variable, contextvars.ContextVar):
            variable.set(codec.decode(value))
        else:
            log.warning("context variable %s of the workflow is not in this worker; the step runs without it", place)


def read_arguments(codec: Codec, payload: bytes, fn: Callable[..., Any]) -> Arguments:
    """Return the positional and keyword arguments for ``fn`` from a payload with (args, kwargs).

    Raises:
        CodecError: if the payload cannot be read, not even through the annotations of ``fn``.
    """
    hints = _cached_hints(fn)
    try:
        args, kwargs = codec.decode(payload)
    except CodecError:
        if not hints:
            raise
        # Objects whose class no longer exists become plain data, which is converted by the annotations.
        args, kwargs = codec.decode(payload, tuple[tuple[Any, ...], dict[str, Any]])
    if not hints:
        return tuple(args), dict(kwargs)
    return _map_arguments(fn, args, kwargs, lambda name, value: _convert(codec, value, hints.get(name)))


def _convert(codec: Codec, value: Any, hint: Any) -> Any:
    if hint is None or fits(value, hint):
        return value
    return codec.decode(codec.encode(value), hint)


def _map_arguments(
    fn: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any], change: Callable[[str, Any], Any]
) -> Arguments:
    """Return the arguments, each replaced by ``change(parameter name, value)``."""
    try:
        bound = inspect.signature(fn).bind(*args, **kwargs)
    except TypeError:
        return tuple(args), dict(kwargs)  # they do not fit: the call itself gives the best error
    for name, parameter in bound.signature.parameters.items():
        if name not in bound.arguments:
            continue
        value = bound.arguments[name]
        if parameter.kind is inspect.Parameter.VAR_POSITIONAL:
            bound.arguments[name] = tuple(change(name, member) for member in value)
        elif parameter.kind is inspect.Parameter.VAR_KEYWORD:
            bound.arguments[name] = {key: change(name, member) for key, member in value.items()}
        else:
            bound.arguments[name] = change(name, value)
    return bound.args, bound.kwargs


def _cached_hints(fn: Callable[..., Any]) -> Mapping[str, Any]:
    try:
        return _hints(fn)
    except TypeError:  # a callable object that cannot be hashed
        return _find_hints(fn)


def _find_hints(fn: Callable[..., Any]) -> Mapping[str, Any]:
    """Return the annotations by which an argument can be converted; without those that cannot be resolved."""
    try:
        parameters = inspect.signature(fn).parameters.values()
    except (TypeError, ValueError):
        return {}
    plain: Any = fn
    while isinstance(plain, functools.partial):
        plain = plain.func
    plain = inspect.unwrap(getattr(plain, "__func__", plain))
    if not hasattr(plain, "__globals__"):  # a callable object: its class knows the names
        plain = type(plain).__call__
    found = {}
    for parameter in parameters:
        if parameter.annotation is not parameter.empty:
            hint = resolved(parameter.annotation, plain)
            if hint is not None and hint is not Any and names_classes(hint):
                found[parameter.name] = hint
    return types.MappingProxyType(found)


_hints = functools.lru_cache(maxsize=1024)(_find_hints)


def resolved(annotation: Any, fn: Any) -> Any:
    """Return an annotation of a function with its names resolved; None if they cannot be."""
    carrier = types.SimpleNamespace(__annotations__={"it": annotation})
    nearby: dict[str, Any] = {}
    with contextlib.suppress(TypeError, ValueError):  # not a plain function, or an empty cell: fewer names are known
        nearby = dict(inspect.getclosurevars(fn).nonlocals)
    try:
        return typing.get_type_hints(carrier, getattr(fn, "__globals__", {}), nearby, include_extras=True)["it"]
    except Exception:  # noqa: BLE001 - a string annotation is any expression, and may raise anything
        return None
