"""Driver of one execution: the shell between its machine and the store.

The driver owns the claim, the encoding of journal entries, and the record of the written entries. It has no thread:
the coordinator calls it from its own thread, sends the operations that the driver returns, and brings back the answers.
The order is always the same: entries are made, they are committed, then their actions are carried out.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

from rayflow.core.events import Entry, Paused, StepCompleted
from rayflow.core.execution.execution import Action, Execution, InboxItem, Work
from rayflow.core.execution.requests import WaitsFor
from rayflow.core.interpreter.machine import Machine, failure_of
from rayflow.definition.options import EngineConfig
from rayflow.errors import ClusterError, CorruptRecord, Failure, RayflowError, StorageUnavailable
from rayflow.ids import ExecutionStatus
from rayflow.runtime.code.loader import CodeSource, load_definition, named, read_input, read_row
from rayflow.runtime.coordinator.operation_builder import OperationBuilder
from rayflow.runtime.large_values import CodeValues
from rayflow.runtime.messages import TaskOutcome
from rayflow.storage.codec.journal import decode_entry
from rayflow.storage.codec.payloads import MsgpackCodec
from rayflow.storage.damage import damage_failure, entries_of, failure_or_damage, remedy
from rayflow.storage.model import ExecutionRecord, InboxRow, JournalRow, StepNote
from rayflow.storage.operations import Answer, Claim, Done, Note, Operation, Park, Rejected

log = logging.getLogger(__name__)

#: Seconds after which an execution is driven again whose code could not read a value.
VALUE_RETRY = 1.0


class ExecutionDriver:
    """One execution, as its coordinator holds it.

    Args:
        record: the execution's row at the time of the assignment.
        nonce: the coordinator's nonce for claims.
        coordinator: the coordinator's name, for messages.
        source: loads code, and what that reads.
        config: `park_idle_after` and `retention` of the engine.
    """

    def __init__(
        self,
        record: ExecutionRecord,
        *,
        nonce: str,
        coordinator: str,
        codec: MsgpackCodec,
        source: CodeSource,
        config: EngineConfig,
    ) -> None:
        self._reset_to(record)
        self.id = record.id
        self.epoch = record.epoch + 1
        self._row = read_row(record)
        self.options, self.code = self._row.options, self._row.code
        self.dirty = self.over = False
        self.wake: float | None = None
        self.log = logging.LoggerAdapter(log, {"execution": record.id})
        self._nonce, self._coordinator = nonce, coordinator
        self.values = CodeValues(codec, source.read, record.id, config.large_value_bytes)
        self._codec = self.values.codec
        self._source = source
        options = self.options
        self._builder = OperationBuilder(
            record, self.epoch, self.values, source.refer, options,
            fingerprint=partial(source.fingerprint, record.code_fingerprint), retention=config.retention,
        )  # fmt: skip
        self._park_after, self._active_at = config.park_idle_after, 0.0
        self._waits = record.waits
        self._execution: Execution | None = None
        self._unclaimed = self._sent_claim = self._sent_release = False
        self._entries: list[Entry] = []
        self._work = Work()
        self._sent: Work | None = None
        self._blocked: Failure | None = None
        self._blocked_seen = 0
        #: The journal that is being restored.
        self._journal: Sequence[JournalRow] = ()
        #: Progress notes of steps that are not written yet, by step number.
        self.notes: dict[int, StepNote] = {}

    def _reset_to(self, record: ExecutionRecord) -> None:
        """Take the execution's row as the durable state."""
        self.record = record
        self._last_seq = self._durable = record.last_seq
        self._inbox_done = record.inbox_done

    def claim(self, now: float) -> Claim:
        """Return the operation that makes this coordinator the owner."""
        return Claim(self.id, self.record.epoch, self._nonce, self._coordinator, now)

    def begin(self, now: float) -> None:
        """Start a new execution: its claim is written with its first entry."""
        self._unclaimed = True
        self._load(lambda execution: execution.begin(now), now)

    def restore(
        self, record: ExecutionRecord, journal: Sequence[JournalRow], inbox: Sequence[InboxRow], now: float
    ) -> None:
        """Restore the execution to the end of its journal, after the claim was granted."""
        self._reset_to(record)
        self._builder.record = record
        self._active_at = now

        def go(execution: Execution) -> None:
            items = items_of(self.id, inbox)
            if not journal and record.last_seq == 0:
                execution.begin(now)
                self._receive(items, now)
                return
            execution.restore(entries_of(record, journal), items, now, seen=record.inbox_done)

        self._journal = journal
        self._load(go, now, seen=record.inbox_last)
        self._journal = ()
        self.log.info("restored execution %s to entry %d, epoch %d", self.id, self._last_seq, self.epoch)

    def set_damaged(self, error: CorruptRecord, now: float) -> None:
        """Block an execution that was claimed, but cannot be read."""
        self._block(error, now, self.record.inbox_last)
        self.dirty = True

    def _load(self, go: Callable[[Execution], None], now: float, *, seen: int = 0) -> None:
        try:
            self._row.check()
            definition = load_definition(self.record, self.code, self._source, self.log)
            self._builder.workflow_retention = definition.retention
            machine = Machine(
                # Read at each start: the code may change the objects that it receives.
                lambda: definition.begin(*read_input(self.record, self._codec)),
                execution_id=self.id,
                workflow_id=self.record.workflow_id,
                payloads=self._codec,
                seed=self.record.seed,
                check=definition.bind,
                on_unhandled=self._unhandled,
            )
            self._execution = Execution(machine, self.options, deadline=self.record.deadline)
            go(self._execution)
            self.values.check()
        except Exception as raised:  # noqa: BLE001 - a module may raise anything while it is imported
            failed, self.values.failed = self.values.failed, None
            error = failed or raised  # what the code does without a value that could not be read does not count
            if isinstance(error, ClusterError | StorageUnavailable):
                self.evict()
                raise error from None  # temporary; the coordinator tries again
            # The code is missing or not deterministic, or a payload cannot be read. Nothing was performed, and
            # continuing could lose a part of the execution.
            self._block(error, now, seen)
        self.dirty = True

    def _block(self, error: Exception, now: float, seen: int) -> None:
        if self._execution is not None:
            self._execution.evict()
            self._execution = None
        error = named(error, self.id)
        if isinstance(error, CorruptRecord):
            reason = damage_failure(error, remedy(self.record, self._journal))
        else:
            reason = failure_of(error)
        self._blocked, self._blocked_seen = reason, seen
        self.log.error("pausing execution %s: %s", self.id, reason.message)
        # Inbox rows stay unread, for the fixed code.
        self._work = Work(status=ExecutionStatus.PAUSED, reason=self._blocked)
        self._last_seq = self._durable
        known = self._paused_for()
        same = known is not None and (known.type, known.message) == (self._blocked.type, self._blocked.message)
        self._entries = [] if same else [Entry(self._last_seq + 1, Paused(now, reason.message))]

    def _paused_for(self) -> Failure | None:
        return failure_or_damage(self.record) if self.record.status is ExecutionStatus.PAUSED else None

    def _unhandled(self, message: str, error: BaseException | None) -> None:
        self.log.warning("execution %s: %s", self.id, message, exc_info=error)

    @property
    def execution(self) -> Execution | None:
        """Return the machine; None while its code is not loaded or cannot be."""
        return self._execution

    @property
    def blocked(self) -> bool:
        """Return whether the code cannot be loaded, or is not deterministic."""
        return self._blocked is not None

    @property
    def inbox_seen(self) -> int:
        """Return the number of the newest inbox row that was read."""
        return self._blocked_seen if self._execution is None else self._execution.inbox_seen

    def receive(self, rows: Sequence[InboxRow], now: float) -> None:
        """Apply inbox rows. Raises CorruptRecord, and applies none, if one is damaged."""
        self._receive(items_of(self.id, rows), now)

    def outcome(self, outcome: TaskOutcome, worker: str, now: float) -> None:
        """Apply the result or failure of an attempt."""
        key = (outcome.seq, outcome.attempt)
        about: dict[str, Any] = {"began": outcome.began, "worker": worker, "now": now}
        execution = self._execution
        assert execution is not None
        if outcome.result is not None:
            execution.completed(*key, outcome.result, **about)
        elif outcome.failure is not None and outcome.unreadable:
            self.quarantine(CorruptRecord(self.id, outcome.failure.message), now)
        elif outcome.failure is not None:
            execution.failed(*key, outcome.failure, **about)

    def note(self, step: int, attempt: int, at: float, body: bytes, *, kind: str = "progress") -> None:
        """Keep a progress note of a step; it is written with the next entries, or soon."""
        self.notes[step] = StepNote(step, attempt, at, kind, body)

    def _receive(self, items: Sequence[tuple[int, InboxItem]], now: float) -> None:
        if self._execution is None:
            return
        for number, item in items:
            self._execution.inbox(number, item, now)
        self.dirty = True

    def ready_early(self) -> list[Action]:
        """Return the actions that need not wait for the journal, if the execution's `checkpoints` option allows it."""
        if self.options.checkpoints == "sync" or self._execution is None or self._unclaimed or self._sent_claim:
            return []
        if self.values.failed is not None:
            return []
        self._collect()
        if self._work.outcome is not None:
            return []
        actions, self._work.actions = self._work.actions, []
        return actions

    def operations(self, now: float) -> list[Operation]:
        """Return the operations to commit now; :meth:`committed` takes the answers.

        Raises:
            ClusterError, StorageUnavailable: if the code of a child cannot be stored now. Call it again later.
        """
        if self.values.failed is not None and (given_up := self._without_value(now)):
            return given_up
        self._collect()
        asks = self._builder.requests(self._work.requests, now)
        self.dirty = False
        operations: list[Operation] = []
        if self._unclaimed:
            operations.append(self.claim(now))
            self._unclaimed, self._sent_claim = False, True
        work, self._work = self._work, Work()
        if self._entries:
            operations.append(self._builder.append(self._entries, work, asks, now, waits=self._changed_waits()))
            self._last_seq = self._entries[-1].seq
            self._inbox_done = max(self._inbox_done, work.inbox_done)
            self._entries = []
        else:
            self._work.counts.update(work.counts)  # they are written with the next entry
            self._work.dead_letters.extend(work.dead_letters)
        operations.extend(self._builder.keep_outcome(outcome) for outcome in work.deferred)
        # Inbox rows that were skipped have no entry, and would count as unread.
        if (self.notes or work.inbox_done > self._inbox_done) and not self._sent_claim:
            operations.append(Note(self.id, self.epoch, tuple(self.notes.values()), work.inbox_done))
            self._inbox_done = max(self._inbox_done, work.inbox_done)
            self.notes = {}
        if operations:
            self._active_at = now
        elif self._parkable(work, now):
            operations.append(self._release(now))
            self._sent_release = True
        self._sent = work
        return operations

    def _without_value(self, now: float) -> list[Operation]:
        """Drop what the code did without a value that it could not read: it happens again from the journal.

        Results that arrived during this time are kept in the inbox, so that no step runs again.
        """
        error, self.values.failed = self.values.failed, None
        assert error is not None
        if isinstance(error, CorruptRecord):
            self._block(error, now, self.inbox_seen)
            return []
        self.log.warning("restoring execution %s from its journal again: %s", self.id, error)
        self._collect()
        outcomes = [self._builder.keep_outcome(e.event) for e in self._entries if isinstance(e.event, StepCompleted)]
        self.evict()
        self._entries, self._work, self._sent = [], Work(), Work()
        self.dirty, self._sent_release = False, True
        return [*outcomes, Park(self.id, self.epoch, runnable_at=now + VALUE_RETRY, at=now)]

    def _changed_waits(self) -> str | None:
        """Return the signals that the code waits for, if they have changed: senders check their types there."""
        signals = () if self._execution is None else self._execution.awaited_signals
        said = WaitsFor(signals).to_text()
        if said == self._waits:
            return None
        self._waits = said
        return said

    def _release(self, now: float) -> Park:
        execution = self._execution
        wake = None if execution is None else execution.next_wake()
        waits = "" if execution is None else execution.waits_for(self._builder.child_id).to_text()
        return Park(self.id, self.epoch, runnable_at=wake, at=now, seen=self.inbox_seen, waits=waits)

    def _collect(self) -> None:
        if self._execution is None:
            return
        work = self._execution.take()
        self._entries.extend(work.entries)
        work.prepend(self._work)
        self._work = work

    def _parkable(self, work: Work, now: float) -> bool:
        execution = self._execution
        if execution is None:
            return self._blocked is not None
        if work.actions or not execution.idle or not execution.recorded:
            return False
        return execution.paused or parked_at(execution, self._active_at + self._park_after) <= now

    def next_wake(self) -> float | None:
        """Return when something is due without a message: a timer, a timeout, or parking."""
        if self._execution is None:
            return None
        wake, park = self._execution.next_wake(), parked_at(self._execution, self._active_at + self._park_after)
        soonest = park if wake is None else min(wake, park)
        return None if soonest == math.inf else soonest

    def committed(self, answers: Sequence[Answer], now: float) -> CommitResult:
        """Process the results of the store, and return the actions to perform now.

        Sets ``over`` when this coordinator no longer drives the execution.

        Raises:
            RayflowError: if the store rejected an operation; the caller stops driving the execution.
        """
        for answer in answers:
            if isinstance(answer, Rejected):
                self.over = True
                raise answer.error
        self._sent_claim = False
        self._durable = max([self._durable, *(a.last_seq for a in answers if isinstance(a, Done))])
        work, self._sent = Work() if self._sent is None else self._sent, None
        newest = max((a.inbox_last for a in answers if isinstance(a, Done)), default=0)
        released = self._sent_release and any(isinstance(a, Done) and a.parked for a in answers)
        self._sent_release = False
        if work.outcome is not None or work.next_run is not None or released:
            self.over = True
        elif newest <= self.inbox_seen and self._parkable(work, now):
            self.dirty = True  # the next commit parks it
        touched = tuple(name for a in answers if isinstance(a, Done) for name in a.touched)
        if work.next_run is not None:
            touched = (*touched, self.id)  # its next run is driven like any other execution
        return CommitResult(work.actions, newest, touched)

    def quarantine(self, error: RayflowError, now: float) -> bool:
        """Pause an execution whose write was rejected, or restore it again. Return whether that is possible."""
        if self._blocked is not None or self._unclaimed:
            return False
        self.over = False
        self._sent = None
        if isinstance(error, StorageUnavailable):  # a value that it refers to was purged before it was written
            self.values.failed = error
        else:
            self._block(error, now, self.inbox_seen)
        return True

    def evict(self) -> None:
        """Drop the workflow's code."""
        if self._execution is not None:
            self._execution.evict()
            self._execution = None


