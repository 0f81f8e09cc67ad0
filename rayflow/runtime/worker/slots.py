"""What a worker holds: its slots, the batches on them, and what it refuses.

It owns the decisions and no thread, lock or clock: the worker calls it under its one lock and performs what it
says. So a task that is given back can never be one that was begun.
"""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from collections.abc import Mapping
from dataclasses import dataclass, field

from rayflow.runtime.actors.base import ObjectRef
from rayflow.runtime.messages import BatchMessage, BatchReply, TaskMessage, TaskOutcome
from rayflow.runtime.worker.attempt import Attempt, cancelled

Key = tuple[str, int, int]
"""Execution id, sequence number, attempt."""

#: Executions whose newest epoch is remembered, and revoked tokens; the oldest are forgotten first.
REMEMBERED = 10_000

#: Outcomes of batches that were answered early are keep for those who ask: so many batches, so many seconds after
#: their end, and so many after they were asked for (the answer may have been lost).
MAX_FINISHED = 256
FINISHED_TTL = 300.0
COLLECTED_TTL = 30.0


@dataclass(eq=False, slots=True)
class Batch:
    """A batch on one of the slots, or what is left of one.

    ``settled`` is set when all that was not given back has ended, or never will on this worker.
    """

    message: BatchMessage
    waiting: deque[TaskMessage]
    outcomes: list[TaskOutcome] = field(default_factory=list)
    given_back: list[Key] = field(default_factory=list)
    #: What was under way when the worker stopped.
    stopped: list[Key] = field(default_factory=list)
    running: TaskMessage | None = None
    attempt: Attempt | None = None
    finished: bool = False
    #: How many outcomes went out with an early answer; None if there was none.
    answered: int | None = None
    #: How many of those given back it told.
    returned: int = 0
    expires: float = 0.0
    #: Handles on large values: those that came with it, and those that are to be told with its answer.
    refs: Mapping[str, ObjectRef] = field(default_factory=dict)
    new_refs: dict[str, ObjectRef] = field(default_factory=dict)
    settled: threading.Event = field(default_factory=threading.Event)


