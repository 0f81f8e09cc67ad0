"""What travels between coordinators and workers. Plain tuples: they are pickled thousands of times a second."""

from __future__ import annotations

import hashlib
import math
import pickle
from typing import Any, NamedTuple

from rayflow.core.execution.actions import RunAttempt
from rayflow.core.execution.retry import WORKER_DIED, WORKER_STOPPED
from rayflow.errors import Failure
from rayflow.storage.model import ExecutionRecord

#: Seconds between two heartbeats of a step that reach its coordinator.
BEAT_EVERY = 0.5


class TaskMessage(NamedTuple):
    """One attempt at a step, for a worker to run.

    ``start_by``, in seconds since the epoch, is the moment after which the worker gives it back instead of beginning
    it. Its heartbeats reach the coordinator at most every ``beat_every`` seconds.
    ``context`` holds context variables of the workflow's code, as ``module:name``, with their encoded values.
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

    ``patience`` is the time in seconds after which the worker answers although tasks are left: what is done,
    which one is under way, and those that it gives back without having begun them. A single task is waited for to
    its end all the same, unless ``tell_begin``: then the early answer says when it began. ``code_as_of`` is when the
    coordinator last saw that its code is what is on the disk, in seconds since the epoch.
    """

    id: str
    token: str
    pool_epoch: int
    coordinator: str
    tasks: tuple[TaskMessage, ...]
    patience: float
    tell_begin: bool = False
    code_as_of: float = 0.0


class TaskOutcome(NamedTuple):
    """How one attempt ended: a result, or a failure, or (with neither) refused as stale.

    ``unreadable`` says that the failure is none of the step's: what it was given is damaged or missing in the store.
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
    """A worker's answer to a batch.

    Args:
        outcomes: what is done.
        running: (execution id, seq, attempt) of the task under way, or None: ask ``collect`` for it.
        not_begun: tasks that are given back.
        refused: "busy" or "stale" if nothing was taken at all.
        began: when the task under way began, in seconds since the epoch; 0.0 if none is.
        stopped: tasks that were under way when the worker stopped: lost with it, which is not their fault.
    """

    outcomes: tuple[TaskOutcome, ...] = ()
    running: tuple[str, int, int] | None = None
    not_begun: tuple[tuple[str, int, int], ...] = ()
    refused: str = ""
    began: float = 0.0
    stopped: tuple[tuple[str, int, int], ...] = ()


def task_message(record: ExecutionRecord, epoch: int, run: RunAttempt, code: dict[str, str], part: str) -> TaskMessage:
    """An attempt as a worker gets it.

    Args:
        record: the execution's row.
        epoch: its coordinator's.
        run: the attempt.
        code: where the worker finds what it calls.
        part: the part of that.
    """
    # The same on each try, by whichever coordinator. An id can be used again once its execution is deleted, so the
    # start counts; a run that continued as new issues other steps under the same numbers, so the run counts.
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
    """A message as bytes. Only processes of one cluster exchange them."""
    return pickle.dumps(message, protocol=5)


def unpack(data: bytes) -> Any:
    """The message of those bytes."""
    return pickle.loads(data)  # noqa: S301 - written by pack() in another process of this cluster


def worker_died(message: TaskMessage, *, worker: str, detail: str, alone: bool = False) -> Failure:
    """Its worker died: perhaps by the task's own doing."""
    company = "alone on it" if alone else "perhaps with others on it"
    what = f"worker {worker} died while it ran step {message.step!r} (attempt {message.attempt}), {company}: {detail}"
    return Failure(type=WORKER_DIED, message=what, mro=(WORKER_DIED,))


def worker_stopped(message: TaskMessage, *, worker: str, detail: str = "it was drained") -> Failure:
    """Its worker was stopped: not the task's doing."""
    what = f"worker {worker} was stopped before step {message.step!r} (attempt {message.attempt}) ended: {detail}"
    return Failure(type=WORKER_STOPPED, message=what, mro=(WORKER_STOPPED,))
