"""From records to what a person sees; shared by engines and the command line."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rayflow.core.execution.requests import WaitsFor
from rayflow.core.execution.snapshot import ChildSnapshot, ExecutionSnapshot, fold
from rayflow.errors import CodecError
from rayflow.ids import ExecutionStatus
from rayflow.storage.base import Filter
from rayflow.storage.codec.payloads import MsgpackCodec
from rayflow.storage.damage import DamagedRecord, damage_failure, failure_or_damage, readable, remedy
from rayflow.storage.model import DefinitionRecord, ExecutionRecord, JournalRow, StepNote
from rayflow.storage.query.cursor import decode_cursor, encode_cursor
from rayflow.storage.query.where import parse_where

#: Children that a snapshot names.
_CHILDREN = 10_000


@dataclass(frozen=True, slots=True)
class Output:
    """What the steps of an execution printed, and how far it is, as far as its coordinator knows.

    Args:
        lines: those that are new since the cursor that was asked with.
        cursor: position from which to continue.
        issued: steps that the workflow has issued so far; 0 while no coordinator drives it.
        completed: finished steps among them.
    """

    lines: tuple[str, ...]
    cursor: str
    issued: int = 0
    completed: int = 0


class ExecutionPage(list[ExecutionSnapshot]):
    """Page of a list of executions.

    Attributes:
        next: cursor of the next page, for ``after=``; None on the last page.
    """

    def __init__(self, executions: Iterable[ExecutionSnapshot] = (), next: str | None = None) -> None:
        super().__init__(executions)
        self.next = next


def list_query(
    *,
    status: ExecutionStatus | str | None = None,
    workflow: str | None = None,
    parent: str | None = None,
    schedule: str | None = None,
    where: str | None = None,
    after: str | None = None,
    limit: int = 100,
) -> Filter:
    """Return the query of a page, with one execution more by which :func:`page_of` knows whether another page follows.

    Raises:
        InvalidArgument: ``where`` is not a condition, or ``after`` is not a cursor.
    """
    return Filter(
        status=() if status is None else (ExecutionStatus(status),),
        workflow_id=workflow,
        parent=parent,
        schedule=schedule,
        where=() if where is None else parse_where(where),
        after=None if after is None else decode_cursor(after),
        limit=limit + 1,
    )


def page_of(records: Sequence[ExecutionRecord], query: Filter) -> ExecutionPage:
    """Return the page of what a store returned for a query of :func:`list_query`."""
    shown = records[: query.limit - 1]
    # The row of a damaged execution may have lost its place in the order.
    sound = [record for record in shown if not isinstance(record, DamagedRecord)]
    more = len(records) == query.limit and sound
    return ExecutionPage(map(summary, shown), encode_cursor((sound[-1].created_at, sound[-1].number)) if more else None)


@dataclass(frozen=True, slots=True)
class WorkflowInfo:
    """One version of a workflow, as it is saved.

    Args:
        workflow_id: the workflow.
        version: the version.
        name: its name.
        description: what it says of itself.
        code: where its code is: ``module``, ``qualname``, ``kind`` ("import" or "value") and hashes; empty where
            executions run a version that is not saved.
        saved_at: when it was saved, in seconds since the epoch; None if it is not, or no longer, saved. Executions that
            run it know their code, and so do children whose workflow was never started directly.
        unfinished: unfinished executions that run it.
    """

    workflow_id: str
    version: str
    name: str
    description: str
    code: Mapping[str, Any]
    saved_at: float | None
    unfinished: int


@dataclass(frozen=True, slots=True)
class ExecutionTree:
    """An execution with its children, as a branch of the tree that they are.

    Args:
        execution: it, without its steps and state.
        step: the number of its parent's call that waits for it, or 0.
        children: its children, in the order of their calls.
        more: whether it has children beyond these.
    """

    execution: ExecutionSnapshot
    step: int = 0
    children: tuple[ExecutionTree, ...] = ()
    more: bool = False


def workflow_infos(
    definitions: Sequence[DefinitionRecord], running: Sequence[tuple[str, str, int]]
) -> list[WorkflowInfo]:
    """Return the saved versions, and unsaved ones with executions, by workflow, newest first.

    Args:
        definitions: those that are saved, in that order.
        running: workflow id, version and number of unfinished executions, of each version that has any.
    """
    counts = {(workflow_id, version): count for workflow_id, version, count in running}
    infos = [
        WorkflowInfo(
            saved.workflow_id,
            saved.version,
            saved.name,
            saved.description,
            _code_in(saved),
            saved.saved_at,
            counts.pop((saved.workflow_id, saved.version), 0),
        )
        for saved in definitions
    ]
    gone = [WorkflowInfo(*key, "", "", {}, None, count) for key, count in counts.items()]
    return sorted([*infos, *gone], key=lambda info: info.workflow_id)


def _code_in(saved: DefinitionRecord) -> Mapping[str, Any]:
    try:
        said: Any = json.loads(saved.code)
    except (ValueError, TypeError):
        said = None
    whole = isinstance(said, dict) and {"module", "qualname", "kind"} <= said.keys()
    return said if whole else {"module": "(damaged", "qualname": "register it again)", "kind": "ref"}


def summary(record: ExecutionRecord) -> ExecutionSnapshot:
    """Return the snapshot of a list: the execution without its steps and state."""
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
        error=failure_or_damage(record),
        run=record.run,
        parent=record.parent,
        forked_from=record.forked_from,
        parked=not record.owner and record.status in {ExecutionStatus.RUNNING, ExecutionStatus.PAUSED},
        wakes_at=None if record.status.terminal else record.runnable_at,
        waiting_for=[] if record.status.terminal else WaitsFor.from_text(record.waits).describe(),
        attributes=dict(record.attributes),
    )


def snapshot(
    record: ExecutionRecord,
    rows: Sequence[JournalRow],
    notes: Sequence[StepNote],
    children: Sequence[ExecutionRecord],
    decode: Callable[[bytes], Any],
) -> ExecutionSnapshot:
    """Return the whole snapshot: the record, the folded journal, and the reports of running steps.

    The snapshot of a damaged journal shows the part before the damage, and the damage as the error.

    Args:
        record: the execution's row.
        rows: its journal.
        notes: the newest one of each step that has one.
        children: the executions that it started.
        decode: reads payloads.
    """
    decode = decode_or_placeholder(decode)
    entries, damage = readable(record.id, rows, record.last_seq)
    made = fold(summary(record), entries, decode)
    if damage is not None and not isinstance(record, DamagedRecord):
        made.error = damage_failure(damage, remedy(record, rows))
    made.children = [
        ChildSnapshot(child.waiting_call, child.id, child.workflow_id, child.status)
        for child in sorted(children, key=lambda child: child.waiting_call or math.inf)
    ]
    for note in notes:
        if not 0 < note.step <= len(made.steps):
            continue  # of a step that only the unreadable part of the journal knows
        step = made.steps[note.step - 1]
        if note.kind == "progress":
            step.progress = decode(note.body)
        elif step.status == "running":
            step.waits_for = decode(note.body)
    return made


def children_of(execution_id: str) -> Filter:
    """Return the filter for the executions that an execution started."""
    return Filter(parent=execution_id, limit=_CHILDREN)


def decode_or_placeholder(decode: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    """Return a decoder for displays: a damaged payload becomes a text that describes the damage."""

    def read(data: bytes) -> Any:
        try:
            return decode(data)
        except CodecError as error:
            return f"<damaged: {error}>"

    return read


def decode_or_describe(codec: MsgpackCodec) -> Callable[[bytes], Any]:
    """Return a decoder that describes a payload as plain data where its classes cannot be imported."""

    def decode(data: bytes) -> Any:
        try:
            return codec.decode(data)
        except Exception:  # noqa: BLE001 - user classes may raise anything while they are rebuilt
            return codec.describe(data)

    return decode
