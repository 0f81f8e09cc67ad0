"""Rules of parents and children: starts, results at a child's end, cancellation with the parent."""

from __future__ import annotations

from dataclasses import replace

from rayflow.core.events import RequestCompleted, label
from rayflow.core.failures import failure_of
from rayflow.errors import CorruptRecord, ExecutionAlreadyExists, RayflowError
from rayflow.ids import ExecutionStatus
from rayflow.storage.codec.journal import decode_failure
from rayflow.storage.model import ExecutionRecord
from rayflow.storage.operations import Append, StartChild
from rayflow.storage.rules.protocols import Reads, TransactionView
from rayflow.storage.rules.starts import cancel_row, rewinds_at_call


class ChildRules:
    """Rules of parents and children within one transaction."""

    def __init__(self, book: TransactionView, reads: Reads) -> None:
        self._book = book
        self._reads = reads

    def start_child(self, parent: str, ask: StartChild, operation: Append) -> None:
        """Start a child, or find the one that the same call has started before."""
        child, waits = ask.record, ask.record.waited_for
        there, done = self._book.head(child.id), self._superseded(ask)
        failure: RayflowError | None = None
        if done is not None:
            there = done
        elif there is None:
            failure = self._book.start(child)
        elif there.start_nonce != child.start_nonce and (waits or not _same_start(there, child)):
            failure = ExecutionAlreadyExists(child.id, reason=_whose(there, child))
        about = label("child", child.workflow_id)
        if failure is not None:
            self._book.tell(parent, ask.step, about, operation, failure=failure)
        elif not waits:
            self._book.tell(parent, ask.step, about, operation, value=child.id if there is None else there.id)
        elif there is not None and there.status.terminal:
            end = replace(_end_of(there, operation.at), step=ask.step)
            self._book.put_answer(parent, end, f"answer/{ask.step}/{operation.first_seq}")

    def _superseded(self, ask: StartChild) -> ExecutionRecord | None:
        """Return the child of a superseded call that has the same input and has completed or continues."""
        for name, nonce in ask.earlier:
            there = self._book.head(name)
            if there is None or there.start_nonce != nonce or not _same_start(there, ask.record):
                continue
            goes_on = ask.record.parent_step == 0 and not there.status.terminal
            if goes_on or there.status is ExecutionStatus.COMPLETED:
                return there
        return None

    def ended(self, execution: ExecutionRecord, operation: Append) -> None:
        """Answer the parent of a finished execution, and cancel the children that end with it."""
        if execution.waited_for:
            self._tell_parent(execution, operation)
        new = (name for name in self._book.started if _is_child(self._book.head(name), execution))
        for name in dict.fromkeys((*self._reads.bound_children(execution.id), *new)):
            child = self._book.head(name)
            if child is not None and child.parent_step < 0 and _is_child(child, execution):
                self._book.deliver(name, cancel_row(execution, child.start_nonce, execution.epoch, operation.at))

    def _tell_parent(self, child: ExecutionRecord, operation: Append) -> None:
        """Answer the parent, unless its present run did not issue the call."""
        parent = self._book.head(child.parent)
        rewinds = None if parent is None else rewinds_at_call(parent, child)
        if parent is not None and rewinds is not None:
            end = replace(_end_of(child, operation.at), rewinds=rewinds)
            # Each end is answered once, so the key only has to be new.
            self._book.put_answer(parent.id, end, f"child/{child.id}/{parent.inbox_last + 1}")


def _is_child(record: ExecutionRecord | None, parent: ExecutionRecord) -> bool:
    """Return whether this execution started it, and not an earlier execution of the same id."""
    return record is not None and record.parent == parent.id and record.start_nonce.startswith(f"{parent.start_nonce}/")


def _same_start(there: ExecutionRecord, asked: ExecutionRecord) -> bool:
    return (there.workflow_id, there.identity) == (asked.workflow_id, asked.identity) and asked.identity != ""


def _whose(there: ExecutionRecord, asked: ExecutionRecord) -> str:
    if there.parent == asked.parent and there.start_nonce.partition("~")[0] == asked.start_nonce.partition("~")[0]:
        return "this call had started it before the execution was resumed, and it did not complete with this input"
    return f"it is an execution of workflow {there.workflow_id!r}"


def _end_of(child: ExecutionRecord, at: float) -> RequestCompleted:
    """Return a child's end as the answer to the call that started it."""
    try:
        failure = None if child.failure is None else decode_failure(child.failure, execution_id=child.id)
    except CorruptRecord as error:  # a damaged record must not keep others from being written
        failure = failure_of(error)
    about = label("child", child.workflow_id)
    return RequestCompleted(at, child.parent_step, about, None, child.result, failure, child.created_at, child.id)
