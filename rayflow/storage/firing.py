"""From what a schedule decides to what a store writes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from rayflow.core.events import CancelRequested, Entry
from rayflow.core.schedules import DueStart, ScheduleState
from rayflow.storage.codec import MsgpackCodec
from rayflow.storage.crossing import FireSchedule, Send
from rayflow.storage.kept import DefinitionRecord, ScheduleRecord
from rayflow.storage.operations import ExecutionRecord, InboxRow
from rayflow.storage.plans import Plan, decode_state, encode_state
from rayflow.storage.records import encode_entry
from rayflow.storage.starting import new_record


def fired(
    record: ScheduleRecord,
    plan: Plan,
    definition: DefinitionRecord | None,
    state: ScheduleState,
    *,
    starts: Sequence[DueStart] = (),
    cancels: Sequence[str] = (),
    wake: float | None,
    now: float,
    codec: MsgpackCodec,
) -> FireSchedule:
    """The operation that starts what is due and notes it.

    Args:
        record: the schedule, as it was read.
        plan: when it starts what.
        definition: the workflow; only needed if anything starts.
        state: where the schedule is from now on.
        starts: what starts.
        cancels: executions that give way.
        wake: when it is to be looked at again.
        now: seconds since the epoch.
        codec: reads and writes the input.
    """
    made = replace(record, state=encode_state(state), version=record.version + 1, wake=wake)
    executions = tuple(_execution(record.name, plan, definition, start.execution_id, codec, now) for start in starts)
    giving_way = tuple(_cancelled(record.name, name, now) for name in cancels)
    return FireSchedule(made, executions, giving_way, now)


def unchanged(record: ScheduleRecord, state: ScheduleState, wake: float | None) -> bool:
    """Whether there is nothing to write."""
    return decode_state(record) == state and record.wake == wake


def _execution(  # noqa: PLR0917 - a part of the above
    schedule: str, plan: Plan, definition: DefinitionRecord | None, name: str, codec: MsgpackCodec, now: float
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
        nonce=f"schedule/{name}",
        now=now,
    )
    return replace(made, schedule=schedule)


def _cancelled(schedule: str, execution_id: str, now: float) -> Send:
    cancel = CancelRequested(now, f"schedule {schedule!r} starts the next one")
    row = InboxRow(f"cancel/schedule/{execution_id}", "cancel", encode_entry(Entry(0, cancel)), now)
    return Send(0, execution_id, row)
