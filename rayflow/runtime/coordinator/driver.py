"""Drives one execution: the shell between its machine and the store.

It owns the claim, the encoding of journal entries, and what has been written so far. It has no thread: its
coordinator calls it from one thread only, sends the operations that it hands out, and brings back the answers.
The order is always the same: entries are made, they are committed, then what they call for is done.
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

#: Seconds after which an execution is taken up again whose code could not read a value.
VALUE_AGAIN = 1.0


class ExecutionDriver:
    """One execution, as its coordinator holds it.

    Args:
        record: the execution's row, as it was when this coordinator was told to drive it.
        nonce: the coordinator's own, for claims.
        coordinator: the coordinator's name, for people.
        codec: reads and writes payloads.
        source: loads code, and reads what that uses.
        config: how actors run: after how long what only waits is parked, and for how long what is over is kept.
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
        self._stand(record)
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
        self._scribe = OperationBuilder(
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
        #: The journal that is being taken up.
        self._journal: Sequence[JournalRow] = ()
        #: What steps said of themselves and is not written yet, by their numbers.
        self.notes: dict[int, StepNote] = {}

    def _stand(self, record: ExecutionRecord) -> None:
        """What is durable is what the execution's row says."""
        self.record = record
        self._last_seq = self._durable = record.last_seq
        self._inbox_done = record.inbox_done

    # --- taking up -----------------------------------------------------------------------------------------
    def claim(self, now: float) -> Claim:
        """The operation that makes this coordinator the owner."""
        return Claim(self.id, self.record.epoch, self._nonce, self._coordinator, now)

    def begin(self, now: float) -> None:
        """Start a new execution: its claim goes out together with its first entry."""
        self._unclaimed = True
        self._load(lambda execution: execution.begin(now), now)

    def restore(
        self, record: ExecutionRecord, journal: Sequence[JournalRow], inbox: Sequence[InboxRow], now: float
    ) -> None:
        """Take the execution up where its journal ends, after the claim was granted."""
        self._stand(record)
        self._scribe.record = record
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
        self.log.info("execution %s taken up at entry %d, epoch %d", self.id, self._last_seq, self.epoch)

    def set_damaged(self, error: CorruptRecord, now: float) -> None:
        """The claim was granted, but what is to be taken up cannot be read at all."""
        self._block(error, now, self.record.inbox_last)
        self.dirty = True

    def _load(self, go: Callable[[Execution], None], now: float, *, seen: int = 0) -> None:
        try:
            self._row.check()
            definition = load_definition(self.record, self.code, self._source, self.log)
            self._scribe.workflow_retention = definition.retention
            machine = Machine(
                # Read each time it begins: the code may change what it is given.
                lambda: definition.begin(*read_input(self.record, self._codec)),
                execution_id=self.id,
                workflow_id=self.record.workflow_id,
                payloads=self._codec,
                check=definition.bind,
                on_unhandled=self._unhandled,
            )
            self._execution = Execution(machine, self.options, deadline=self.record.deadline)
            go(self._execution)
            self.values.check()
        except Exception as raised:  # noqa: BLE001 - a module may raise anything while it is imported
            failed, self.values.failed = self.values.failed, None
            error = failed or raised  # what the code made of a value that it could not read does not count
            if isinstance(error, ClusterError | StorageUnavailable):
                self.evict()
                raise error from None  # it may be there in a moment; the coordinator tries again
            # Code that is gone or does not repeat itself, payloads that cannot be read: nothing was performed, and
            # nothing of the execution may be lost by going on without them.
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
        self.log.error("execution %s is paused: %s", self.id, reason.message)
        # What waits in the inbox stays there, for mended code.
        self._work = Work(status=ExecutionStatus.PAUSED, reason=self._blocked)
        self._last_seq = self._durable
        known = self._paused_for()
        same = known is not None and (known.type, known.message) == (self._blocked.type, self._blocked.message)
        self._entries = [] if same else [Entry(self._last_seq + 1, Paused(now, reason.message))]

    def _paused_for(self) -> Failure | None:
        return failure_or_damage(self.record) if self.record.status is ExecutionStatus.PAUSED else None

    def _unhandled(self, message: str, error: BaseException | None) -> None:
        self.log.warning("execution %s: %s", self.id, message, exc_info=error)

    # --- what happens --------------------------------------------------------------------------------------
    @property
    def execution(self) -> Execution | None:
        """The machine; None while it is not loaded, or its code cannot be."""
        return self._execution

    @property
    def blocked(self) -> bool:
        """Whether its code cannot be loaded, or does not repeat itself."""
        return self._blocked is not None

    @property
    def inbox_seen(self) -> int:
        """The newest inbox row that was read."""
        return self._blocked_seen if self._execution is None else self._execution.inbox_seen

    def receive(self, rows: Sequence[InboxRow], now: float) -> None:
        """Inbox rows arrived. Raises CorruptRecord, and has done nothing, if one is damaged."""
        self._receive(items_of(self.id, rows), now)

    def outcome(self, outcome: TaskOutcome, worker: str, now: float) -> None:
        """An attempt ended, with a result or a failure."""
        key = (outcome.seq, outcome.attempt)
        about: dict[str, Any] = {"began": outcome.began, "worker": worker, "now": now}
        execution = self._execution
        assert execution is not None
        if outcome.result is not None:
            execution.completed(*key, outcome.result, **about)
        elif outcome.failure is not None and outcome.unreadable:
            self.set_aside(CorruptRecord(self.id, outcome.failure.message), now)
        elif outcome.failure is not None:
            execution.failed(*key, outcome.failure, **about)

    def note(self, step: int, attempt: int, at: float, body: bytes, *, kind: str = "progress") -> None:
        """Keep what a step says of itself; it is written with the next entries, or soon."""
        self.notes[step] = StepNote(step, attempt, at, kind, body)

    def _receive(self, items: Sequence[tuple[int, InboxItem]], now: float) -> None:
        if self._execution is None:
            return
        for number, item in items:
            self._execution.inbox(number, item, now)
        self.dirty = True

    # --- writing -------------------------------------------------------------------------------------------
    def hurry(self) -> list[Action]:
        """Actions that need not wait for the journal, where the execution's checkpoints allow it."""
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
        """What has to be written now; the answers go to :meth:`committed`.

        Raises:
            ClusterError, StorageUnavailable: the code of a child cannot be stored now; call it again later.
        """
        if self.values.failed is not None and (given_up := self._without_value(now)):
            return given_up
        self._collect()
        asks = self._scribe.asks(self._work.asks, now)
        self.dirty = False
        operations: list[Operation] = []
        if self._unclaimed:
            operations.append(self.claim(now))
            self._unclaimed, self._sent_claim = False, True
        work, self._work = self._work, Work()
        if self._entries:
            operations.append(self._scribe.append(self._entries, work, asks, now, waits=self._changed_waits()))
            self._last_seq = self._entries[-1].seq
            self._inbox_done = max(self._inbox_done, work.inbox_done)
            self._entries = []
        else:
            self._work.counts.update(work.counts)  # they go with the next entry
            self._work.letters.extend(work.letters)
        operations.extend(self._scribe.hold(outcome) for outcome in work.holds)
        # Inbox rows that were passed over have no entry, and would count as unread.
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
        """The code could not read a value. What it has done since is not recorded, and happens again once it can.

        Results that came meanwhile are kept by the inbox, so that no step runs again.
        """
        error, self.values.failed = self.values.failed, None
        assert error is not None
        if isinstance(error, CorruptRecord):
            self._block(error, now, self.inbox_seen)
            return []
        self.log.warning("execution %s is begun anew from its journal: %s", self.id, error)
        self._collect()
        held = [self._scribe.hold(e.event) for e in self._entries if isinstance(e.event, StepCompleted)]
        self.evict()
        self._entries, self._work, self._sent = [], Work(), Work()
        self.dirty, self._sent_release = False, True
        return [*held, Park(self.id, self.epoch, runnable_at=now + VALUE_AGAIN, at=now)]

    def _changed_waits(self) -> str | None:
        """The signals that the code waits for, if that changed: senders look there what they have to be."""
        signals = () if self._execution is None else self._execution.awaited_signals
        said = WaitsFor(signals).to_text()
        if said == self._waits:
            return None
        self._waits = said
        return said

    def _release(self, now: float) -> Park:
        execution = self._execution
        wake = None if execution is None else execution.next_wake()
        waits = "" if execution is None else execution.waits(self._scribe.child_id).to_text()
        return Park(self.id, self.epoch, runnable_at=wake, at=now, seen=self.inbox_seen, waits=waits)

    def _collect(self) -> None:
        if self._execution is None:
            return
        work = self._execution.take()
        self._entries.extend(work.entries)
        work.put_after(self._work)
        self._work = work

    def _parkable(self, work: Work, now: float) -> bool:
        execution = self._execution
        if execution is None:
            return self._blocked is not None
        if work.actions or not execution.idle:
            return False
        return execution.paused or parked_at(execution, self._active_at + self._park_after) <= now

    def next_wake(self) -> float | None:
        """When something is due by itself: a timer, a timeout, or that it is parked."""
        if self._execution is None:
            return None
        wake, park = self._execution.next_wake(), parked_at(self._execution, self._active_at + self._park_after)
        soonest = park if wake is None else min(wake, park)
        return None if soonest == math.inf else soonest

    def committed(self, answers: Sequence[Answer], now: float) -> CommitResult:
        """The operations are durable, or refused. Answers what is to be done now.

        Sets ``over`` when this coordinator has nothing to do with the execution any more.

        Raises:
            RayflowError: the store refused an operation: stop driving the execution.
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
        if work.outcome is not None or work.run is not None or released:
            self.over = True
        elif newest <= self.inbox_seen and self._parkable(work, now):
            self.dirty = True  # the next round parks it
        touched = tuple(name for a in answers if isinstance(a, Done) for name in a.touched)
        if work.run is not None:
            touched = (*touched, self.id)  # its next run is driven like any other execution
        return CommitResult(work.actions, newest, touched)

    def set_aside(self, error: RayflowError, now: float) -> bool:
        """The store refused to write it: pause it with the reason, or begin anew. Answers whether that can be done."""
        if self._blocked is not None or self._unclaimed:
            return False
        self.over = False
        self._sent = None
        if isinstance(error, StorageUnavailable):  # what it refers to was collected before it could be written
            self.values.failed = error
        else:
            self._block(error, now, self.inbox_seen)
        return True

    def evict(self) -> None:
        """Drop the workflow's code."""
        if self._execution is not None:
            self._execution.evict()
            self._execution = None


#: Seconds ahead of its next timer at which an execution is not parked any more.
PARK_AHEAD = 2.0


class CommitResult(NamedTuple):
    """What follows from a commit.

    Args:
        actions: to be done now.
        newest: the newest inbox row of the execution.
        touched: other executions that have something new in their inboxes, or were started.
    """

    actions: list[Action]
    newest: int
    touched: tuple[str, ...]


def items_of(execution_id: str, rows: Sequence[InboxRow]) -> list[tuple[int, InboxItem]]:
    """What inbox rows hold, with their numbers. Raises CorruptRecord."""
    items: list[tuple[int, InboxItem]] = []
    for row in rows:
        event = decode_entry(execution_id, 0, row.body, where=f"inbox row {row.number}").event
        if not isinstance(event, InboxItem):
            raise CorruptRecord(execution_id, f"inbox row {row.number} holds a {type(event).__name__}")
        items.append((row.number, event))
    return items


def is_fresh(record: ExecutionRecord) -> bool:
    """Whether an execution has never been driven: it can be claimed and begun in one transaction."""
    return record.last_seq == 0 and record.epoch == 0 and record.inbox_last == 0


def parked_at(execution: Execution, quiet: float) -> float:
    """When an execution is parked, if nothing happens until then: infinity if it is not.

    Args:
        execution: the machine.
        quiet: when nothing has happened for long enough.
    """
    if not execution.idle or execution.outcome is not None:
        return math.inf
    wake = execution.next_wake()
    return quiet if wake is None or wake > quiet + PARK_AHEAD else math.inf