class WorkerSlots:
    """See the module's docstring.

    Args:
        slots: batches that are worked on at once.
        most: tasks that are begun, after which no batch is taken any more; None for any number.
        remembered: how many executions' epochs, and how many revoked tokens.
        keep: how many batches that were answered early are keep after their end.
    """

    def __init__(
        self, slots: int, *, most: int | None = None, remembered: int = REMEMBERED, keep: int = MAX_FINISHED
    ) -> None:
        self._slots = slots
        self._left = most
        self._remembered = remembered
        self._max_finished = keep
        self._epochs: OrderedDict[str, int] = OrderedDict()
        self._revoked: OrderedDict[str, None] = OrderedDict()
        self._finished: OrderedDict[str, Batch] = OrderedDict()
        self.active: dict[str, Batch] = {}
        self.pool_epoch = 0
        self.closed = False
        #: What is under way was told to stop: however it ends, that is not its own doing.
        self._ending = False
        #: Counts what begins and ends: it stands still only while nothing happens.
        self.progress = 0

    # --- what is taken -------------------------------------------------------------------------------------
    def find(self, batch_id: str) -> Batch | None:
        """The batch of that id, if it is under way or keep."""
        return self.active.get(batch_id) or self._finished.get(batch_id)

    def refusal(self, message: BatchMessage) -> str:
        """Why a batch is not taken: "stale", "busy", or "" if it is."""
        if message.pool_epoch < self.pool_epoch or message.token in self._revoked:
            return "stale"
        self.pool_epoch = message.pool_epoch
        return "busy" if self.closed or self.worn or len(self.active) >= self._slots else ""

    @property
    def worn(self) -> bool:
        """Whether as many tasks were begun as may be, or no further one may."""
        return self._left is not None and self._left <= 0

    def wear_out(self) -> None:
        """Take no further task."""
        self._left = 0

    def take(self, message: BatchMessage) -> Batch:
        """Put a batch on a slot."""
        for task in message.tasks:
            self.revoke(task.execution_id, task.epoch)
        batch = Batch(message, deque(message.tasks))
        self.active[message.id] = batch
        return batch

    def revoke(self, execution_id: str, epoch: int) -> None:
        """Below that epoch nothing of the execution is begun any more."""
        known = self._epochs.pop(execution_id, 0)
        self._epochs[execution_id] = max(known, epoch)
        if len(self._epochs) > self._remembered:
            self._epochs.popitem(last=False)

    def revoke_token(self, token: str, mono: float) -> None:
        """Nothing more is begun or taken with that token."""
        self._revoked[token] = None
        if len(self._revoked) > self._remembered:
            self._revoked.popitem(last=False)
        for batch in [batch for batch in self.active.values() if batch.message.token == token]:
            self.give_back(batch, mono)

    def in_use(self, token: str) -> bool:
        """Whether something still runs with that token."""
        return any(batch.message.token == token for batch in self.active.values())

    # --- how it goes on ------------------------------------------------------------------------------------
    def begin(self, batch: Batch, now: float, mono: float) -> TaskMessage | None:
        """The next task of a batch, which begins now; None at its end, when its slot is free again.

        What a newer coordinator has taken finished is refused.

        Args:
            batch: the batch.
            now: seconds since the epoch.
            mono: seconds of the monotonic clock.
        """
        while batch.waiting:
            task = batch.waiting.popleft()
            if task.epoch < self._epochs.get(task.execution_id, 0):
                batch.outcomes.append(TaskOutcome(*key_of(task), result=None, failure=None, began=now, ended=now))
            else:
                batch.running = task
                self.progress += 1
                if self._left is not None:
                    self._left -= 1
                return task
        self._end(batch, mono)
        return None

    def finish(self, batch: Batch, outcome: TaskOutcome, mono: float) -> None:
        """The running task of a batch ended."""
        if batch.finished:
            return  # it was given up before
        if self._ending:
            batch.stopped.append((outcome.execution_id, outcome.seq, outcome.attempt))
        else:
            batch.outcomes.append(outcome)
        batch.running = batch.attempt = None
        self.progress += 1
        if not batch.waiting:
            self._end(batch, mono)

    def not_begun(self, batch: Batch, mono: float) -> None:
        """The running task of a batch was not begun after all: it was too late for that."""
        if batch.finished or batch.running is None:
            return
        batch.given_back.append(key_of(batch.running))
        batch.running = batch.attempt = None
        if not batch.waiting:
            self._end(batch, mono)

    def _end(self, batch: Batch, mono: float) -> None:
        if batch.finished:
            return
        batch.finished = True
        del self.active[batch.message.id]
        if batch.answered is not None:
            batch.expires = mono + FINISHED_TTL
            self._finished[batch.message.id] = batch
            self._prune(mono)
        batch.settled.set()

    def _prune(self, mono: float) -> None:
        for batch_id in [batch_id for batch_id, batch in self._finished.items() if batch.expires < mono]:
            del self._finished[batch_id]
        while len(self._finished) > self._max_finished:
            self._finished.popitem(last=False)

    # --- what is answered ----------------------------------------------------------------------------------
    def answer(self, batch: Batch, mono: float) -> BatchReply:
        """The answer to a batch, at its end or because patience is: what has not begun is given back."""
        self.give_back(batch, mono)
        if not batch.finished:
            batch.answered, batch.returned = len(batch.outcomes), len(batch.given_back)
        return _under_way(batch)._replace(
            outcomes=tuple(batch.outcomes), not_begun=tuple(batch.given_back), stopped=tuple(batch.stopped)
        )

    def give_back(self, batch: Batch, mono: float) -> None:
        """Withdraw what has not begun. The slot is free at once if nothing runs."""
        batch.given_back.extend(key_of(task) for task in batch.waiting)
        batch.waiting.clear()
        if batch.running is None:
            self._end(batch, mono)

    def collect(self, batch: Batch, mono: float) -> BatchReply:
        """What came of the task that was running when a batch was answered early."""
        if not batch.finished:
            return _under_way(batch)
        batch.expires = min(batch.expires, mono + COLLECTED_TTL)
        return BatchReply(
            tuple(batch.outcomes[batch.answered or 0 :]),
            not_begun=tuple(batch.given_back[batch.returned :]),
            stopped=tuple(batch.stopped),
        )

    # --- the end -------------------------------------------------------------------------------------------
    def close(self, mono: float) -> None:
        """Take nothing more, and give back what has not begun."""
        self.closed = True
        for batch in list(self.active.values()):
            self.give_back(batch, mono)

    def end(self) -> list[Attempt]:
        """The attempts under way, which are to be told to stop. From now on nothing that comes of them counts."""
        self._ending = True
        return [batch.attempt for batch in self.active.values() if batch.attempt is not None]

    def abandon(self, mono: float) -> None:
        """Wait no more for those that did not stop."""
        for batch in list(self.active.values()):
            assert batch.running is not None, "what had not begun was given back before"
            batch.stopped.append(key_of(batch.running))
            batch.running = batch.attempt = None
            self._end(batch, mono)

    def cancel(self, key: Key, epoch: int | None, reason: str, now: float) -> tuple[bool, list[Attempt]]:
        """Withdraw a task that has not begun; find the attempts that have to be told.

        Args:
            key: which task.
            epoch: only those of coordinators up to this one; None for all.
            reason: why, for the failure.
            now: seconds since the epoch.

        Returns:
            Whether the task is known here, and its attempts under way.
        """
        known, attempts = False, []
        for batch in self.active.values():
            for task in [task for task in batch.waiting if _matches(task, key, epoch)]:
                batch.waiting.remove(task)
                batch.outcomes.append(TaskOutcome(*key, None, cancelled(reason), now, now))
                known = True
            if batch.running is not None and _matches(batch.running, key, epoch):
                known = True
                if batch.attempt is not None:
                    attempts.append(batch.attempt)
        return known, attempts

    def census(self) -> list[tuple[str, str, int, int]]:
        """One row for each slot in use: token, and the task that is under way there or comes next."""
        rows = []
        for batch in self.active.values():
            task = batch.running or (batch.waiting[0] if batch.waiting else None)
            if task is not None:
                rows.append((batch.message.token, *key_of(task)))
        return rows


def key_of(task: TaskMessage) -> Key:
    """What names an attempt."""
    return task.execution_id, task.seq, task.attempt


def _under_way(batch: Batch) -> BatchReply:
    if batch.running is None:
        return BatchReply()
    return BatchReply(running=key_of(batch.running), began=0.0 if batch.attempt is None else batch.attempt.began)


def _matches(task: TaskMessage, key: Key, epoch: int | None) -> bool:
    return key_of(task) == key and (epoch is None or task.epoch <= epoch)
