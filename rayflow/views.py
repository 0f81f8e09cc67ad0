"""From records to what a person sees; shared by engines and the command line."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from rayflow.core.snapshot import ExecutionSnapshot, fold
from rayflow.errors import Failure
from rayflow.storage.base import ExecutionRecord, JournalRow, StepNote
from rayflow.storage.codec import MsgpackCodec
from rayflow.storage.records import decode_entry, decode_failure


@dataclass(frozen=True, slots=True)
class Output:
    """What the steps of an execution printed, and how far it is, as far as its coordinator knows.

    Args:
        lines: those that are new since the cursor that was asked with.
        cursor: where to go on from.
        issued: steps that the workflow has issued so far; 0 while nobody drives it.
        completed: steps of these that are over.
    """

    lines: tuple[str, ...]
    cursor: str
    issued: int = 0
    completed: int = 0


def failure_in(record: ExecutionRecord) -> Failure | None:
    """The failure, the reason of a pause or cancellation, or None."""
    return None if record.failure is None else decode_failure(record.failure, execution_id=record.id)


def summary(record: ExecutionRecord) -> ExecutionSnapshot:
    """The execution without its steps and state: what a list shows."""
    return ExecutionSnapshot(
        execution_id=record.id,
        workflow_id=record.workflow_id,
        version=record.version,
        status=record.status,
        created_at=record.created_at,
        updated_at=record.updated_at,
        priority=record.priority,
        epoch=record.epoch,
        coordinator=record.coordinator,
        deadline=record.deadline,
        error=failure_in(record),
    )


def snapshot(
    record: ExecutionRecord, rows: Sequence[JournalRow], notes: Sequence[StepNote], decode: Callable[[bytes], Any]
) -> ExecutionSnapshot:
    """The whole snapshot: the record, what its journal folds to, and what its steps said of themselves.

    Args:
        record: the execution's row.
        rows: its journal.
        notes: the newest one of each step that has one.
        decode: reads payloads.

    Raises:
        CorruptRecord: a journal row is not what was written.
    """
    entries = [decode_entry(record.id, row.seq, row.body) for row in rows]
    made = fold(summary(record), entries, decode)
    for note in notes:
        step = made.steps[note.step - 1]
        if note.kind == "progress":
            step.progress = decode(note.body)
        elif step.status == "running":
            step.waits_for = decode(note.body)
    return made


def tolerant(codec: MsgpackCodec) -> Callable[[bytes], Any]:
    """Decodes payloads; one whose classes are not at hand is described as plain data instead."""

    def decode(data: bytes) -> Any:
        try:
            return codec.decode(data)
        except Exception:  # noqa: BLE001 - user classes may raise anything while they are rebuilt
            return codec.describe(data)

    return decode
