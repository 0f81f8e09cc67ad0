"""Drives one execution: the shell between its machine and the store.

It owns the claim, the encoding of journal entries, and what has been written so far. It has no thread: its
coordinator calls it from one thread only, sends the operations that it hands out, and brings back the answers.
The order is always the same: entries are made, they are committed, then what they call for is done.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Callable, Sequence

from rayflow.core.actions import Letter
from rayflow.core.events import AttemptFailed, Entry, Paused, StepCompleted
from rayflow.core.execution import Action, Execution, InboxItem, RunAttempt, Work
from rayflow.core.machine import Machine, failure_of
from rayflow.definition.base import WorkflowDefinition
from rayflow.definition.code import PYTHON, CodeCache, CodeRef, source_hash
from rayflow.definition.options import ExecutionOptions
from rayflow.errors import ClusterError, Failure, IncompatibleVersion, RayflowError, StorageUnavailable
from rayflow.ids import ExecutionStatus
from rayflow.runtime.messages import BEAT_EVERY, TaskMessage
from rayflow.storage.base import (
    Answer,
    Append,
    Claim,
    DeadLetter,
    Deliver,
    Done,
    ExecutionRecord,
    InboxRow,
    JournalRow,
    Note,
    Operation,
    Refused,
    Release,
    StepNote,
)
from rayflow.storage.codec import MsgpackCodec
from rayflow.storage.records import append_digest, decode_entry, decode_failure, encode_entry, encode_failure

log = logging.getLogger(__name__)

Fetch = Callable[[str], bytes]


class Driver:
    """One execution, as its coordinator holds it.

    Args:
        record: the execution's row, as it was when this coordinator was told to drive it.
        nonce: the coordinator's own, for claims.
        coordinator: the coordinator's name, for people.
        codec: reads and writes payloads.
        cache: loads code.
        fetch: answers blobs of the store.
    """

    def __init__(
        self,
        record: ExecutionRecord,
        *,
        nonce: str,
        coordinator: str,
        codec: MsgpackCodec,
        cache: CodeCache,
        fetch: Fetch,
    ) -> None:
        self.record = record
        self.id = record.id
        self.epoch = record.epoch + 1
        self.options = ExecutionOptions.model_validate_json(record.options)
        self.code = CodeRef.from_dict(json.loads(record.code))
        self.dirty = False
        self.over = False
        self.wake: float | None = None
        self.log = logging.LoggerAdapter(log, {"execution": record.id})
        self._nonce = nonce
        self._coordinator = coordinator
        self._codec = codec
        self._cache = cache
        self._fetch = fetch
        self._execution: Execution | None = None
        self._unclaimed = False
        self._entries: list[Entry] = []
        self._work = Work()
        self._sent: Work | None = None
        self._sent_claim = False
        self._sent_release = False
        self._last_seq = self._durable = record.last_seq
        self._blocked: Failure | None = None
        self._blocked_seen = 0
        #: What steps said of themselves and is not written yet, by their numbers.
        self.notes: dict[int, StepNote] = {}

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
        self.record = record
        self._last_seq = self._durable = record.last_seq

        def go(execution: Execution) -> None:
            items = self._items(inbox)
            if not journal:
                execution.begin(now)
                self._receive(items, now)
                return
            entries = [decode_entry(self.id, row.seq, row.body) for row in journal]
            execution.restore(entries, items, now, seen=record.inbox_done)

        self._load(go, now, seen=record.inbox_last)
        self.log.info("execution %s taken up at entry %d, epoch %d", self.id, self._last_seq, self.epoch)

    def _load(self, go: Callable[[Execution], None], now: float, *, seen: int = 0) -> None:
        try:
            definition = self._definition()
            args, kwargs = self._codec.decode(self.record.input)
            machine = Machine(
                lambda: definition.begin(args, kwargs),
                execution_id=self.id,
                workflow_id=self.record.workflow_id,
                payloads=self._codec,
                on_unhandled=self._unhandled,
            )
            self._execution = Execution(machine, self.options, deadline=self.record.deadline)
            go(self._execution)
        except (ClusterError, StorageUnavailable):
            self.evict()
            raise  # it may be there in a moment; the coordinator tries again
        except Exception as error:  # noqa: BLE001 - a module may raise anything while it is imported
            # Code that is gone or does not repeat itself, payloads that cannot be read: nothing was performed, and
            # nothing of the execution may be lost by going on without them.
            self._block(error, now, seen)
        self.dirty = True

    def _definition(self) -> WorkflowDefinition:
        if self.code.python != PYTHON:
            raise IncompatibleVersion(
                f"execution {self.id!r} was started with Python {self.code.python}, and this is Python {PYTHON}, where "
                f"asyncio may order things differently; run a cluster with Python {self.code.python}"
            )
        definition: WorkflowDefinition = self._cache.load(self.code, self._fetch)
        found = getattr(definition, "id", None)
        if found != self.record.workflow_id or definition.version != self.record.version:
            raise IncompatibleVersion(
                f"{self.code.place} is workflow {found!r} version {getattr(definition, 'version', '')!r} now; "
                f"execution {self.id!r} runs {self.record.workflow_id!r} version {self.record.version!r}"
            )
        self._check_source(definition)
        return definition

    def _check_source(self, definition: WorkflowDefinition) -> None:
        seen = source_hash(definition)
        if not (seen and self.code.source_sha256) or seen == self.code.source_sha256:
            return
        message = (
            f"the source of workflow {self.record.workflow_id!r} version {self.record.version!r} ({self.code.place}) "
            f"changed since execution {self.id!r} started"
        )
        if self.options.strict_versions:
            raise IncompatibleVersion(message + "; give the changed workflow another version")
        self.log.warning("%s; it goes on, and is paused if it does not repeat itself", message)

    def _block(self, error: Exception, now: float, seen: int) -> None:
        if self._execution is not None:
            self._execution.evict()
            self._execution = None
        self._blocked, self._blocked_seen = failure_of(error), seen
        self.log.error("execution %s is paused: %s", self.id, error)
        # What waits in the inbox stays there, for mended code.
        self._work = Work(status=ExecutionStatus.PAUSED, reason=self._blocked)
        self._last_seq = self._durable
        known = self._paused_for()
        same = known is not None and (known.type, known.message) == (self._blocked.type, self._blocked.message)
        self._entries = [] if same else [Entry(self._last_seq + 1, Paused(now, str(error)))]

    def _paused_for(self) -> Failure | None:
        if self.record.status is not ExecutionStatus.PAUSED or self.record.failure is None:
            return None
        return decode_failure(self.record.failure, execution_id=self.id)

    def _unhandled(self, message: str, error: BaseException | None) -> None:
        self.log.warning("execution %s: %s", self.id, message, exc_info=error)

    # --- what happens --------------------------------------------------------------------------------------
    @property
    def execution(self) -> Execution | None:
        """The machine; None while it is not loaded, or its code cannot be."""
        return self._execution

    @property
    def inbox_seen(self) -> int:
        """The newest inbox row that was read."""
        return self._blocked_seen if self._execution is None else self._execution.inbox_seen

    def receive(self, rows: Sequence[InboxRow], now: float) -> None:
        """Inbox rows arrived."""
        self._receive(self._items(rows), now)

    def note(self, step: int, attempt: int, at: float, body: bytes, *, kind: str = "progress") -> None:
        """Keep what a step says of itself; it is written with the next entries, or soon."""
        self.notes[step] = StepNote(step, attempt, at, kind, body)

    def _receive(self, items: Sequence[tuple[int, InboxItem]], now: float) -> None:
        if self._execution is None:
            return
        for number, item in items:
            self._execution.inbox(number, item, now)
        self.dirty = True

    def _items(self, rows: Sequence[InboxRow]) -> list[tuple[int, InboxItem]]:
        items: list[tuple[int, InboxItem]] = []
        for row in rows:
            event = decode_entry(self.id, 0, row.body).event
            assert isinstance(event, InboxItem), event
            items.append((row.number, event))
        return items

    # --- writing -------------------------------------------------------------------------------------------
    def hurry(self) -> list[Action]:
        """Actions that need not wait for the journal, where the execution's checkpoints allow it."""
        if self.options.checkpoints == "sync" or self._execution is None or self._unclaimed or self._sent_claim:
            return []
        self._collect()
        if self._work.outcome is not None:
            return []
        actions, self._work.actions = self._work.actions, []
        return actions

    def operations(self, now: float) -> list[Operation]:
        """What has to be written now; the answers go to :meth:`committed`."""
        self.dirty = False
        self._collect()
        operations: list[Operation] = []
        if self._unclaimed:
            operations.append(self.claim(now))
            self._unclaimed, self._sent_claim = False, True
        work, self._work = self._work, Work()
        if self._entries:
            operations.append(self._append(self._entries, work, now))
            self._entries = []
        else:
            self._work.counts.update(work.counts)  # they go with the next entry
            self._work.letters.extend(work.letters)
        operations.extend(self._hold(outcome) for outcome in work.holds)
        if self.notes and not self._sent_claim:
            operations.append(Note(self.id, self.epoch, tuple(self.notes.values())))
            self.notes = {}
        if not operations and self._parkable(work):
            operations.append(
                Release(self.id, self.epoch, runnable_at=self._runnable_at(now), at=now, seen=self.inbox_seen)
            )
            self._sent_release = True
        self._sent = work
        return operations

    def _collect(self) -> None:
        if self._execution is None:
            return
        work = self._execution.take()
        self._entries.extend(work.entries)
        earlier, self._work = self._work, work
        work.actions[:0] = earlier.actions
        work.holds[:0] = earlier.holds
        work.counts.update(earlier.counts)
        work.letters[:0] = earlier.letters

    def _parkable(self, work: Work) -> bool:
        execution = self._execution
        if execution is None:
            return self._blocked is not None
        return execution.paused and execution.idle and not work.actions

    def _runnable_at(self, now: float) -> float | None:
        """When a paused execution is needed by itself: when its time is up, unless nobody could do anything then."""
        deadline = self.record.deadline
        return None if self._blocked is not None or deadline is None or deadline <= now else deadline

    def _append(self, entries: Sequence[Entry], work: Work, now: float) -> Append:
        rows = tuple(JournalRow(entry.seq, encode_entry(entry)) for entry in entries)
        self._last_seq = entries[-1].seq
        outcome = work.outcome
        failure = outcome.failure if outcome is not None else work.reason
        return Append(
            execution_id=self.id,
            epoch=self.epoch,
            first_seq=entries[0].seq,
            rows=rows,
            digest=append_digest(rows),
            at=now,
            status=work.status,
            inbox_done=work.inbox_done,
            result=None if outcome is None else outcome.result,
            failure=None if failure is None else encode_failure(failure),
            counts=dict(work.counts),
            dead_letters=tuple(self._dead(letter, entries[0].seq, entries[-1].seq) for letter in work.letters),
        )

    def _dead(self, letter: Letter, first: int, last: int) -> DeadLetter:
        return DeadLetter(
            execution_id=self.id,
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

    def _hold(self, outcome: StepCompleted | AttemptFailed) -> Deliver:
        key = f"outcome/{self.epoch}/{outcome.step}/{outcome.attempt}"
        row = InboxRow(key=key, kind="outcome", body=encode_entry(Entry(0, outcome)), at=outcome.at)
        return Deliver(self.id, row, epoch=self.epoch)

    def committed(self, answers: Sequence[Answer]) -> tuple[list[Action], int]:
        """The operations are durable, or refused. Answers what is to be done now, and the newest inbox row.

        Sets ``over`` when this coordinator has nothing to do with the execution any more.

        Raises:
            RayflowError: the store refused an operation: stop driving the execution.
        """
        for answer in answers:
            if isinstance(answer, Refused):
                self.over = True
                raise answer.error
        self._sent_claim = False
        self._durable = max([self._durable, *(a.last_seq for a in answers if isinstance(a, Done))])
        work, self._sent = Work() if self._sent is None else self._sent, None
        newest = max((a.inbox_last for a in answers if isinstance(a, Done)), default=0)
        released = self._sent_release and any(isinstance(a, Done) and a.parked for a in answers)
        self._sent_release = False
        if work.outcome is not None or released:
            self.over = True
        elif newest <= self.inbox_seen and self._parkable(work):
            self.dirty = True  # the next round parks it
        return work.actions, newest

    def set_aside(self, error: RayflowError, now: float) -> bool:
        """The store refused to write it: pause it with that reason. Answers whether that can be tried."""
        if self._blocked is not None or self._unclaimed:
            return False
        self.over = False
        self._sent = None
        self._block(error, now, self.inbox_seen)
        return True

    def evict(self) -> None:
        """Drop the workflow's code."""
        if self._execution is not None:
            self._execution.evict()
            self._execution = None

    def message(self, run: RunAttempt, code: dict[str, str], part: str) -> TaskMessage:
        """An attempt as a worker gets it.

        Args:
            run: the attempt.
            code: where the worker finds what it calls.
            part: the part of that.
        """
        # Of execution, number, name and arguments: the same on each try, whoever asks for it.
        what = f"{self.id}\0{run.seq}\0{run.call.name}\0".encode() + run.payload
        return TaskMessage(
            self.id,
            self.record.workflow_id,
            self.epoch,
            run.seq,
            run.attempt,
            run.call.name,
            code,
            part,
            run.payload,
            run.timeout,
            idempotency_key=hashlib.sha256(what).hexdigest()[:32],
            beat_every=min(BEAT_EVERY, (run.call.options.heartbeat_timeout or math.inf) / 4),
        )


def is_fresh(record: ExecutionRecord) -> bool:
    """Whether an execution has never been driven: it can be claimed and begun in one transaction."""
    return record.last_seq == 0 and record.epoch == 0 and record.inbox_last == 0
