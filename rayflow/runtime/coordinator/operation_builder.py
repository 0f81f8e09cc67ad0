"""Operation builder: translates an execution's work into store operations, with its name and epoch.

The builder owns no state of the execution. Requests to others become store operations here; a request that cannot be
made (a child whose code can neither be imported nor pickled) is answered with a failure in the execution's own inbox.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from rayflow.core.events import AttemptFailed, Entry, RequestCompleted, StepCompleted, label
from rayflow.core.execution.actions import CancelRequest, NewDeadLetter, Request, Work
from rayflow.core.failures import failure_of
from rayflow.definition.base import WorkflowDefinition
from rayflow.definition.code import CodeRef
from rayflow.definition.context import ChildCall, LockCall, SignalCall
from rayflow.definition.options import ExecutionOptions, Retention
from rayflow.errors import CodecError, InvalidArgument
from rayflow.runtime.large_values import CodeValues
from rayflow.storage.codec.journal import append_digest, encode_entry, encode_failure
from rayflow.storage.model import DeadLetter, DefinitionRecord, ExecutionRecord, InboxRow, JournalRow
from rayflow.storage.operations import Append, CrossOperation, Deliver, DeliverTo, ReleaseLock, StartChild, TakeLock
from rayflow.storage.rules.starts import call_nonce, cancel_row, child_id, child_seed, new_record, signal_row

#: Makes a reference to a workflow's code, and stores the code if needed.
Refer = Callable[[WorkflowDefinition], CodeRef]


#: Options of an execution that its children do not inherit.
_OWN: dict[str, Any] = {
    "timeout": None,
    "deadline": None,
    "start_at": None,
    "delay": None,
    "singleton": None,
    "attributes": {},
}


class OperationBuilder:
    """Builds the operations of one execution.

    Args:
        values: encodes large values by reference.
        refer: makes references to the code of children.
        options: the execution's options, which its children inherit where they have none.
        fingerprint: returns the fingerprint of a child's code.
        retention: the default where neither the options nor the workflow specify one.

    Attributes:
        workflow_retention: the workflow's own setting; None if it has none.
    """

    def __init__(
        self,
        record: ExecutionRecord,
        epoch: int,
        values: CodeValues,
        refer: Refer,
        options: ExecutionOptions,
        *,
        fingerprint: Callable[[CodeRef], str],
        retention: Retention,
    ) -> None:
        self.record = record
        self.epoch = epoch
        self._values = values
        self._refer = refer
        self._options = options
        self._fingerprint = fingerprint
        self._default_retention = retention
        self.workflow_retention: Retention | None = None

    def append(
        self, entries: Sequence[Entry], work: Work, asks: Sequence[CrossOperation], now: float, *, waits: str | None
    ) -> Append:
        """Return the operation that appends entries to the journal, with everything that they change."""
        values = self._values
        rows = tuple(JournalRow(entry.seq, encode_entry(values.recorded(entry))) for entry in entries)
        outcome = work.outcome
        failure = outcome.failure if outcome is not None else work.reason
        first, last = entries[0].seq, entries[-1].seq
        seconds = (self._options.retention or self.workflow_retention or self._default_retention).seconds(work.status)
        return Append(
            execution_id=self.record.id,
            epoch=self.epoch,
            first_seq=first,
            rows=rows,
            digest=append_digest(rows),
            at=now,
            status=work.status,
            inbox_done=work.inbox_done,
            result=None if outcome is None or outcome.result is None else values.refer(outcome.result),
            failure=None if failure is None else encode_failure(failure),
            counts=dict(work.counts),
            dead_letters=tuple(self._dead(letter, first, last) for letter in work.dead_letters),
            asks=tuple(asks),
            waits=waits,
            next_run=None if work.next_run is None else values.refer(work.next_run),
            expires_at=None if seconds is None else now + seconds,
        )

    def keep_outcome(self, outcome: StepCompleted | AttemptFailed) -> Deliver:
        """Return the operation that keeps an outcome in the inbox until the execution resumes."""
        key = f"outcome/{self.epoch}/{outcome.step}/{outcome.attempt}"
        row = InboxRow(key=key, kind="outcome", body=encode_entry(Entry(0, outcome)), at=outcome.at)
        return Deliver(self.record.id, row, epoch=self.epoch)

    def _dead(self, letter: NewDeadLetter, first: int, last: int) -> DeadLetter:
        return DeadLetter(
            execution_id=self.record.id,
            step=letter.step,
            seq=min(max(letter.seq, first), last),  # with checkpoints="off" the failure has no entry
            workflow_id=self.record.workflow_id,
            name=letter.name,
            attempts=letter.attempts,
            at=letter.at,
            began=letter.began,
            worker=letter.worker,
            failure=encode_failure(letter.failure),
            input=letter.payload,
        )

    def requests(self, requests: Sequence[Request | CancelRequest], now: float) -> list[CrossOperation]:
        """Return the operations for requests to others.

        Raises:
            ClusterError, StorageUnavailable: if a child's code cannot be stored now.
        """
        return [self._request(r, now) if isinstance(r, Request) else self._cancel_request(r, now) for r in requests]

    def _request(self, request: Request, now: float) -> CrossOperation:
        seq, call = request.seq, request.call
        match call:
            case LockCall():
                return TakeLock(seq, call.name, call.limit, request.token)
            case SignalCall():
                # With the content: after a rewind, another signal may have the same number.
                content = hashlib.sha256(f"{call.name}\0".encode() + request.payload).hexdigest()[:16]
                key = f"signal/{call_nonce(self.record, seq)}/{content}"
                row = signal_row(call.name, self._values.refer(request.payload), key, now)
                return DeliverTo(seq, call.execution_id, row, call.name)
            case ChildCall():
                try:
                    return self._start_child(request, call, now)
                except (InvalidArgument, CodecError, TypeError) as error:
                    about, run = label("child", call.name), self.record.run
                    answer = RequestCompleted(now, seq, about, failure=failure_of(error), run=run)
                    row = InboxRow(f"unasked/{self.epoch}/{seq}", "answer", encode_entry(Entry(0, answer)), now)
                    return DeliverTo(0, self.record.id, row)

    def _cancel_request(self, request: CancelRequest, now: float) -> CrossOperation:
        call = request.call
        if isinstance(call, LockCall):
            return ReleaseLock(request.seq, call.name)
        assert isinstance(call, ChildCall)
        child = child_id(self.record, call.id, request.seq, request.rewinds)
        nonce = call_nonce(self.record, request.seq, request.rewinds)
        return DeliverTo(0, child, cancel_row(self.record, nonce, self.epoch, now), start_nonce=nonce)

    def child_id(self, request: Request) -> str:
        """Return the id of the child that a call starts."""
        assert isinstance(request.call, ChildCall)
        return child_id(self.record, request.call.id, request.seq, request.rewinds)

    def _start_child(self, request: Request, call: ChildCall, now: float) -> StartChild:
        earlier = tuple(
            (child_id(self.record, call.id, request.seq, rewinds), call_nonce(self.record, request.seq, rewinds))
            for rewinds in range(request.rewinds)
        )
        return StartChild(request.seq, self._child(request, call, now), earlier)

    def _child(self, request: Request, call: ChildCall, now: float) -> ExecutionRecord:
        ref = self._refer(call.workflow)
        definition = DefinitionRecord(
            workflow_id=call.workflow.id,
            version=call.workflow.version,
            name="",
            description="",
            code=json.dumps(ref.to_dict(), sort_keys=True).encode(),
            source_sha256=ref.source_sha256,
            saved_at=now,
            environment=self.record.environment,
        )
        args, kwargs = self._values.codec.decode(request.payload)
        record = new_record(
            definition,
            args,
            kwargs,
            execution_id=child_id(self.record, call.id, request.seq, request.rewinds),
            options=self._options.replace(**{**_OWN, **call.changes}),
            encode=self._values.encode,
            nonce=call_nonce(self.record, request.seq, request.rewinds),
            now=now,
            seed=child_seed(self.record, request.seq, request.rewinds),
        )
        step = request.seq if call.waits else -request.seq if call.on_parent_end == "cancel" else 0
        return replace(
            record,
            parent=self.record.id,
            parent_step=step,
            code_fingerprint=self._fingerprint(ref),
            environment_id=self.record.environment_id,
        )
