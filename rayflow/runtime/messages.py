"""Messages between coordinators and workers: plain tuples, because thousands of them are pickled per second."""

from __future__ import annotations

import hashlib
import math
import pickle
from typing import Any, NamedTuple

from rayflow.core.execution.actions import RunAttempt
from rayflow.core.execution.retry import WORKER_DIED, WORKER_STOPPED
from rayflow.errors import Failure
from rayflow.storage.model import ExecutionRecord

#: Minimum seconds between two heartbeats of a step that reach its coordinator.
BEAT_EVERY = 0.5


class TaskMessage(NamedTuple):
    """One attempt at a step, for a worker to run.

    After ``start_by`` (seconds since the epoch) the worker returns the task instead of beginning it. Heartbeats reach
    the coordinator at most every ``beat_every`` seconds. ``context`` holds context variables of the workflow's code, as
    ``module:name``, with their encoded values.
    """

    execution_id: str
    workflow_id: str
    epoch: int
    seq: int
    attempt: int
    step: str
    code: dict[str, Any]
    part: str
    payload: bytes
    timeout: float | None
    idempotency_key: str
    start_by: float | None = None
    beat_every: float = BEAT_EVERY
    context: tuple[tuple[str, bytes], ...] = ()


class BatchMessage(NamedTuple):
    """Tasks that one slot of a worker runs, one after another.

    After ``patience`` seconds the worker replies although tasks are left: with the outcomes so far, the task that runs,
    and the tasks that it returns without having begun them. The reply to a single task comes at its end, unless
    ``tell_begin`` is set: then an early reply says when the task began. ``code`` has the fingerprints of the code that
    their executions run: the code that the worker has loaded must not be older.
    """

    id: str
    token: str
    pool_epoch: int
    coordinator: str
    tasks: tuple[TaskMessage, ...]
    patience: float
    tell_begin: bool = False
    code: tuple[str, ...] = ()


class TaskOutcome(NamedTuple):
    """Outcome of one attempt: a result, a failure, or (with neither) refused as stale.

    ``unreadable`` means that the step is not to blame: a value that it received is damaged or missing in the store.
    """

    execution_id: str
    seq: int
    attempt: int
    result: bytes | None
    failure: Failure | None
    began: float
    ended: float
    output: tuple[str, ...] = ()
    unreadable: bool = False


class BatchReply(NamedTuple):
    """A worker's reply to a batch.

    Args:
        outcomes: outcomes of the tasks that have ended.
        running: (execution id, seq, attempt) of the running task, for ``collect``; None if no task runs.
        not_begun: tasks that are returned.
        refused: "busy" or "stale" if the whole batch was refused.
        began: when the running task began, in seconds since the epoch; 0.0 if no task runs.
        stopped: tasks that ran when the worker stopped: lost with it, which is not their fault.
    """

    outcomes: tuple[TaskOutcome, ...] = ()
    running: tuple[str, int, int] | None = None
    not_begun: tuple[tuple[str, int, int], ...] = ()
    refused: str = ""
    began: float = 0.0
    stopped: tuple[tuple[str, int, int], ...] = ()


def task_message(record: ExecutionRecord, epoch: int, run: RunAttempt, code: dict[str, str], part: str) -> TaskMessage:
    """Return an attempt as a message for a worker.

    Args:
        record: the execution's row.
        epoch: the epoch of its coordinator.
        run: the attempt.
        code: reference to the code that the worker calls.
        part: the part of the code.
    """
    # The key is the same for each attempt and coordinator. The start counts, since an id can be used again after its
    # execution was deleted. The run counts, since a run after `continue_as_new` issues other steps with these numbers.
    what = f"{record.id}\0{record.start_nonce}\0{record.run}\0{run.seq}\0{run.call.name}\0".encode() + run.payload
    return TaskMessage(
        record.id,
        record.workflow_id,
        epoch,
        run.seq,
        run.attempt,
        run.call.name,
        code,
        part,
        run.payload,
        run.timeout,
        idempotency_key=hashlib.sha256(what).hexdigest()[:32],
        beat_every=min(BEAT_EVERY, (run.call.options.heartbeat_timeout or math.inf) / 4),
        context=run.call.context,
    )


def pack(message: Any) -> bytes:
    """Return a message as bytes, for a process of the same cluster."""
    return pickle.dumps(message, protocol=5)


def unpack(data: bytes) -> Any:
    """Return the message in bytes of :func:`pack`."""
    return pickle.loads(data)  # noqa: S301 - written by pack() in another process of this cluster


def worker_died(message: TaskMessage, *, worker: str, detail: str, exclusive: bool = False) -> Failure:
    """Return the failure of a task whose worker died, perhaps because of the task."""
    company = "as its only task" if exclusive else "perhaps with other tasks"
    what = f"worker {worker} died while it ran step {message.step!r} (attempt {message.attempt}), {company}: {detail}"
    return Failure(type=WORKER_DIED, message=what, mro=(WORKER_DIED,))


def worker_stopped(message: TaskMessage, *, worker: str, detail: str = "it was drained") -> Failure:
    """Return the failure of a task whose worker was stopped, not because of the task."""
    what = f"worker {worker} was stopped before step {message.step!r} (attempt {message.attempt}) ended: {detail}"
    return Failure(type=WORKER_STOPPED, message=what, mro=(WORKER_STOPPED,))
