"""Exception classes of rayflow.

    RayflowError
    ├── InvalidArgument (ValueError)          an argument or option has a value that is not allowed
    │   ├── DefinitionError                   a workflow, step or agent is wrong as written
    │   └── InvalidInput (TypeError)          the arguments of a workflow do not fit its parameters
    ├── WorkflowNotRegistered (LookupError)   no workflow has that id in this store
    ├── IncompatibleVersion                   the code or Python of an execution differs from this process
    ├── ExecutionNotFound (LookupError)       no execution has that id in this store
    ├── ExecutionAlreadyExists                that id belongs to another workflow or input
    ├── SingletonConflict                     an execution with that key has not finished
    ├── ExecutionFailed                       the workflow ended with a failure (.failure)
    │   └── ExecutionTimeout (TimeoutError)   … because its own deadline passed
    ├── ExecutionCancelled                    the workflow was cancelled
    ├── ResultTimeout (TimeoutError)          the caller stopped waiting; the execution continues
    ├── InvalidTransition                     the execution's status does not allow that
    ├── NonDeterminismError                   replay took another path than the journal
    ├── SideEffectError                       real I/O, a thread or a real clock inside a workflow
    ├── WorkflowStalled                       the code polls, or swallows its cancellation
    ├── StepFailed                            a step used up its attempts (.failure)
    │   ├── StepTimeout (TimeoutError)        … and the last one ran out of time
    │   ├── ChildFailed                       a child workflow failed, or was cancelled
    │   └── Deadlock                          executions wait for each other's locks in a circle
    ├── TerminalError                         raise it in a step: do not retry
    ├── LeaseLost                             the slot or attempt has a newer owner
    ├── DeadLetterNotFound (LookupError)      no dead letter of that step in this store
    ├── PoolNotFound (LookupError)            no worker pool has that name
    ├── PoolExists                            another worker pool has that name
    ├── PoolInUse                             unfinished executions still need the worker pool
    ├── ScheduleNotFound (LookupError)        no schedule has that name
    ├── ScheduleExists                        another schedule has that name
    ├── QueueFull                             the queue is at its limit and the caller asked not to wait
    ├── LockUnavailable                       all its permits are taken and the caller did not wait for one
    ├── LockPermitsMismatch                   a lock in use has another limit than the one asked for
    ├── LockLost                              the lease of a lock has ended: another holder is possible
    ├── CodecError (TypeError)                a value cannot be written, or a payload not be read
    ├── StorageError
    │   ├── WriterFenced                      a newer owner exists: stop
    │   ├── StorageUnavailable                the store cannot be reached or written now
    │   └── CorruptRecord                     a record differs from the one that was written
    ├── ClusterError                          the Ray cluster cannot do the requested operation
    └── RequiresCluster                       LocalEngine cannot do that; the message names the engine that can

All of them survive pickling with their fields: an exception crosses process borders here.
"""

from __future__ import annotations

import builtins
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Failure:
    """Recorded exception: plain data that any process can read, never the live object.

    Args:
        type: the exception's class as ``module.Qualname`` (builtins without the module).
        message: ``str(exception)``.
        traceback: the formatted traceback, as far as it was known where it was caught.
        retryable: whether another attempt may be made at all.
        mro: the names of the class and its bases, in resolution order, so that
            ``retry_on`` and :meth:`matches` work without importing the class.
        step: the sequence number of the step whose failure this is, if it is one's.
    """

    type: str
    message: str
    traceback: str = ""
    retryable: bool = True
    mro: tuple[str, ...] = ()
    step: int | None = None

    def matches(self, *classes: builtins.type[BaseException] | str) -> bool:
        """Return whether the recorded exception was an instance of one of ``classes``.

        Args:
            classes: exception classes, or their names as :func:`class_name` writes them.
        """
        names = {c if isinstance(c, str) else class_name(c) for c in classes}
        return bool(names.intersection((self.type, *self.mro)))

    def __str__(self) -> str:
        return f"{self.type}: {self.message}" if self.message else self.type

    def to_dict(self) -> dict[str, Any]:
        """Return the failure as plain data, for JSON."""
        return asdict(self)


