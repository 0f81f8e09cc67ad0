"""JSON encoder for executions, the other records of rayflow, and users' values."""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any

from rayflow.client.dead_letters import DeadLetterInfo, FailedAttempt
from rayflow.client.locks import LockInfo
from rayflow.client.retention import PurgeResult
from rayflow.client.schedules import ScheduleInfo
from rayflow.client.views import ExecutionTree, WorkflowInfo
from rayflow.core.cluster.metrics import DistributedMetrics, PoolStatus
from rayflow.core.execution.snapshot import (
    ChildSnapshot,
    ExecutionSnapshot,
    StageSnapshot,
    StepSnapshot,
    TaskState,
    TaskStatus,
)
from rayflow.core.locks.machine import Claim
from rayflow.errors import CodecError, Failure
from rayflow.storage.codec.large_values import is_large
from rayflow.storage.codec.payloads import MsgpackCodec


def to_json(value: Any) -> Any:
    """Return a value as plain JSON values.

    A record of rayflow (a snapshot, a lock, a pool's status …) becomes an object with stable keys. Times are seconds
    since the epoch, durations are seconds. A user's object becomes a dictionary with its class under ``"__type__"``.
    Keys become strings, bytes and other leaves text, and numbers that JSON lacks (NaN, infinity) their names.
    """
    if is_large(value):
        return repr(value)
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if type(value) in (str, int, float):
        return value
    if type(value) in _KEYS:
        return _record(value, _KEYS[type(value)])
    if isinstance(value, ExecutionTree):
        below = {"step": value.step, "children": to_json(value.children), "more_children": value.more}
        return {**summary_json(value.execution), **below}
    if isinstance(value, Mapping):
        return {key if isinstance(key, str) else _leaf(key): to_json(member) for key, member in value.items()}
    if type(value) in (list, tuple, set, frozenset):
        members = [to_json(member) for member in value]
        return sorted(members, key=repr) if isinstance(value, (set, frozenset)) else members
    if isinstance(value, str):
        return str.__str__(value)
    described = _leaf(value) if type(value) in _LEAVES else _described(value)
    return _leaf(described) if type(described) is type(value) else to_json(described)


def summary_json(snapshot: ExecutionSnapshot) -> dict[str, Any]:
    """Return the keys of an execution that a list shows."""
    return _record(snapshot, _SUMMARY)


def elapsed(snapshot: ExecutionSnapshot, now: float | None = None) -> float | None:
    """Return the seconds from an execution's start to its end, or until ``now``; None if unknown."""
    if snapshot.status.terminal:
        return snapshot.updated_at - snapshot.created_at
    return None if now is None else now - snapshot.created_at


def step_elapsed(step: StepSnapshot) -> float | None:
    """Return the seconds of the attempt that ended the step; None before its end."""
    return None if step.began is None or step.ended is None else step.ended - step.began


def task_elapsed(task: TaskStatus, now: float | None = None) -> float | None:
    """Return the seconds from an attempt's start to its end, or until ``now`` while it runs; None if unknown."""
    end = now if task.status is TaskState.RUNNING else task.completed_at
    return None if task.started_at is None or end is None else end - task.started_at


def input_of(record: DeadLetterInfo | ScheduleInfo) -> dict[str, Any]:
    """Return the recorded arguments of a dead letter or a schedule."""
    return {"args": record.args, "kwargs": record.kwargs}


def _record(record: Any, keys: tuple[str, ...]) -> dict[str, Any]:
    derived = {key: _DERIVED.get((type(record), key)) for key in keys}
    return {key: to_json(getattr(record, key) if of is None else of(record)) for key, of in derived.items()}


def _leaf(value: Any) -> str:
    if isinstance(value, bytes):
        return value.decode(errors="backslashreplace")
    if isinstance(value, (dt.datetime, dt.date, dt.time)):
        return value.isoformat()
    return str(value)


def _described(value: Any) -> Any:
    codec = MsgpackCodec(lazy=True)
    try:
        return codec.describe(codec.encode(value))
    except CodecError:
        return repr(value)


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


_LEAVES = (bytes, dt.datetime, dt.date, dt.time, dt.timedelta)

_SUMMARY = _words(
    "execution_id workflow_id version status created_at updated_at duration deadline priority epoch coordinator run "
    "parent forked_from parked wakes_at waiting_for attributes error"
)

#: The keys of each record, in their order.
_KEYS: dict[type, tuple[str, ...]] = {
    ExecutionSnapshot: _SUMMARY
    + _words("completed_steps current_steps state stages steps children unconsumed_signals result"),
    StepSnapshot: _words(
        "seq name kind status attempts result error began ended duration retry_at worker progress waits_for"
    ),
    TaskStatus: _words("step name attempt status worker started_at completed_at duration retries last_error"),
    DeadLetterInfo: _words(
        "execution_id step name kind workflow_id attempts at began worker error input handled history"
    ),
    ScheduleInfo: _words(
        "name schedule workflow_id version input options paused next_due last_due last_execution running queued_due "
        "runs missed skipped created_at damage"
    ),
    Claim: _words("execution_id step lease token since expires_at ttl"),
    **{
        record: tuple(field.name for field in fields(record))
        for record in (
            ChildSnapshot, DistributedMetrics, FailedAttempt, Failure, LockInfo, PoolStatus, PurgeResult, StageSnapshot,
            WorkflowInfo,
        )
    },
}  # fmt: skip

#: How to compute the keys that are not plain attributes.
_DERIVED: Mapping[tuple[type, str], Callable[[Any], Any]] = {
    (ExecutionSnapshot, "duration"): elapsed,
    (StepSnapshot, "duration"): step_elapsed,
    (TaskStatus, "duration"): task_elapsed,
    (DeadLetterInfo, "input"): input_of,
    (ScheduleInfo, "input"): input_of,
    (ScheduleInfo, "schedule"): lambda info: None if info.schedule is None else info.schedule.model_dump(),
    (ScheduleInfo, "options"): lambda info: info.options.model_dump(exclude_unset=True),
    (PoolStatus, "config"): lambda pool: pool.config.model_dump(),
    (Claim, "since"): lambda claim: claim.at,
}
