"""Slots of a worker: the batches on them, and what the worker refuses.

This state owns the decisions, and no thread, lock or clock: the worker calls it under its one lock. So a task that is
returned has never begun.
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

#: Number of executions whose newest epoch is remembered, and of revoked tokens; the oldest are forgotten first.
REMEMBERED = 10_000

#: Finished batches that got an early reply are kept for `collect`: their maximum number, the seconds after their end,
#: and the seconds after they were collected (that reply may have been lost).
MAX_FINISHED = 256
FINISHED_TTL = 300.0
COLLECTED_TTL = 30.0


@dataclass(eq=False, slots=True)
class Batch:
    """A batch on one of the slots, or a finished one.

    ``settled`` is set when all tasks that were not returned have ended, or never will on this worker.
    """

    message: BatchMessage
    waiting: deque[TaskMessage]
    outcomes: list[TaskOutcome] = field(default_factory=list)
    given_back: list[Key] = field(default_factory=list)
    #: The tasks that ran when the worker stopped.
    stopped: list[Key] = field(default_factory=list)
    running: TaskMessage | None = None
    attempt: Attempt | None = None
    finished: bool = False
    #: Number of outcomes in the early reply; None without an early reply.
    answered: int | None = None
    #: Number of returned tasks in the early reply.
    returned: int = 0
    expires: float = 0.0
    #: References to large values: those that came with the batch, and new ones for its reply.
    refs: Mapping[str, ObjectRef] = field(default_factory=dict)
    new_refs: dict[str, ObjectRef] = field(default_factory=dict)
    settled: threading.Event = field(default_factory=threading.Event)


class WorkerSlots:
    """The slots of one worker.

    Args:
        slots: batches that run at the same time.
        most: number of tasks after which no batch is accepted; None for no limit.
        remembered: number of epochs of executions, and of revoked tokens, to remember.
        keep: number of finished batches to keep for `collect`.
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
        #: Running tasks have been asked to stop: however they end, that is not their own result.
        self._ending = False
        #: Grows with each task that begins or ends.
        self.progress = 0

    def find(self, batch_id: str) -> Batch | None:
        """Return the batch of that id, if it runs or is kept."""
        return self.active.get(batch_id) or self._finished.get(batch_id)

    def refusal(self, message: BatchMessage) -> str:
        """Return why a batch is refused: "stale", "busy", or "" if it is accepted."""
        if message.pool_epoch < self.pool_epoch or message.token in self._revoked:
            return "stale"
        self.pool_epoch = message.pool_epoch
        return "busy" if self.closed or self.worn or len(self.active) >= self._slots else ""

    @property
    def worn(self) -> bool:
        """Return whether no further task may begin, because the limit is reached or the code is outdated."""
        return self._left is not None and self._left <= 0

    def wear_out(self) -> None:
        """Accept no further task."""
        self._left = 0

    def take(self, message: BatchMessage) -> Batch:
        """Put a batch on a slot."""
        for task in message.tasks:
            self.revoke(task.execution_id, task.epoch)
        batch = Batch(message, deque(message.tasks))
        self.active[message.id] = batch
        return batch

    def revoke(self, execution_id: str, epoch: int) -> None:
        """Refuse tasks of an execution below that epoch."""
        known = self._epochs.pop(execution_id, 0)
        self._epochs[execution_id] = max(known, epoch)
        if len(self._epochs) > self._remembered:
            self._epochs.popitem(last=False)

    def revoke_token(self, token: str, mono: float) -> None:
        """Refuse a token, and return its tasks that have not begun."""
        self._revoked[token] = None
        if len(self._revoked) > self._remembered:
            self._revoked.popitem(last=False)
        for batch in [batch for batch in self.active.values() if batch.message.token == token]:
            self.give_back(batch, mono)

    def in_use(self, token: str) -> bool:
        """Return whether a task runs on that token."""
        return any(batch.message.token == token for batch in self.active.values())

    def begin(self, batch: Batch, now: float, mono: float) -> TaskMessage | None:
        """Return the next task of a batch, which begins now; None at the batch's end, when its slot is free.

        Tasks of an execution that a newer coordinator has claimed are refused.

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
        """Record the outcome of the running task of a batch."""
        if batch.finished:
            return  # it was abandoned before
        if self._ending:
            batch.stopped.append((outcome.execution_id, outcome.seq, outcome.attempt))
        else:
            batch.outcomes.append(outcome)
        batch.running = batch.attempt = None
        self.progress += 1
        if not batch.waiting:
            self._end(batch, mono)

    def not_begun(self, batch: Batch, mono: float) -> None:
        """Return the running task of a batch, because its time to begin had passed."""
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

    def reply(self, batch: Batch, mono: float) -> BatchReply:
        """Return the reply to a batch, at its end or early; tasks that have not begun are returned."""
        self.give_back(batch, mono)
        if not batch.finished:
            batch.answered, batch.returned = len(batch.outcomes), len(batch.given_back)
        return _under_way(batch)._replace(
            outcomes=tuple(batch.outcomes), not_begun=tuple(batch.given_back), stopped=tuple(batch.stopped)
        )

    def give_back(self, batch: Batch, mono: float) -> None:
        """Withdraw the tasks that have not begun. The slot is free at once if no task runs."""
        batch.given_back.extend(key_of(task) for task in batch.waiting)
        batch.waiting.clear()
        if batch.running is None:
            self._end(batch, mono)

    def collect(self, batch: Batch, mono: float) -> BatchReply:
        """Return the outcome of the task that ran at the early reply to a batch."""
        if not batch.finished:
            return _under_way(batch)
        batch.expires = min(batch.expires, mono + COLLECTED_TTL)
        return BatchReply(
            tuple(batch.outcomes[batch.answered or 0 :]),
            not_begun=tuple(batch.given_back[batch.returned :]),
            stopped=tuple(batch.stopped),
        )

    def close(self, mono: float) -> None:
        """Accept no more batches, and return the tasks that have not begun."""
        self.closed = True
        for batch in list(self.active.values()):
            self.give_back(batch, mono)

    def end(self) -> list[Attempt]:
        """Return the running attempts, which the caller stops. Their outcomes no longer count."""
        self._ending = True
        return [batch.attempt for batch in self.active.values() if batch.attempt is not None]

    def abandon(self, mono: float) -> None:
        """Abandon the attempts that did not stop."""
        for batch in list(self.active.values()):
            assert batch.running is not None, "tasks that had not begun were returned before"
            batch.stopped.append(key_of(batch.running))
            batch.running = batch.attempt = None
            self._end(batch, mono)

    def cancel(self, key: Key, epoch: int | None, reason: str, now: float) -> tuple[bool, list[Attempt]]:
        """Withdraw a task that has not begun, or find its running attempts.

        Args:
            key: the task.
            epoch: only tasks of coordinators up to this epoch; None for all.
            reason: why, for the failure's message.
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
        """Return one row for each slot in use: the token, and the task that runs there or is next."""
        rows = []
        for batch in self.active.values():
            task = batch.running or (batch.waiting[0] if batch.waiting else None)
            if task is not None:
                rows.append((batch.message.token, *key_of(task)))
        return rows


def key_of(task: TaskMessage) -> Key:
    """Return the key of an attempt."""
    return task.execution_id, task.seq, task.attempt


def _under_way(batch: Batch) -> BatchReply:
    if batch.running is None:
        return BatchReply()
    return BatchReply(running=key_of(batch.running), began=0.0 if batch.attempt is None else batch.attempt.began)


def _matches(task: TaskMessage, key: Key, epoch: int | None) -> bool:
    return key_of(task) == key and (epoch is None or task.epoch <= epoch)
