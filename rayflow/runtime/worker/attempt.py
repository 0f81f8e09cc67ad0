"""Runs one attempt at a step, and makes whatever comes of it an outcome.

Sync functions run on the calling thread, what they or async functions answer is awaited on the worker's loop. No
exception of a step gets any further, whatever its kind.
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
"""Finds the step or agent of a code reference and a part of it."""

#: The part of a blob that is a definition itself, not an agent inside it.
_WHOLE = re.compile(r"@\d+")

#: Packages whose frames lead from the worker to the step's own code, and tell its author nothing.
_ROAD = frozenset({"rayflow", "asyncio", "concurrent"})


class Attempt:
    """One attempt under way.

    Args:
        task: what runs.
        worker: the worker's name.
        coordinator: name of the actor that is told what the step prints, and that it is alive.
        beats: what it says of being alive.
        prepared: answers what the pool's setup did.
        values: makes what reads and writes payloads; told how to wait for the store, as long as anybody wants it, and
            whom to tell that only the store is waited for.
        begun: told when the step's own code begins.
        clock: what tells the time.

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
        #: While something is done that another attempt would not mend: what it means if it fails.
        self.needs = ""
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
        #: Whether what it was given is damaged or missing in the store.
        self.unreadable = False
        self._reason: str | None = None
        self._interrupt: Callable[[], None] | None = None

    def begins(self) -> None:
        """The step's own code begins now. Raises TooLate if it should have begun before."""
        now = self.clock()
        if self.task.start_by is not None and now > self.task.start_by:
            raise TooLate
        first, self.began = not self.began, now
        if first and self._begun is not None:
            self._begun(self)

    @property
    def stopped(self) -> str | None:
        """Why the attempt was told to stop; None if it was not."""
        return self._reason

    def stop(self, reason: str) -> None:
        """Tell the attempt to stop. An async step is cancelled; a sync one sees it in ``step_context().cancelled``."""
        with self._lock:
            if self._reason is None:
                self._reason = reason
            interrupt = self._interrupt
        self.context.cancel.set()
        if interrupt is not None:
            interrupt()

    def interruptible(self, interrupt: Callable[[], None]) -> None:
        """From now on stopping it calls this; now, if it was stopped already."""
        with self._lock:
            self._interrupt = interrupt
            stopped = self._reason is not None
        if stopped:
            interrupt()


class Runner:
    """Runs attempts.

    Args:
        resolve: finds code.
        loop: where async steps run.
    """

    def __init__(self, resolve: Resolve, loop: LoopThread) -> None:
        self._resolve = resolve
        self._loop = loop

    def run(self, attempt: Attempt) -> TaskOutcome | None:
        """Run an attempt on this thread, to its end. None if it should have begun before, and was not begun."""
        output.install()
        try:
            # A context of its own, so that what one step sets in it is not seen by the next.
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
        place = logs.within(task.execution_id, task.step, task.attempt)
        with entered(attempt.context), place, output.collecting(attempt.lines):
            try:
                return self._result(attempt), None
            except _TimedOut as late:
                return None, late.failure(task)
            except _Stopped as stopped:
                return None, cancelled(str(stopped))
            except TooLate:
                raise
            except BaseException as error:  # noqa: BLE001 - also SystemExit: a step does not end its worker
                return None, _explained(attempt, error)

    def _result(self, attempt: Attempt) -> bytes:
        task, agent = attempt.task, is_agent(attempt.task)
        attempt.needs = "the code of step {} cannot be loaded"
        target = self._resolve(task.code, task.part)
        fn = _function(target, task, agent=agent)
        attempt.needs = "the arguments of step {} cannot be read"
        args, kwargs = read_arguments(attempt.values.codec, task.payload, fn)
        attempt.needs = "the context variables of step {} cannot be read"
        set_variables(attempt.values.codec, task.context)
        given = _only(args) if agent else None
        attempt.needs = ""
        if attempt.stopped is not None:
            raise _Stopped(attempt.stopped)
        attempt.begins()
        if agent:
            on_this_thread = _OnThisThread(agent_id(target), lambda value: self._settled(attempt, fn(value)))
            value = _driven(run_agent(on_this_thread, given, attempt.clock))
        else:
            value = self._settled(attempt, fn(*args, **kwargs))
        attempt.needs = "the result of step {} cannot be recorded"
        return attempt.values.encode(value)

    def _settled(self, attempt: Attempt, answer: Any) -> Any:
        if not inspect.isawaitable(answer):
            return answer
        value, error = self._loop.run(self._awaited(attempt, answer))
        if error is not None:
            raise error
        return value

    async def _awaited(self, attempt: Attempt, answer: Awaitable[Any]) -> tuple[Any, BaseException | None]:
        # What the step raises is answered, not raised: asyncio lets SystemExit end the whole loop.
        task = cast("asyncio.Task[Any]", asyncio.current_task())
        limit = asyncio.timeout(attempt.task.timeout)
        try:
            attempt.interruptible(lambda: self._loop.call(task.cancel))
            if inspect.iscoroutine(answer) and inspect.getcoroutinestate(answer) == inspect.CORO_CREATED:
                attempt.begins()  # only now does its code begin
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
    """An agent whose call is over when it returns: what is to be awaited was awaited on the loop."""

    id: str
    run: Callable[[Any], Any]


