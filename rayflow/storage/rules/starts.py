"""Starts of executions: their records, their ids and nonces, and when two starts are the same."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from rayflow.core.events import CancelRequested, Entry, Event, SignalReceived
from rayflow.core.schedules.machine import DueStart, ScheduleState
from rayflow.definition.options import ExecutionOptions
from rayflow.errors import ExecutionAlreadyExists
from rayflow.ids import MAX_ID_LENGTH, ExecutionStatus, check_id
from rayflow.storage.codec.journal import encode_entry
from rayflow.storage.codec.payloads import MsgpackCodec, canonical
from rayflow.storage.codec.schedules import ScheduleSpec, decode_state, encode_state
from rayflow.storage.model import DefinitionRecord, ExecutionRecord, InboxRow, ScheduleRecord
from rayflow.storage.operations import DeliverTo, FireSchedule


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
    seed: int | None = None,
) -> ExecutionRecord:
    """Return the row of a new execution.

    Args:
        definition: the saved workflow.
        args: its arguments.
        kwargs: its keyword arguments.
        execution_id: the id; "" for one that is derived from the nonce.
        options: the execution's options.
        encode: encodes the input.
        nonce: identifies this start and its repetitions.
        now: seconds since the epoch.
        seed: of its random numbers; None derives it from the nonce.

    Raises:
        InvalidArgument: the id is not valid.
        CodecError: the input cannot be encoded.
    """
    kwargs = dict(kwargs)
    return new_execution(
        definition,
        encode((args, kwargs)),
        identity_of(definition.workflow_id, args, kwargs),
        execution_id=execution_id,
        options=options,
        nonce=nonce,
        now=now,
        seed=seed,
    )


def new_execution(
    code: DefinitionRecord | ExecutionRecord,
    given: bytes,
    identity: str,
    *,
    execution_id: str,
    options: ExecutionOptions,
    nonce: str,
    now: float,
    seed: int | None = None,
) -> ExecutionRecord:
    """Return the row of a new execution with encoded input.

    Args:
        code: the saved workflow or the execution whose code it runs.
        given: the encoded input.
        identity: digest of the input (:func:`identity_of`).
        execution_id: as for :func:`new_record`, as are the other arguments.
        options: the execution's options.
        nonce: identifies this start.
        now: seconds since the epoch.
        seed: of its random numbers; None derives it from the nonce.

    Raises:
        InvalidArgument: the id is not valid.
    """
    begins, deadline = times_of(options, now)
    return ExecutionRecord(
        id=check_id("execution", execution_id or f"{code.workflow_id}-{nonce[-12:]}"),
        workflow_id=code.workflow_id,
        version=code.version,
        status=ExecutionStatus.PENDING,
        priority=options.priority,
        created_at=now,
        updated_at=now,
        input=given,
        identity=identity,
        start_nonce=nonce,
        code=code.code,
        options=options.model_dump_json().encode(),
        environment=code.environment,
        runnable_at=begins,
        singleton=options.singleton or "",
        deadline=deadline,
        seed=derived_seed(nonce) if seed is None else seed,
        attributes=dict(options.attributes),
    )


def derived_seed(origin: str) -> int:
    """Return a seed of random numbers, 0 to 2**63 - 1, that follows from a text alone."""
    return int.from_bytes(hashlib.sha256(origin.encode(errors="surrogatepass")).digest()[:8], "big") >> 1


def times_of(options: ExecutionOptions, now: float) -> tuple[float, float | None]:
    """Return when an execution that is started now begins, and its deadline, in seconds since the epoch."""
    begins = max(now + (options.delay or 0.0), options.start_at or 0.0)
    limits = [options.deadline, None if options.timeout is None else begins + options.timeout]
    return begins, min((limit for limit in limits if limit is not None), default=None)


def identity_of(workflow_id: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    """Return the digest of workflow and canonical input; "" if the input contains values that only pickle can write."""
    content = canonical((list(args), kwargs))
    return "" if content is None else hashlib.sha256(workflow_id.encode() + b"\0" + content).hexdigest()


def check_same_start(asked: ExecutionRecord, there: ExecutionRecord) -> None:
    """Check that a start and the existing execution of the same id are the same start.

    Raises:
        ExecutionAlreadyExists: they are not, or that cannot be determined.
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


def child_id(parent: ExecutionRecord, given: str | None, step: int, rewinds: int = 0) -> str:
    """Return the id of a child: the given one, or one derived from its parent and the call.

    Args:
        parent: the parent.
        given: the id that the workflow's code gave, if any.
        step: number of the call.
        rewinds: number of rewinds of the parent before it issued the call.
    """
    if given is not None:
        return given
    run = "" if parent.run == 1 else f"r{parent.run}."
    again = f"w{rewinds}." if rewinds else ""
    made = f"{parent.id}.{run}{again}{step}"
    if len(made) <= MAX_ID_LENGTH:
        return made
    return f"child-{hashlib.sha256(made.encode()).hexdigest()[:32]}"


