"""Operations of one transaction, decided in order, each on the records as the ones before it left them.

A store reads the records that :class:`Transaction` asks for, and writes all its decisions in the same transaction.
Operations on other executions and on locks are decided here too: they are applied in the transaction of the journal
entry that asked for them, or not at all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from rayflow.core.events import Entry, RequestCompleted, label
from rayflow.core.failures import failure_of
from rayflow.core.locks.machine import Claimant, Lock
from rayflow.errors import (
    ExecutionNotFound,
    Failure,
    RayflowError,
    SingletonConflict,
    WriterFenced,
)
from rayflow.storage.codec.journal import encode_entry
from rayflow.storage.damage import DamagedRecord
from rayflow.storage.model import (
    DeadLetter,
    ExecutionRecord,
    InboxRow,
    JournalRow,
    KeyedRecord,
    ScheduleRecord,
    StepNote,
    ValueReference,
)
from rayflow.storage.operations import (
    Answer,
    Append,
    Deliver,
    DeliverTo,
    Done,
    ExecutionOperation,
    ExpireLeases,
    FailLockWait,
    FireSchedule,
    LeaveLease,
    Operation,
    PutRecord,
    Rejected,
    ReleaseLock,
    Rewind,
    Start,
    StartChild,
    TakeLease,
    TakeLock,
)
from rayflow.storage.rules.children import ChildRules
from rayflow.storage.rules.executions import Write, decide, is_rewound, newer_note
from rayflow.storage.rules.large_values import check_there, references_of
from rayflow.storage.rules.locks import LockRules
from rayflow.storage.rules.protocols import Reads


class Transaction:
    """Decisions of one transaction; see the module's docstring.

    Attributes:
        heads: the rows after the operations so far; None for executions that do not exist.
        started, changed: the executions to insert, and to update.
        schedules: the changed schedules.
        records: changed keyed records, by kind and key; None for deleted ones.
    """

    def __init__(self, reads: Reads) -> None:
        self._reads = reads
        self.heads: dict[str, ExecutionRecord | None] = {}
        self._keys: set[tuple[str, str]] = set()
        self._singletons: dict[str, str | None] = {}
        self.started: list[str] = []
        self.changed: dict[str, None] = {}
        self.journal: list[tuple[str, JournalRow]] = []
        self.journal_from: dict[str, int] = {}
        self.inputs: dict[str, bytes] = {}
        self.inbox: list[tuple[str, InboxRow]] = []
        #: By execution and step, to be written after what ``letters_after`` says is deleted.
        self.letters: dict[tuple[str, int], DeadLetter] = {}
        self.letters_after: dict[str, int] = {}
        self.notes: dict[tuple[str, int], StepNote] = {}
        self.counts: dict[str, float] = {}
        #: What the records of this batch refer to; to be written before those of ``journal_from`` are forgotten.
        self.references: list[ValueReference] = []
        self._locks = LockRules(self, reads)
        self._children = ChildRules(self, reads)
        self.schedules: dict[str, ScheduleRecord] = {}
        self.records: dict[tuple[str, str], KeyedRecord | None] = {}
        self._touched: dict[str, None] = {}
        self._continuing: str | None = None

    def apply(self, operation: Operation) -> Answer:
        """Decide one operation and collect what it writes."""
        self._touched, self._continuing = {}, None
        match operation:
            case TakeLease() | LeaveLease() | ExpireLeases() | FailLockWait():
                return self._of_lock(operation)
            case FireSchedule():
                return self._fire(operation)
            case PutRecord():
                return self._put_record(operation)
            case Rewind():
                return self._rewind(operation)
            case _:
                return self._of_execution(operation)

    def _of_execution(self, operation: ExecutionOperation) -> Answer:
        if isinstance(operation, Start):
            refused = self._refused_start(operation.record)
            if refused is not None:
                return Rejected(refused)
        name = operation.execution_id
        before = self.head(name)
        known = isinstance(operation, Deliver) and self._had_key(name, operation.row.key)
        decision = decide(before, operation, known_key=known)
        if not isinstance(decision, Write):
            return decision
        missing = check_there(operation, decision, self._reads.has_value)
        if missing is not None:
            return Rejected(missing)
        self._note(name, before, decision)
        if isinstance(operation, Append) and decision.rows:
            self._cross(decision.record, operation)
            for record in operation.records:
                self._write_record(record)
            self.records.update(dict.fromkeys(operation.no_records))
        return self._answer(name, decision.answer)

    def _rewind(self, operation: Rewind) -> Answer:
        """Rewind an execution together with its children: all of them or none."""
        record = self.head(operation.execution_id)
        again = record is not None and is_rewound(record, operation)
        decided: list[tuple[str, ExecutionRecord | None, Write]] = []
        singletons: dict[str, str] = {}
        for member in (*(() if again else operation.children), operation):
            before = self.head(member.execution_id)
            refused = None if before is None else self._taken(before, singletons)
            decision = Rejected(refused) if refused else decide(before, member, with_parent=member is not operation)
            if not isinstance(decision, Write):
                return decision
            singletons[decision.record.singleton] = member.execution_id
            decided.append((member.execution_id, before, decision))
        for name, before, decision in decided:
            self._note(name, before, decision)
            self._touched[name] = None
        return self._answer(operation.execution_id, decided[-1][2].answer)

    def _answer(self, name: str, answer: Done) -> Done:
        """Return the answer with all that this operation changed elsewhere."""
        record = self.heads[name]
        assert record is not None
        touched = tuple(other for other in self._touched if other != name)
        return replace(answer, inbox_last=record.inbox_last, touched=touched)

    def head(self, execution_id: str) -> ExecutionRecord | None:
        """Return an execution's row after the operations so far, or None."""
        if execution_id not in self.heads:
            self.heads[execution_id] = self._reads.head(execution_id)
        return self.heads[execution_id]

    def _had_key(self, execution_id: str, key: str) -> bool:
        return (execution_id, key) in self._keys or self._reads.had_key(execution_id, key)

    def _holder(self, singleton: str) -> str | None:
        if singleton not in self._singletons:
            self._singletons[singleton] = self._reads.singleton(singleton)
        return self._singletons[singleton]

    def _note(self, name: str, before: ExecutionRecord | None, decision: Write) -> None:
        if before is None:
            self.started.append(name)
        elif decision.record is not before:
            self.changed[name] = None
        self._settle_singleton(name, before, decision.record)
        self.heads[name] = decision.record
        self.references.extend(references_of(name, decision, started=before is None))
        self.journal.extend((name, row) for row in decision.rows)
        if decision.journal_from is not None:
            self.journal_from[name] = decision.journal_from
            self._forget_notes(name)
        if decision.next_run is not None:
            self.inputs[name] = decision.next_run
        self.inbox.extend((name, row) for row in decision.inbox)
        self._keys.update((name, row.key) for row in decision.inbox)
        if decision.letters_after is not None:
            self._drop_letters(name, decision.letters_after)
        self.letters.update(((name, letter.step), letter) for letter in decision.letters)
        for note in decision.notes:
            self.notes[name, note.step] = newer_note(self.notes.get((name, note.step)), note)
        for counter, amount in decision.counts.items():
            self.counts[counter] = self.counts.get(counter, 0) + amount

    def _settle_singleton(self, name: str, before: ExecutionRecord | None, record: ExecutionRecord) -> None:
        if record.singleton and (before is None or before.status.terminal != record.status.terminal):
            holder = self._holder(record.singleton)
            if not record.status.terminal:
                self._singletons[record.singleton] = name
            elif holder == name:
                self._singletons[record.singleton] = None

    def _drop_letters(self, name: str, after: int) -> None:
        self.letters_after[name] = min(after, self.letters_after.get(name, after))
        for key, letter in list(self.letters.items()):
            if key[0] == name and letter.seq > after:
                del self.letters[key]

    def _forget_notes(self, name: str) -> None:
        """Drop the notes of this transaction; the stored ones are deleted before later notes are written."""
        self.notes = {key: note for key, note in self.notes.items() if key[0] != name}

    def _refused_start(self, record: ExecutionRecord) -> RayflowError | None:
        return self._refused_starts([record])

    def _taken(self, record: ExecutionRecord, besides: Mapping[str, str]) -> RayflowError | None:
        """Return the conflict with another unfinished execution of the same singleton key, if there is one."""
        holder = (besides.get(record.singleton) or self._holder(record.singleton)) if record.singleton else None
        if holder is None or holder == record.id:
            return None
        return SingletonConflict(record.singleton, execution_id=holder)

    def _refused_starts(self, records: Sequence[ExecutionRecord]) -> RayflowError | None:
        """Return why these executions cannot be started together; None if they can."""
        singletons: dict[str, str] = {}
        for record in records:
            refused = None if self.head(record.id) is not None else self._taken(record, singletons)
            if refused is not None:
                return refused
            singletons[record.singleton] = record.id
        return None

    def start(self, record: ExecutionRecord) -> RayflowError | None:
        """Start an execution that does not exist; return the reason if it cannot be started."""
        refused = self._refused_start(record)
        if refused is None:
            decision = decide(None, Start(record))
            assert isinstance(decision, Write)
            self._note(record.id, None, decision)
            self._touched[record.id] = None
        return refused

    def _fire(self, operation: FireSchedule) -> Answer:
        record = operation.record
        known = self.schedules.get(record.name) or self._reads.schedule(record.name)
        if known is None or known.version != record.version - 1:
            seen = "gone" if known is None else f"at version {known.version}"
            return Rejected(
                WriterFenced(f"schedule {record.name!r} is {seen}; its version {record.version} cannot be written")
            )
        refused = self._refused_starts(operation.starts)
        if refused is not None:
            return Rejected(refused)
        self.schedules[record.name] = record
        for start in operation.starts:
            if self.head(start.id) is None:
                self.start(start)
        for send in operation.cancels:
            self.deliver(send.execution_id, send.row)
        return Done(0, 0, 0, touched=tuple(self._touched))

    def _record(self, kind: str, key: str) -> KeyedRecord | None:
        return self.records[kind, key] if (kind, key) in self.records else self._reads.record(kind, key)

    def _write_record(self, record: KeyedRecord) -> None:
        known = self._record(record.kind, record.key)
        self.records[record.kind, record.key] = replace(record, version=1 if known is None else known.version + 1)

    def _put_record(self, operation: PutRecord) -> Answer:
        record, expected = operation.record, operation.expected
        known = self._record(record.kind, record.key)
        version = 0 if known is None else known.version
        if expected not in (None, version):
            seen = f"has version {version}" if version else "does not exist"
            return Rejected(
                WriterFenced(f"{record.kind} {record.key!r} {seen}; it cannot be written over version {expected}")
            )
        if operation.delete:
            self.records[record.kind, record.key] = None
        else:
            self._write_record(record)
        return Done(0, 0, 0)

    def _cross(self, record: ExecutionRecord, operation: Append) -> None:
        self._continuing = None if operation.next_run is None else record.id
        for ask in operation.asks:
            match ask:
                case StartChild():
                    self._children.start_child(record.id, ask, operation)
                case DeliverTo():
                    failure = self._send(ask)
                    if ask.step:
                        self.tell(record.id, ask.step, label("signal", ask.name), operation, failure=failure)
                case TakeLock():
                    refused = self._locks.take(record.id, ask, operation.at, f"answer/{ask.step}/{operation.first_seq}")
                    if refused is not None:
                        self.tell(record.id, ask.step, label("lock", ask.name), operation, failure=refused)
                case ReleaseLock():
                    self._locks.leave(ask.name, Claimant(record.id, ask.step), operation.at)
        head = self.heads[record.id]
        assert head is not None
        if head.status.terminal and head.claims:
            self._locks.leave_all(record.id, operation.at)
        if head.status.terminal:
            self._children.ended(head, operation)

    def _send(self, ask: DeliverTo) -> RayflowError | None:
        head = self.head(ask.execution_id)
        if ask.start_nonce and head is not None and head.start_nonce != ask.start_nonce:
            return ExecutionNotFound(ask.execution_id)
        refused = self.deliver(ask.execution_id, ask.row)
        return refused.error if isinstance(refused, Rejected) else None

    def deliver(self, execution_id: str, row: InboxRow) -> Answer:
        """Add a row to an inbox."""
        before = self.head(execution_id)
        if before is None:
            return Rejected(ExecutionNotFound(execution_id))
        known = self._had_key(execution_id, row.key)
        decision = decide(before, Deliver(execution_id, row), known_key=known)
        if not isinstance(decision, Write):
            return decision
        self._note(execution_id, before, decision)
        self._touched[execution_id] = None
        return decision.answer

    def tell(
        self,
        execution_id: str,
        step: int,
        about: str,
        operation: Append,
        *,
        value: str | None = None,
        failure: RayflowError | Failure | None = None,
    ) -> None:
        """Answer a request of this append, with a value or a failure."""
        why = failure_of(failure) if isinstance(failure, RayflowError) else failure
        answer = RequestCompleted(operation.at, step, about, value, failure=why, worker=value or "")
        self.put_answer(execution_id, answer, f"answer/{step}/{operation.first_seq}")

    def put_answer(self, execution_id: str, answer: RequestCompleted, key: str) -> None:
        """Add the answer to a request to the execution's inbox, unless its run ends with this append."""
        head = self.head(execution_id)
        if head is not None and execution_id != self._continuing:
            body = encode_entry(Entry(0, replace(answer, run=head.run)))
            self.deliver(execution_id, InboxRow(key, "answer", body, answer.at))

    def claims_changed(self, execution_id: str, change: int) -> None:
        """Add to the number of lock permits that an execution holds or waits for."""
        head = self.head(execution_id)
        if head is not None and not isinstance(head, DamagedRecord):
            self.heads[execution_id] = replace(head, claims=head.claims + change)
            if execution_id not in self.started:
                self.changed[execution_id] = None

    @property
    def locks(self) -> dict[str, tuple[Lock | None, Lock]]:
        """Return the changed locks: each before and after."""
        return self._locks.changed

    def _of_lock(self, operation: TakeLease | LeaveLease | ExpireLeases | FailLockWait) -> Answer:
        try:
            token = self._locks.apply(operation)
        except RayflowError as error:
            return Rejected(error)
        return Done(0, 0, 0, touched=tuple(self._touched), token=token)
