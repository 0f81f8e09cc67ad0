"""Writes down what an execution's work comes to: store operations, in its name and epoch.

It owns no state of the execution. What is asked of others is put in the store's words here; what cannot be asked (a
child that can neither be imported nor pickled) is answered as a failure, by the execution's own inbox.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from rayflow.core.events import AttemptFailed, Entry, RequestCompleted, StepCompleted, label
from rayflow.core.execution.actions import BuryStep, CancelRequest, Request, Work
from rayflow.core.failures import failure_of
from rayflow.definition.base import WorkflowDefinition
from rayflow.definition.code import CodeRef
from rayflow.definition.context import ChildCall, LockCall, SignalCall
from rayflow.definition.options import ExecutionOptions, Retention
from rayflow.errors import CodecError, DefinitionError
from rayflow.runtime.large_values import CodeValues
from rayflow.storage.codec.journal import append_digest, encode_entry, encode_failure
from rayflow.storage.model import DeadLetter, DefinitionRecord, ExecutionRecord, InboxRow, JournalRow
from rayflow.storage.operations import Append, CrossOperation, Deliver, DeliverTo, ReleaseLock, StartChild, TakeLock
from rayflow.storage.rules.starts import call_nonce, cancel_row, child_id, new_record, signal_row

#: Makes a reference to a workflow's code, storing the code where it has to.
Refer = Callable[[WorkflowDefinition], CodeRef]


#: Options of an execution that its children do not take over.
_OWN: dict[str, Any] = {
    "timeout": None,
    "deadline": None,
    "start_at": None,
    "delay": None,
    "singleton": None,
    "attributes": {},
}


class OperationBuilder:
    """See the module's docstring.

    Args:
        record: the execution's row.
        epoch: the coordinator's.
        values: the large values among what it writes.
        refer: for children's code.
        options: how the execution runs, and its children where they have none of their own.
        fingerprint: returns that of a child's code.
        retention: how long what is over is kept, where neither its options nor its workflow say.

    Attributes:
        workflow_retention: what its workflow says; None if that says nothing.
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
        """The operation that adds entries to the journal, with all that goes along."""
        values = self._values
        rows = tuple(JournalRow(entry.seq, encode_entry(values.recorded(entry))) for entry in entries)
        outcome = work.outcome
        failure = outcome.failure if outcome is not None else work.reason
        first, last = entries[0].seq, entries[-1].seq
        kept = (self._options.retention or self.workflow_retention or self._default_retention).seconds(work.status)
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
            dead_letters=tuple(self._dead(letter, first, last) for letter in work.letters),
            asks=tuple(asks),
            waits=waits,
            next_run=None if work.run is None else values.refer(work.run),
            expires_at=None if kept is None else now + kept,
        )

    def hold(self, outcome: StepCompleted | AttemptFailed) -> Deliver:
        """Keep an outcome for after a pause."""
        key = f"outcome/{self.epoch}/{outcome.step}/{outcome.attempt}"
        row = InboxRow(key=key, kind="outcome", body=encode_entry(Entry(0, outcome)), at=outcome.at)
        return Deliver(self.record.id, row, epoch=self.epoch)

    def _dead(self, letter: BuryStep, first: int, last: int) -> DeadLetter:
        return DeadLetter(
            execution_id=self.record.id,
            step=letter.step,
            seq=min(max(letter.seq, first), last),  # with checkpoints="off" the failure has no entry of its own
            workflow_id=self.record.workflow_id,
            name=letter.name,
            attempts=letter.attempts,
            at=letter.at,
            began=letter.began,
            worker=letter.worker,
            failure=encode_failure(letter.failure),
            input=letter.payload,
        )

    # --- others --------------------------------------------------------------------------------------------
    def asks(self, asks: Sequence[Request | CancelRequest], now: float) -> list[CrossOperation]:
        """What is asked of others, in the store's words.

        Raises:
            ClusterError, StorageUnavailable: a child's code cannot be stored now.
        """
        return [self._ask(ask, now) if isinstance(ask, Request) else self._unask(ask, now) for ask in asks]

    def _ask(self, ask: Request, now: float) -> CrossOperation:
        match ask.call:
            case LockCall():
                return TakeLock(ask.seq, ask.call.name, ask.call.limit, ask.token)
            case SignalCall():
                # With what it says: after a rewind, another signal may have the number.
                said = hashlib.sha256(f"{ask.call.name}\0".encode() + ask.payload).hexdigest()[:16]
                key = f"signal/{call_nonce(self.record, ask.seq)}/{said}"
                row = signal_row(ask.call.name, self._values.refer(ask.payload), key, now)
                return DeliverTo(ask.seq, ask.call.execution_id, row, ask.call.name)
            case ChildCall():
                try:
                    return self._start_child(ask, ask.call, now)
                except (DefinitionError, CodecError, TypeError) as error:
                    about, run = label("child", ask.call.name), self.record.run
                    answer = RequestCompleted(now, ask.seq, about, failure=failure_of(error), run=run)
                    row = InboxRow(f"unasked/{self.epoch}/{ask.seq}", "answer", encode_entry(Entry(0, answer)), now)
                    return DeliverTo(0, self.record.id, row)

    def _unask(self, unask: CancelRequest, now: float) -> CrossOperation:
        call = unask.call
        if isinstance(call, LockCall):
            return ReleaseLock(unask.seq, call.name)
        assert isinstance(call, ChildCall)
        child = child_id(self.record, call.id, unask.seq, unask.rewinds)
        nonce = call_nonce(self.record, unask.seq, unask.rewinds)
        return DeliverTo(0, child, cancel_row(self.record, nonce, self.epoch, now), start_nonce=nonce)

    def child_id(self, ask: Request) -> str:
        """The id of the child that a call starts."""
        assert isinstance(ask.call, ChildCall)
        return child_id(self.record, ask.call.id, ask.seq, ask.rewinds)

    def _start_child(self, ask: Request, call: ChildCall, now: float) -> StartChild:
        earlier = tuple(
            (child_id(self.record, call.id, ask.seq, rewinds), call_nonce(self.record, ask.seq, rewinds))
            for rewinds in range(ask.rewinds)
        )
        return StartChild(ask.seq, self._child(ask, call, now), earlier)

    def _child(self, ask: Request, call: ChildCall, now: float) -> ExecutionRecord:
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
        args, kwargs = self._values.codec.decode(ask.payload)
        record = new_record(
            definition,
            args,
            kwargs,
            execution_id=child_id(self.record, call.id, ask.seq, ask.rewinds),
            options=call.options or self._options.replace(**_OWN),
            encode=self._values.encode,
            nonce=call_nonce(self.record, ask.seq, ask.rewinds),
            now=now,
        )
        step = ask.seq if call.waits else -ask.seq if call.on_parent_end == "cancel" else 0
        return replace(
            record,
            parent=self.record.id,
            parent_step=step,
            code_fingerprint=self._fingerprint(ref),
            environment_id=self.record.environment_id,
        )
