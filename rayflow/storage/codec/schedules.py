"""Schedules and pool configurations as bytes.

Format 1 of both parts of a schedule: JSON with its own ``format``; the workflow's input is the codec's bytes in
base64.
"""

from __future__ import annotations

import base64
import json
from dataclasses import asdict, dataclass
from typing import Any

from rayflow.core.schedules.machine import ScheduleState
from rayflow.definition.options import ExecutionOptions, PoolConfig
from rayflow.definition.schedule import Schedule
from rayflow.errors import CorruptRecord, RayflowError
from rayflow.storage.model import PoolRecord, ScheduleRecord

FORMAT = 1


@dataclass(frozen=True, slots=True)
class ScheduleSpec:
    """Plan of a schedule: which workflow starts when.

    Args:
        schedule: the times.
        workflow_id: the workflow.
        version: its version; "" for the one that was saved last at the time of a start.
        input: the encoded (args, kwargs).
        options: options of the executions.
    """

    schedule: Schedule
    workflow_id: str
    version: str
    input: bytes
    options: ExecutionOptions


def encode_plan(plan: ScheduleSpec) -> bytes:
    """Return the plan as bytes."""
    return _dump({
        "schedule": plan.schedule.model_dump(mode="json", exclude_unset=True),
        "workflow": plan.workflow_id,
        "version": plan.version,
        "input": base64.b64encode(plan.input).decode(),
        "options": plan.options.model_dump(mode="json", exclude_unset=True),
    })  # fmt: skip


def decode_plan(record: ScheduleRecord) -> ScheduleSpec:
    """Return the plan of a schedule. Raises CorruptRecord."""
    said = _load(record.name, record.spec)
    try:
        return ScheduleSpec(
            Schedule(**said["schedule"]),
            said["workflow"],
            said["version"],
            base64.b64decode(said["input"]),
            ExecutionOptions.model_validate(said["options"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise CorruptRecord("", f"the plan of schedule {record.name!r} cannot be read: {error}") from error


def encode_state(state: ScheduleState) -> bytes:
    """Return the state as bytes."""
    return _dump(asdict(state))


def decode_state(record: ScheduleRecord) -> ScheduleState:
    """Return the state of a schedule. Raises CorruptRecord."""
    said = _load(record.name, record.state)
    try:
        state = ScheduleState(**{**said, "running": tuple(said["running"])})
    except (KeyError, TypeError) as error:
        raise CorruptRecord("", f"the state of schedule {record.name!r} cannot be read: {error}") from error
    numbers = (state.next_due, state.queued_due, state.last_due, state.anchor, state.resumed_at)
    counts = (state.runs, state.missed, state.skipped)
    if not (
        all(isinstance(number, int | float | None) for number in numbers)
        and all(isinstance(count, int) for count in counts)
        and all(isinstance(name, str) for name in state.running)
    ):
        raise CorruptRecord("", f"the state of schedule {record.name!r} holds what it cannot hold: {said}")
    return state


def pool_config(record: PoolRecord) -> PoolConfig:
    """Return the configuration of a pool. Raises CorruptRecord."""
    try:
        return PoolConfig.model_validate_json(record.config)
    except (ValueError, TypeError, RayflowError) as error:
        said = str(error).splitlines()
        raise CorruptRecord(
            "",
            f"the saved configuration of pool {record.name!r} cannot be read ({said[0] if said else error!r}). "
            "Create the pool again with its configuration, which replaces this one, or delete it",
        ) from error


def _dump(said: dict[str, Any]) -> bytes:
    return json.dumps({"format": FORMAT, **said}, sort_keys=True).encode()


def _load(name: str, data: bytes) -> dict[str, Any]:
    try:
        said: dict[str, Any] = json.loads(data)
        found = said.pop("format")
    except (ValueError, KeyError, AttributeError) as error:
        raise CorruptRecord("", f"the record of schedule {name!r} is damaged: {error}") from error
    if found != FORMAT:
        raise CorruptRecord("", f"the record of schedule {name!r} has format {found}; this rayflow reads {FORMAT}")
    return said
