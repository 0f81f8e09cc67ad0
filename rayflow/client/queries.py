"""Read access to executions: status, tasks, output, results, lists, metrics."""

from __future__ import annotations

from typing import Any

from rayflow.client.backend import Backend
from rayflow.client.views import ExecutionPage, Output, children_of, decode_or_describe, page_of, snapshot
from rayflow.core.execution.actions import LiveTask
from rayflow.core.execution.snapshot import ExecutionSnapshot, TaskStatus, tasks_of
from rayflow.errors import (
    ClusterError,
    CodecError,
    CorruptRecord,
    ExecutionCancelled,
    ExecutionFailed,
    ExecutionTimeout,
    Failure,
)
from rayflow.ids import ExecutionStatus
from rayflow.storage.base import Filter
from rayflow.storage.codec.payloads import MsgpackCodec
from rayflow.storage.damage import check_payload, entries_of, failure_or_damage
from rayflow.storage.model import ExecutionRecord


class ExecutionQueries:
    """Reads executions for an engine; ``engine`` documents each method.

    Args:
        backend: where records are read.
        codec: decodes payloads.

    Attributes:
        record: returns an execution's record, or raises ExecutionNotFound.
        decode: decodes a payload; what cannot be decoded is described instead.
    """

    def __init__(self, backend: Backend, codec: MsgpackCodec) -> None:
        self._backend = backend
        self._codec = codec.reading(backend.read_value)
        self.decode = decode_or_describe(codec.reading(backend.read_value, lazy=True))
        self.record = backend.record

    def status(self, execution_id: str) -> ExecutionSnapshot:
        """Return the execution's snapshot."""
        record = self.record(execution_id)
        rows, notes = self._backend.journal(execution_id), self._backend.notes(execution_id)
        children = self._backend.executions(children_of(execution_id))
        return snapshot(record, rows, notes, children, self.decode)

    def tasks(self, execution_id: str) -> list[TaskStatus]:
        """Return every attempt of an execution."""
        record = self.record(execution_id)
        return tasks_of(entries_of(record, self._backend.journal(execution_id)), self._live(record))

    def _live(self, record: ExecutionRecord) -> dict[int, tuple[LiveTask, str]]:
        if not record.coordinator or record.status.terminal:
            return {}
        try:
            found = self._backend.live_tasks(record.coordinator, record.id)
        except ClusterError:  # the coordinator is gone or restarts; the journal has the recorded results
            return {}
        return {task.seq: (task, worker) for task, worker in found}

    def output(self, execution_id: str, cursor: str = "") -> Output:
        """Return what an execution's steps printed since the cursor."""
        name = self.record(execution_id).coordinator
        known, _, position = cursor.rpartition("/")
        if not name:
            return Output((), cursor)
        try:
            found = self._backend.progress(name, execution_id, int(position) if known == name else 0)
        except ClusterError:  # the coordinator is gone or restarts; its successor collects new output
            return Output((), cursor)
        return Output(found.lines, f"{name}/{found.cursor}", issued=found.issued, completed=found.completed)

    def list(self, query: Filter) -> ExecutionPage:
        """Return the page of a query of :func:`~rayflow.client.views.list_query`."""
        return page_of(self._backend.executions(query), query)

    def outcome(self, record: ExecutionRecord, returns: Any = None) -> Any:
        """Return the result of a finished execution, or raise its exception.

        Raises:
            ExecutionFailed, ExecutionTimeout, ExecutionCancelled: the execution ended like that.
            CorruptRecord: the recorded result is damaged.
        """
        if record.status is ExecutionStatus.COMPLETED:
            if record.result is None:
                raise CorruptRecord(record.id, "the result in its record is missing")
            try:
                return self._codec.decode(record.result, returns)
            except CodecError:
                check_payload(record.id, "the result in its record", record.result)
                raise
        failure = failure_or_damage(record) or Failure(type="unknown", message="")
        if record.status is ExecutionStatus.CANCELLED:
            raise ExecutionCancelled(record.id, reason=failure.message)
        if failure.matches(ExecutionTimeout):
            raise ExecutionTimeout(record.id, failure)
        raise ExecutionFailed(record.id, failure)
