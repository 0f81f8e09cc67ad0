"""What a start records, and when two starts are the same."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from rayflow.core.events import Entry, Event, SignalReceived
from rayflow.definition.options import ExecutionOptions
from rayflow.errors import ExecutionAlreadyExists
from rayflow.ids import LONGEST_ID, ExecutionStatus, check_id
from rayflow.storage.codec import canonical
from rayflow.storage.kept import DefinitionRecord
from rayflow.storage.operations import ExecutionRecord, InboxRow
from rayflow.storage.records import encode_entry


def new_record(
    definition: DefinitionRecord,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    *,
    execution_id: str,
    options: ExecutionOptions,
    encode: Callable[[Any], bytes],
    nonce: str,
    now: float,
) -> ExecutionRecord:
    """The row of a new execution.

    Args:
        definition: the saved workflow.
        args: its arguments.
        kwargs: its keyword arguments.
        execution_id: the id; "" for one that is made of the nonce.
        options: how it runs.
        encode: writes the input.
        nonce: of this very start, and of its repetitions.
        now: seconds since the epoch.

    Raises:
        DefinitionError: the id does not fit.
        CodecError: the input cannot be written.
    """
    begins, deadline = times_of(options, now)
    kwargs = dict(kwargs)
    return ExecutionRecord(
        id=check_id("execution", execution_id or f"{definition.workflow_id}-{nonce[-12:]}"),
        workflow_id=definition.workflow_id,
        version=definition.version,
        status=ExecutionStatus.PENDING,
        priority=options.priority,
        created_at=now,
        updated_at=now,
        input=encode((args, kwargs)),
        identity=identity_of(definition.workflow_id, args, kwargs),
        start_nonce=nonce,
        code=definition.code,
        options=options.model_dump_json().encode(),
        environment=definition.environment,
        runnable_at=begins,
        singleton=options.singleton or "",
        deadline=deadline,
    )


def times_of(options: ExecutionOptions, now: float) -> tuple[float, float | None]:
    """When an execution that is started now begins, and when its time is up, in seconds since the epoch."""
    begins = max(now + (options.delay or 0.0), options.start_at or 0.0)
    limits = [options.deadline, None if options.timeout is None else begins + options.timeout]
    return begins, min((limit for limit in limits if limit is not None), default=None)


def identity_of(workflow_id: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
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
            asked.id,
            reason="its input holds something that can only be pickled, or a large value of another execution, so that "
            "two inputs cannot be compared",
        )
    if asked.identity != there.identity:
        raise ExecutionAlreadyExists(asked.id, reason="it was started with another input")


def child_id(parent: ExecutionRecord, given: str | None, step: int) -> str:
    """The id of a child: the one that was given, or one that follows from its parent's and the call's number."""
    if given is not None:
        return given
    run = "" if parent.run == 1 else f"r{parent.run}."
    made = f"{parent.id}.{run}{step}"
    if len(made) <= LONGEST_ID:
        return made
    return f"child-{hashlib.sha256(made.encode()).hexdigest()[:32]}"


def call_nonce(parent: ExecutionRecord, step: int) -> str:
    """What a call is known by among all calls of all runs of all executions that ever had their ids.

    It is the start's nonce of the child that the call starts.
    """
    return f"{parent.start_nonce}/{parent.run}/{step}"


def carried_rows(events: Iterable[Event], key: str) -> tuple[InboxRow, ...]:
    """Recorded events as an inbox keeps them, to be applied again; ``key`` is what their keys begin with."""
    return tuple(
        InboxRow(f"{key}/{number}", "carried", encode_entry(Entry(0, event)), event.at)
        for number, event in enumerate(events)
    )


def signal_row(name: str, payload: bytes, key: str, at: float) -> InboxRow:
    """A signal as an inbox keeps it."""
    return InboxRow(key, "signal", encode_entry(Entry(0, SignalReceived(at, name, payload))), at)