def class_name(cls: type) -> str:
    """Return ``module.Qualname`` of a class; the name alone for builtins."""
    if cls.__module__ == "builtins":
        return cls.__qualname__
    return f"{cls.__module__}.{cls.__qualname__}"


class RayflowError(Exception):
    """Base class of all exceptions of rayflow."""

    def __reduce__(self) -> tuple[Any, ...]:
        # Exceptions with keyword-only fields cannot be rebuilt from ``args`` alone, which is what
        # the default does; this one survives any signature.
        return (_rebuild, (type(self), self.args, self.__dict__))


def _rebuild(cls: type[RayflowError], args: tuple[Any, ...], fields: dict[str, Any]) -> RayflowError:
    error = cls.__new__(cls, *args)
    error.args = args
    error.__dict__.update(fields)
    return error


class InvalidArgument(RayflowError, ValueError):
    """An argument or option has a value that is not allowed."""


class DefinitionError(InvalidArgument):
    """A workflow, step or agent is wrong as written."""


class InvalidInput(InvalidArgument, TypeError):
    """The arguments of a workflow do not fit its parameters."""


class WorkflowNotRegistered(RayflowError, LookupError):
    """No workflow has that id in this store."""

    def __init__(self, workflow_id: str, *, known: tuple[str, ...] = ()) -> None:
        self.workflow_id = workflow_id
        self.known = known
        hint = f"; registered here: {', '.join(known)}" if known else "; none is registered here"
        super().__init__(
            f"no workflow {workflow_id!r} is registered in this store{hint}. "
            "Pass the workflow itself, or call engine.register(workflow) first"
        )


class IncompatibleVersion(RayflowError):
    """The code, environment or Python version of an execution differs from that of this process."""


class ExecutionNotFound(RayflowError, LookupError):
    """No execution has that id in this store."""

    def __init__(self, execution_id: str) -> None:
        self.execution_id = execution_id
        super().__init__(f"no execution {execution_id!r} in this store; `rayflow list` shows those that there are")


class ExecutionAlreadyExists(RayflowError):
    """The id belongs to an execution of another workflow or with another input."""

    def __init__(self, execution_id: str, *, reason: str) -> None:
        self.execution_id = execution_id
        self.reason = reason
        super().__init__(
            f"execution {execution_id!r} exists already, and {reason}. Starting an id again is the same "
            "start only with the same workflow and input; choose another id for another run"
        )


class SingletonConflict(RayflowError):
    """An execution with that singleton key has not finished; ``.execution_id`` names it."""

    def __init__(self, key: str, *, execution_id: str) -> None:
        self.key = key
        self.execution_id = execution_id
        super().__init__(
            f"there is an unfinished execution with the singleton key {key!r} already: {execution_id!r}. Wait for its "
            "end, cancel it, or start without that key"
        )


class ExecutionFailed(RayflowError):
    """The workflow ended with a failure."""

    def __init__(self, execution_id: str, failure: Failure) -> None:
        self.execution_id = execution_id
        self.failure = failure
        super().__init__(f"execution {execution_id!r} failed: {failure}")


class ExecutionTimeout(ExecutionFailed, TimeoutError):
    """The execution's own timeout or deadline passed."""


class ExecutionCancelled(RayflowError):
    """The execution was cancelled."""

    def __init__(self, execution_id: str, *, reason: str = "") -> None:
        self.execution_id = execution_id
        self.reason = reason
        super().__init__(f"execution {execution_id!r} was cancelled" + (f": {reason}" if reason else ""))


class ResultTimeout(RayflowError, TimeoutError):
    """The caller stopped waiting; the execution itself continues."""

    def __init__(self, execution_id: str, *, waited: float, status: str) -> None:
        self.execution_id = execution_id
        self.waited = waited
        self.status = status
        super().__init__(
            f"execution {execution_id!r} was still {status} after {waited:g} s of waiting, and it continues; "
            f"call handle.result() again, or engine.cancel({execution_id!r}) to stop it"
        )


