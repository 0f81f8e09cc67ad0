"""Executions and their values as plain JSON values, for programs."""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from rayflow.client.views import WorkflowInfo
from rayflow.core.execution.snapshot import ExecutionSnapshot, StepSnapshot
from rayflow.display.formats import lasted, step_lasted
from rayflow.errors import CodecError, Failure
from rayflow.storage.codec.large_values import is_large
from rayflow.storage.codec.payloads import MsgpackCodec


def jsonable(value: Any) -> Any:
    """A value as what JSON can hold.

    Objects become dictionaries with their class under ``"__type__"``, keys become strings, bytes and other leaves
    text, numbers that JSON does not have (NaN, infinity) their names.
    """
    if is_large(value):
        return repr(value)
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if type(value) in (str, int, float):
        return value
    if isinstance(value, Mapping):
        return {key if isinstance(key, str) else _leaf(key): jsonable(member) for key, member in value.items()}
    if type(value) in (list, tuple, set, frozenset):
        members = [jsonable(member) for member in value]
        return sorted(members, key=repr) if isinstance(value, (set, frozenset)) else members
    if isinstance(value, str):
        return str.__str__(value)
    if type(value) in _LEAVES:
        return _leaf(value)
    described = _described(value)
    return _leaf(described) if type(described) is type(value) else jsonable(described)


_LEAVES = (bytes, dt.datetime, dt.date, dt.time, dt.timedelta)


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


def to_json(snapshot: ExecutionSnapshot) -> dict[str, Any]:
    """The snapshot as plain JSON values. The keys are the snapshot's own and stay the same.

    Times are seconds since the epoch, durations seconds.
    """
    return {
        **summary_json(snapshot),
        "completed_steps": snapshot.completed_steps,
        "current_steps": snapshot.current_steps,
        "state": jsonable(snapshot.state),
        "stages": [
            {"index": stage.index, "name": stage.name, "status": stage.status, "result": jsonable(stage.result)}
            for stage in snapshot.stages
        ],
        "steps": [_step_json(step) for step in snapshot.steps],
        "children": [{**asdict(child), "status": str(child.status)} for child in snapshot.children],
        "unconsumed_signals": snapshot.unconsumed_signals,
        "result": jsonable(snapshot.result),
    }


def summary_json(snapshot: ExecutionSnapshot) -> dict[str, Any]:
    """What a list shows of an execution, as plain JSON values."""
    return {
        "execution_id": snapshot.execution_id,
        "workflow_id": snapshot.workflow_id,
        "version": snapshot.version,
        "status": str(snapshot.status),
        "created_at": snapshot.created_at,
        "updated_at": snapshot.updated_at,
        "duration": lasted(snapshot),
        "deadline": snapshot.deadline,
        "priority": snapshot.priority,
        "epoch": snapshot.epoch,
        "coordinator": snapshot.coordinator,
        "run": snapshot.run,
        "parent": snapshot.parent,
        "forked_from": snapshot.forked_from,
        "parked": snapshot.parked,
        "wakes_at": snapshot.wakes_at,
        "waiting_for": snapshot.waiting_for,
        "attributes": dict(snapshot.attributes),
        "error": None if snapshot.error is None else failure_json(snapshot.error),
    }


def failure_json(failure: Failure) -> dict[str, Any]:
    """A failure as plain JSON values."""
    return {**failure.to_dict(), "mro": list(failure.mro)}


def _step_json(step: StepSnapshot) -> dict[str, Any]:
    return {
        "seq": step.seq,
        "name": step.name,
        "kind": step.kind,
        "status": step.status,
        "attempts": step.attempts,
        "result": jsonable(step.result),
        "error": None if step.error is None else failure_json(step.error),
        "began": step.began,
        "ended": step.ended,
        "duration": step_lasted(step),
        "retry_at": step.retry_at,
        "worker": step.worker,
        "progress": jsonable(step.progress),
        "waits_for": step.waits_for,
    }


def workflow_json(info: WorkflowInfo) -> dict[str, Any]:
    """A version of a workflow as plain JSON values."""
    return {**asdict(info), "code": dict(info.code)}