def call_nonce(parent: ExecutionRecord, step: int, rewinds: int = 0) -> str:
    """Return the nonce that identifies a call among all calls of all runs of all executions of that id.

    It is the start nonce of the child that the call starts. The number of rewinds is part of it, since a rewind gives
    the numbers of superseded calls to other calls.
    """
    return f"{parent.start_nonce}/{parent.run}/{step}" + (f"~{rewinds}" if rewinds else "")


def child_seed(parent: ExecutionRecord, step: int, rewinds: int = 0) -> int:
    """Return the seed of a child's random numbers, which follows from its parent's and from the call.

    A fork has the seed of its source, so the parent's id and start count as well.
    """
    return derived_seed(f"{parent.seed}/{parent.id}/{parent.created_at!r}/{parent.run}/{step}~{rewinds}")


def rewinds_at_call(parent: ExecutionRecord, child: ExecutionRecord) -> int | None:
    """Return the number of rewinds of the parent before it called a child; None if its present run did not call it."""
    call = call_nonce(parent, abs(child.parent_step))
    if child.parent != parent.id or not child.start_nonce.startswith(call):
        return None
    rewinds = child.start_nonce[len(call) :]
    return 0 if not rewinds else int(rewinds[1:]) if rewinds[0] == "~" else None


def carried_rows(events: Iterable[Event], key: str) -> tuple[InboxRow, ...]:
    """Return recorded events as inbox rows, to be applied again; ``key`` is the beginning of their keys."""
    return tuple(
        InboxRow(f"{key}/{number}", "carried", encode_entry(Entry(0, event)), event.at)
        for number, event in enumerate(events)
    )


def cancel_row(parent: ExecutionRecord, call: str, epoch: int, at: float) -> InboxRow:
    """Return the inbox row that cancels a child of an execution that has ended or dropped the call.

    Args:
        parent: the parent.
        call: nonce of the child's call (:func:`call_nonce`).
        epoch: epoch of the parent.
        at: time of the cancellation, in seconds since the epoch.
    """
    reason = f"execution {parent.id!r}, which started it, has ended or given it up"
    # With the epoch: the parent may drop the child once more, after both have been rewound.
    key = f"cancel/{call}/{epoch}"
    return InboxRow(key, "cancel", encode_entry(Entry(0, CancelRequested(at, reason, parent.id))), at)


def signal_row(name: str, payload: bytes, key: str, at: float) -> InboxRow:
    """Return a signal as an inbox row."""
    return InboxRow(key, "signal", encode_entry(Entry(0, SignalReceived(at, name, payload))), at)


def schedule_transaction(
    record: ScheduleRecord,
    plan: ScheduleSpec,
    definition: DefinitionRecord | None,
    state: ScheduleState,
    *,
    starts: Sequence[DueStart] = (),
    cancels: Sequence[str] = (),
    wake: float | None,
    now: float,
    codec: MsgpackCodec,
) -> FireSchedule:
    """Return the operation that starts due executions of a schedule and records that.

    Args:
        record: the schedule's record as it was read.
        plan: the schedule's plan.
        definition: the workflow; needed only if an execution starts.
        state: the schedule's new state.
        starts: the due starts.
        cancels: ids of executions to cancel.
        wake: when the scheduler must check the schedule again; None for never.
        now: seconds since the epoch.
        codec: decodes and encodes the input.
    """
    made = replace(record, state=encode_state(state), version=record.version + 1, wake=wake)
    executions = tuple(_execution(record.name, plan, definition, start.execution_id, codec, now) for start in starts)
    giving_way = tuple(_cancelled(record.name, name, now) for name in cancels)
    return FireSchedule(made, executions, giving_way, now)


def unchanged(record: ScheduleRecord, state: ScheduleState, wake: float | None) -> bool:
    """Return whether neither the schedule's state nor its next check has changed."""
    return decode_state(record) == state and record.wake == wake


def _execution(  # noqa: PLR0917 - a part of the above
    schedule: str, plan: ScheduleSpec, definition: DefinitionRecord | None, name: str, codec: MsgpackCodec, now: float
) -> ExecutionRecord:
    assert definition is not None
    args, kwargs = codec.decode(plan.input)
    made = new_record(
        definition,
        args,
        kwargs,
        execution_id=name,
        options=plan.options,
        encode=codec.encode,
        # With the moment: a due time can be started again once its execution is deleted.
        nonce=f"schedule/{name}/{now!r}",
        now=now,
    )
    return replace(made, schedule=schedule)


def _cancelled(schedule: str, execution_id: str, now: float) -> DeliverTo:
    cancel = CancelRequested(now, f"schedule {schedule!r} starts the next one")
    row = InboxRow(f"cancel/schedule/{execution_id}", "cancel", encode_entry(Entry(0, cancel)), now)
    return DeliverTo(0, execution_id, row)