def is_agent(task: TaskMessage) -> bool:
    """Whether a task calls an agent inside a declared workflow, rather than a step."""
    whole = task.code.get("kind") == "value" and _WHOLE.fullmatch(task.part) is not None
    return bool(task.part) and not whole


def _function(target: Any, task: TaskMessage, *, agent: bool) -> Callable[..., Any]:
    if not agent and not isinstance(target, Step):
        raise IncompatibleVersion(
            f"{task.code.get('module')}:{task.code.get('qualname')} is {target!r} here, and no step; the execution "
            f"issued step {task.step!r} from it"
        )
    fn: Callable[..., Any] | None = target.fn if isinstance(target, Definition) else target.run
    if fn is None:
        raise IncompatibleVersion(f"{target!r} has no function that could be called as step {task.step!r}")
    return fn


def _only(args: tuple[Any, ...]) -> Any:
    (value,) = args
    return value


def _driven(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """The result of a coroutine that has nothing to wait for."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        return done.value
    coroutine.close()
    raise TypeError("the agent answered something to be awaited, and that again something to be awaited")


# --- what goes wrong ----------------------------------------------------------------------------------------
class TooLate(BaseException):
    """The attempt was to begin before now, or not at all. Not for the step: its code has not begun."""


class _Stopped(Exception):
    """The attempt was told to stop, and did."""


class _TimedOut(Exception):
    """The attempt's time was up."""

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


def _explained(attempt: Attempt, error: BaseException) -> Failure:
    found = failure_from(error)
    # What cannot be reached now may be there at the next attempt; what cannot be read or written never will be.
    if not attempt.needs or isinstance(error, (ClusterError, StorageUnavailable)):
        return found
    attempt.unreadable = isinstance(error, CorruptRecord)
    what = attempt.needs.format(repr(attempt.task.step))
    return replace(found, message=f"{what}: {found.message or found.type}", retryable=False)


def failure_from(error: BaseException) -> Failure:
    """An exception of a step as data, its traceback beginning where the step's own code does."""
    own = error.__traceback__
    while own is not None and _on_the_road(own):
        own = own.tb_next
    if own is not None:
        error.__traceback__ = own
    return failure_of(error)


def _on_the_road(frame: TracebackType) -> bool:
    return str(frame.tb_frame.f_globals.get("__name__", "")).partition(".")[0] in _ROAD


def cancelled(reason: str) -> Failure:
    """The failure of an attempt that was cancelled from outside. Whoever cancelled it does not wait for it."""
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
    """The positional and keyword arguments for ``fn``.

    Args:
        codec: wrote the payload.
        payload: an encoded (args, kwargs).
        fn: the function that they are for.

    Raises:
        CodecError: the payload cannot be read, not even through the annotations.
    """
    hints = _cached_hints(fn)
    try:
        args, kwargs = codec.decode(payload)
    except CodecError:
        if not hints:
            raise
        # Objects whose class is gone become plain data, which the annotations then make into what is declared.
        args, kwargs = codec.decode(payload, tuple[tuple[Any, ...], dict[str, Any]])
    if not hints:
        return tuple(args), dict(kwargs)
    return _each(fn, args, kwargs, lambda name, value: _rebuilt(codec, value, hints.get(name)))


def _rebuilt(codec: Codec, value: Any, hint: Any) -> Any:
    if hint is None or fits(value, hint):
        return value
    return codec.decode(codec.encode(value), hint)


def _each(
    fn: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any], change: Callable[[str, Any], Any]
) -> Arguments:
    """The arguments with each one changed, given the name of its parameter."""
    try:
        bound = inspect.signature(fn).bind(*args, **kwargs)
    except TypeError:
        return tuple(args), dict(kwargs)  # they do not fit: calling the function says so best
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
    """The annotations that could rebuild an argument, by parameter; those that cannot be resolved are left out."""
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
    """An annotation of a function with its names looked up; None if they cannot be."""
    carrier = types.SimpleNamespace(__annotations__={"it": annotation})
    nearby: dict[str, Any] = {}
    with contextlib.suppress(TypeError, ValueError):  # no plain function, or an empty cell: fewer names are known
        nearby = dict(inspect.getclosurevars(fn).nonlocals)
    try:
        return typing.get_type_hints(carrier, getattr(fn, "__globals__", {}), nearby, include_extras=True)["it"]
    except Exception:  # noqa: BLE001 - a string annotation is any expression, and may raise anything
        return None