class InvalidTransition(RayflowError):
    """The status of the execution does not allow the requested action."""

    def __init__(self, execution_id: str, *, status: str, action: str, hint: str = "") -> None:
        self.execution_id = execution_id
        self.status = status
        self.action = action
        super().__init__(f"cannot {action} execution {execution_id!r}: it is {status}" + (f". {hint}" if hint else ""))


class NonDeterminismError(RayflowError):
    """Replay took another path than the one that the journal recorded.

    The engine pauses the execution before the differing code has any effect, so no recorded result is lost. The
    execution can be resumed as soon as its code repeats the recorded path.
    """

    def __init__(self, *, expected: str, seen: str, position: int) -> None:
        self.expected = expected
        self.seen = seen
        self.position = position
        super().__init__(
            f"replay differs from the journal at entry {position}: expected {expected}, saw {seen}. The workflow's "
            "code changed, or it depends on something that is not recorded (a clock, random numbers, a set's order, "
            "I/O). Put that into a step, or use rf.now(), rf.random(), rf.uuid4(); then resume the execution"
        )


class SideEffectError(RayflowError):
    """Workflow code reached the outside world directly, or called the engine."""

    def __init__(self, what: str, *, instead: str = "Put it into a step (`@rf.step`) and await that") -> None:
        self.what = what
        super().__init__(
            f"{what} inside a workflow: workflow code is replayed after a crash or a long wait, so it must neither act "
            f"on the outside world nor read from it. {instead}"
        )


class WorkflowStalled(RayflowError):
    """The workflow's code never settles: it polls, or swallows its cancellation. Its execution has failed."""


class StepFailed(RayflowError):
    """A step used up its attempts, or failed in a way that is not retried."""

    def __init__(self, step: str, failure: Failure, *, attempts: int, seq: int) -> None:
        self.step = step
        self.failure = failure
        self.attempts = attempts
        self.seq = seq
        times = "attempt" if attempts == 1 else "attempts"
        super().__init__(f"step {step!r} failed after {attempts} {times}: {failure}")


class StepTimeout(StepFailed, TimeoutError):
    """The last attempt of a step ran out of time."""


class ChildFailed(StepFailed):
    """A child workflow failed or was cancelled; ``.failure`` says how, ``.execution_id`` names it."""

    def __init__(self, step: str, failure: Failure, *, attempts: int, seq: int, execution_id: str) -> None:
        super().__init__(step, failure, attempts=attempts, seq=seq)
        self.execution_id = execution_id
        self.args = (f"child workflow {step!r} (execution {execution_id!r}) did not complete: {failure}",)


class Deadlock(StepFailed):
    """Executions wait for each other's locks in a circle; the engine failed this one to break the circle.

    ``.failure`` names each execution and the lock that it waits for.
    """

    def __init__(self, step: str, failure: Failure, *, attempts: int, seq: int) -> None:
        super().__init__(step, failure, attempts=attempts, seq=seq)
        self.args = (failure.message,)


class TerminalError(RayflowError):
    """Failure that no retry can mend: raise it in a step to prevent further attempts."""

    retryable = False


class LeaseLost(RayflowError):
    """The slot or the attempt has a newer owner; the result of the older attempt is discarded."""


class DeadLetterNotFound(RayflowError, LookupError):
    """No dead letter of that step exists in this store."""

    def __init__(self, execution_id: str, step: int) -> None:
        self.execution_id = execution_id
        self.step = step
        super().__init__(
            f"no dead letter of step {step} of execution {execution_id!r} in this store; `rayflow dlq list` shows "
            "those that there are"
        )


class PoolNotFound(RayflowError, LookupError):
    """No worker pool has that name."""

    def __init__(self, pool: str, *, known: tuple[str, ...] = ()) -> None:
        self.pool = pool
        self.known = known
        hint = f"; existing pools: {', '.join(known)}" if known else ""
        super().__init__(
            f"no worker pool is named {pool!r}{hint}. Create it with engine.pools.create(rf.PoolConfig(name={pool!r})) "
            f"or `rayflow pool create {pool}`"
        )