#: An execution is not parked if its next timer is due within this many seconds after it became idle.
PARK_AHEAD = 2.0


class CommitResult(NamedTuple):
    """Result of a commit.

    Args:
        actions: the actions to perform now.
        newest: number of the newest inbox row of the execution.
        touched: other executions that were started, or have new rows in their inboxes.
    """

    actions: list[Action]
    newest: int
    touched: tuple[str, ...]


def items_of(execution_id: str, rows: Sequence[InboxRow]) -> list[tuple[int, InboxItem]]:
    """Return the contents of inbox rows, with their numbers. Raises CorruptRecord."""
    items: list[tuple[int, InboxItem]] = []
    for row in rows:
        event = decode_entry(execution_id, 0, row.body, where=f"inbox row {row.number}").event
        if not isinstance(event, InboxItem):
            raise CorruptRecord(execution_id, f"inbox row {row.number} holds a {type(event).__name__}")
        items.append((row.number, event))
    return items


def is_fresh(record: ExecutionRecord) -> bool:
    """Return whether an execution has never been driven, so that it can be claimed with its first entry."""
    return record.last_seq == 0 and record.epoch == 0 and record.inbox_last == 0


def parked_at(execution: Execution, quiet: float) -> float:
    """Return when an execution is parked, if nothing happens until then; infinity if it is not idle.

    Args:
        execution: the machine.
        quiet: when it has been idle for long enough.
    """
    if not execution.idle or not execution.recorded or execution.outcome is not None:
        return math.inf
    wake = execution.next_wake()
    return quiet if wake is None or wake > quiet + PARK_AHEAD else math.inf
