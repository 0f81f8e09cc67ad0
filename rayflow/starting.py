"""What a start records, and when two starts are the same."""

from __future__ import annotations

import hashlib
import uuid
from typing import Any

from rayflow.definition.options import ExecutionOptions
from rayflow.errors import ExecutionAlreadyExists
from rayflow.ids import ExecutionStatus, check_id
from rayflow.storage.base import DefinitionRecord, ExecutionRecord
from rayflow.storage.codec import MsgpackCodec, canonical


def new_record(
    definition: DefinitionRecord,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    *,
    execution_id: str | None,
    options: ExecutionOptions,
    codec: MsgpackCodec,
    nonce: str,
    now: float,
) -> ExecutionRecord:
    """The row of a new execution.

    Args:
        definition: the saved workflow.
        args: its arguments.
        kwargs: its keyword arguments.
        execution_id: the id; None for a new one.
        options: how it runs.
        codec: writes the input.
        nonce: the engine's own.
        now: seconds since the epoch.

    Raises:
        DefinitionError: the id does not fit.
        CodecError: the input cannot be written.
    """
    limits = [options.deadline, None if options.timeout is None else now + options.timeout]
    return ExecutionRecord(
        id=check_id("execution", execution_id or f"{definition.workflow_id}-{uuid.uuid4().hex[:12]}"),
        workflow_id=definition.workflow_id,
        version=definition.version,
        status=ExecutionStatus.PENDING,
        priority=options.priority,
        created_at=now,
        updated_at=now,
        input=codec.encode((args, kwargs)),
        identity=_identity(definition.workflow_id, args, kwargs),
        start_nonce=f"{nonce}/{uuid.uuid4().hex}",
        code=definition.code,
        options=options.model_dump_json().encode(),
        environment=definition.environment,
        runnable_at=now,
        deadline=min((limit for limit in limits if limit is not None), default=None),
    )


def _identity(workflow_id: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    """Digest of workflow and canonical input; "" where the input holds what can only be pickled."""
    content = canonical((list(args), kwargs))
    return "" if content is None else hashlib.sha256(workflow_id.encode() + b"\0" + content).hexdigest()


def check_same_start(asked: ExecutionRecord, there: ExecutionRecord) -> None:
    """Whether a start that met an existing execution means that very one.

    Raises:
        ExecutionAlreadyExists: it does not, or it cannot be told.
    """
    if asked.start_nonce == there.start_nonce:
        return
    if asked.workflow_id != there.workflow_id:
        raise ExecutionAlreadyExists(asked.id, reason=f"it is an execution of workflow {there.workflow_id!r}")
    if not asked.identity or not there.identity:
        raise ExecutionAlreadyExists(
            asked.id, reason="its input holds something that can only be pickled, so that two inputs cannot be compared"
        )
    if asked.identity != there.identity:
        raise ExecutionAlreadyExists(asked.id, reason="it was started with another input")