class PoolExists(RayflowError):
    """A worker pool of that name exists with another configuration."""

    def __init__(self, pool: str, *, differences: str) -> None:
        self.pool = pool
        self.differences = differences
        super().__init__(
            f"a pool {pool!r} exists with other settings: {differences}. Delete it first, or use another name"
        )


class PoolInUse(RayflowError):
    """Tasks wait for the worker pool or run on it."""

    def __init__(self, pool: str, *, queued: int, busy: int) -> None:
        self.pool = pool
        self.queued = queued
        self.busy = busy
        super().__init__(
            f"pool {pool!r} is in use: {queued} tasks wait and {busy} slots are busy. Wait, cancel the executions that "
            "use it, or pass force=True (--force)"
        )


class ScheduleNotFound(RayflowError, LookupError):
    """No schedule of that name exists in this store."""

    def __init__(self, name: str) -> None:
        self.name = name
        super().__init__(f"no schedule {name!r} in this store; `rayflow schedule list` shows those that there are")


class ScheduleExists(RayflowError):
    """A schedule of that name exists already in this store."""

    def __init__(self, name: str) -> None:
        self.name = name
        super().__init__(f"a schedule {name!r} exists: change it with replace=True (--replace), or delete it")


class QueueFull(RayflowError):
    """The queue is at its limit and the caller asked not to wait."""

    def __init__(self, pool: str, *, limit: int, who: str) -> None:
        self.pool = pool
        self.limit = limit
        super().__init__(f"the queue of pool {pool!r} is at its limit of {limit} tasks, and {who}")


class LockUnavailable(RayflowError):
    """All permits of the lock are taken, and the caller asked not to wait, or not any longer."""

    def __init__(self, name: str, *, limit: int, holders: tuple[str, ...], waited: float = 0.0) -> None:
        self.name = name
        self.limit = limit
        self.holders = holders
        self.waited = waited
        still = f" after {waited:g} s of waiting" if waited else ""
        what = "it is" if limit == 1 else f"all its {limit} permits are"
        super().__init__(
            f"lock {name!r} is not free{still}: {what} held by {', '.join(holders)}. Try again later, or wait for it"
        )


class LockPermitsMismatch(RayflowError):
    """The lock is in use with another limit than the one asked for."""

    def __init__(self, name: str, *, limit: int, asked: int) -> None:
        self.name = name
        self.limit = limit
        self.asked = asked
        super().__init__(
            f"lock {name!r} is in use with a limit of {limit}, and was asked for with a limit of {asked}. Ask for it "
            "with the same limit everywhere; the limit can be changed when no execution holds the lock or waits for it"
        )


class LockLost(RayflowError):
    """The lease of a lock has ended, so another holder may have the lock now."""

    def __init__(self, name: str, *, lease: str) -> None:
        self.name = name
        self.lease = lease
        super().__init__(
            f"lease {lease!r} of lock {name!r} has ended: it was released, or it was not renewed in time and another "
            "holder acquired the lock. Stop using the resource that the lock protects, and acquire the lock again"
        )


class CodecError(RayflowError, TypeError):
    """A value cannot be written, or a payload cannot be read back."""


class StorageError(RayflowError):
    """Base class of all errors of stores."""


class WriterFenced(StorageError):
    """A newer owner exists: the caller must stop. The refused write may still have been recorded."""


class StorageUnavailable(StorageError):
    """The store cannot be reached, or cannot be written now."""


class CorruptRecord(StorageError):
    """A record differs from the one that was written, or breaks the order of its journal."""

    def __init__(self, execution_id: str, detail: str) -> None:
        self.execution_id = execution_id
        self.detail = detail
        where = f" of execution {execution_id!r}" if execution_id else ""
        super().__init__(f"corrupt record{where}: {detail}")


class ClusterError(RayflowError):
    """The Ray cluster cannot do the requested operation."""


class RequiresCluster(RayflowError):
    """LocalEngine cannot do this; the message names the engine that can."""

    def __init__(self, what: str) -> None:
        self.what = what
        super().__init__(f"LocalEngine cannot {what}: that needs a Ray cluster. Use rf.DistributedEngine")
