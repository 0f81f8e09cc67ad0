"""Sends a coordinator's tasks to workers and brings their outcomes back.

It owns the coordinator's slots in one pool (the pure :class:`~rayflow.core.slots.Slots`), the lines to workers,
and what is under way on them. It is called from the coordinator's one thread; replies arrive on other threads and
are posted back to that thread before anything is touched.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from rayflow.core.execution import RunAttempt
from rayflow.core.pool import Grant, Recall, Void
from rayflow.core.slots import Send, Slots
from rayflow.errors import Failure
from rayflow.runtime import naming
from rayflow.runtime.messages import BatchMessage, BatchReply, TaskMessage, TaskOutcome, pack, unpack
from rayflow.runtime.system import ActorLine, ActorLost, ActorSystem, Line, Reply, send_to

log = logging.getLogger(__name__)

#: Seconds after which a worker answers a batch although tasks of it are left.
PATIENCE = 0.05

#: Seconds that one question for a long task's outcome may stay open.
COLLECT = 20.0

Key = tuple[str, int, int]


class Host(Protocol):
    """What the dispatcher needs of its coordinator."""

    name: str

    def post(self, action: Callable[[], None]) -> None:
        """Run the action on the coordinator's thread."""

    def later(self, seconds: float, action: Callable[[], None]) -> None:
        """The same, after a while."""

    def now(self) -> float:
        """Seconds since the epoch."""

    def message(self, run: RunAttempt, execution_id: str) -> TaskMessage | None:
        """The task as a worker gets it; None if nobody wants it any more."""

    def sent(self, key: Key) -> None:
        """The attempt went out."""

    def outcome(self, outcome: TaskOutcome, worker: str, epoch: int) -> None:
        """An attempt of that epoch ended."""

    def lost(self, key: Key, failure: Failure, *, alone: bool, worker: str, epoch: int) -> None:
        """An attempt was lost with its worker."""

    def not_begun(self, key: Key, epoch: int) -> None:
        """An attempt was given back."""


@dataclass(slots=True)
class _Batch:
    """A batch under way."""

    id: str
    token: str
    worker: str
    alone: bool
    tasks: dict[Key, TaskMessage] = field(default_factory=dict)


class Dispatcher:
    """See the module's docstring.

    Args:
        host: the coordinator.
        system: where workers are found.
        pool: the pool's name.
        environment: the coordinator's code environment.
        stop_grace: seconds that a stopped task may keep its slot before its worker is replaced.
    """

    def __init__(self, host: Host, system: ActorSystem, pool: str, environment: str, stop_grace: float) -> None:
        self._host = host
        self._system = system
        self._pool_id = pool
        self._pool = naming.pool(pool)
        self._slots = Slots(environment)
        self._grace = stop_grace
        self._runs: dict[Key, tuple[RunAttempt, str]] = {}
        self._batches: dict[str, _Batch] = {}
        self._by_key: dict[Key, str] = {}
        self._lines: dict[str, Line] = {}
        self._asking = False
        self._numbers = itertools.count(1)
        self._stopping: set[Key] = set()

    # --- tasks ---------------------------------------------------------------------------------------------
    def want(self, execution_id: str, run: RunAttempt, priority: int) -> None:
        """Run an attempt as soon as there is a slot."""
        key = (execution_id, run.seq, run.attempt)
        self._runs[key] = (run, execution_id)
        self._slots.want(key, run.call.name, priority=priority, alone=run.alone, now=self._host.now())

    def stop(self, key: Key) -> None:
        """Nobody waits for the attempt: withdraw it, or tell its worker."""
        self._runs.pop(key, None)
        if self._slots.withdraw(key):
            return
        batch = self._batches.get(self._by_key.get(key, ""))
        if batch is None:
            return
        self._stopping.add(key)
        epoch = batch.tasks[key].epoch
        worker = naming.worker(self._pool_id, batch.worker)
        send_to(self._system, worker, "cancel", *key, "nobody waits for it", epoch, group="control")
        self._host.later(self._grace, lambda: self._stuck(key, batch))

    def _stuck(self, key: Key, batch: _Batch) -> None:
        if key not in self._stopping or batch.id not in self._batches:
            return
        log.warning("step %s of %s did not stop; worker %s is replaced", key[1], key[0], batch.worker)
        send_to(self._system, self._pool, "retire", batch.worker, batch.token)

    def forget(self, execution_id: str) -> None:
        """The execution is not driven here any more: stop all that it still has."""
        for key in [key for key in (*self._runs, *self._by_key) if key[0] == execution_id]:
            self.stop(key)

    # --- slots ---------------------------------------------------------------------------------------------
    def apply(self, epoch: int, commands: list[Grant | Recall | Void]) -> None:
        """The pool says something: in its reply, or by itself."""
        if not self._slots.heard_from(epoch):
            return
        for command in commands:
            match command:
                case Grant():
                    self._slots.granted(
                        command.token, command.worker, alone=command.alone, number=command.number, now=self._host.now()
                    )
                case Recall():
                    self._slots.recalled(command.token)
                case Void():
                    self._slots.void(command.token)

    def pump(self) -> None:
        """Send what can be sent, and tell the pool what it does not know."""
        for send in self._slots.plan(self._host.now()):
            self._send(send)
        if not self._asking:
            report = self._slots.report()
            if report is not None:
                self._ask(report)

    def refresh(self) -> None:
        """Tell the pool everything again; it forgets coordinators that it does not hear from."""
        if not self._asking and (self._slots.wanting or self._slots.holding):
            self._ask(self._slots.full_report())

    def next_wake(self) -> float | None:
        """When an idle slot is to be given back."""
        return self._slots.next_wake()

    def _ask(self, report: object) -> None:
        self._asking = True
        arguments = pack((self._host.name, report))

        def reply(answer: Reply) -> None:
            self._host.post(lambda: self._answered(answer))

        send_to(self._system, self._pool, "update", arguments, then=reply)

    def _answered(self, answer: Reply) -> None:
        self._asking = False
        if answer.error is not None:
            log.warning("the pool cannot be reached: %s", answer.error)
            self._slots.forget_told()
            self._asking = True
            self._host.later(0.2, self._ask_again)
            return
        epoch, commands = unpack(answer.value)
        self.apply(epoch, commands)

    def _ask_again(self) -> None:
        self._asking = False

    # --- workers -------------------------------------------------------------------------------------------
    def _send(self, send: Send) -> None:
        batch = _Batch(f"{self._host.name}/{next(self._numbers)}", send.token, send.worker, send.alone)
        for key in send.keys:
            run, execution_id = self._runs.pop(key)
            message = self._host.message(run, execution_id)
            if message is not None:
                batch.tasks[key] = message
        if not batch.tasks:
            self._slots.done(send.token, self._host.now())
            return
        self._batches[batch.id] = batch
        for key in batch.tasks:
            self._by_key[key] = batch.id
            self._host.sent(key)
        tasks = tuple(batch.tasks.values())
        request = BatchMessage(batch.id, batch.token, self._slots.epoch, self._host.name, tasks, PATIENCE)
        label = tasks[0].step if len(tasks) == 1 else f"{tasks[0].step} and {len(tasks) - 1} more"
        self._call(batch, "run", pack(request), label)

    def _call(self, batch: _Batch, method: str, request: bytes, label: str) -> None:
        def reply(answer: Reply) -> None:
            self._host.post(lambda: self._replied(batch, answer))

        try:
            line = self._line(batch.worker, method)
        except ActorLost as error:
            reply(Reply(error=error))
        else:
            line.send(request, reply, label)

    def _line(self, worker: str, method: str) -> Line:
        key = f"{worker}/{method}"
        if key not in self._lines:
            self._lines[key] = ActorLine(self._system.find(naming.worker(self._pool_id, worker)), method)
        return self._lines[key]

    def _replied(self, batch: _Batch, answer: Reply) -> None:
        if batch.id not in self._batches:
            return
        if answer.error is not None:
            self._died(batch, answer.error)
            return
        reply: BatchReply = unpack(answer.value)
        if reply.refused:
            self._refused(batch, reply.refused)
            return
        for outcome in reply.outcomes:
            key = (outcome.execution_id, outcome.seq, outcome.attempt)
            message = batch.tasks.get(key)
            if message is not None:
                self._slots.observe(message.step, max(0.0, outcome.ended - outcome.began))
                self._finish(batch, key)
                self._host.outcome(outcome, batch.worker, message.epoch)
        for key in reply.not_begun:
            if key in batch.tasks:
                self._host.not_begun(key, self._finish(batch, key).epoch)
        if reply.running is not None:
            self._call(batch, "collect", pack((batch.id, COLLECT)), batch.tasks[reply.running].step)
            return
        self._over(batch)

    def _finish(self, batch: _Batch, key: Key) -> TaskMessage:
        self._by_key.pop(key, None)
        self._stopping.discard(key)
        return batch.tasks.pop(key)

    def _over(self, batch: _Batch) -> None:
        del self._batches[batch.id]
        self._slots.done(batch.token, self._host.now())

    def _refused(self, batch: _Batch, why: str) -> None:
        # Busy: the slot is not free yet although the pool thought so (the worker is the truth). Stale: the pool
        # was restarted, and this slot was granted by the one before. Either way the slot is not ours.
        log.info("worker %s refused a batch: %s", batch.worker, why)
        del self._batches[batch.id]
        self._slots.void(batch.token)
        for key in list(batch.tasks):
            self._host.not_begun(key, self._finish(batch, key).epoch)

    def _died(self, batch: _Batch, error: BaseException) -> None:
        del self._batches[batch.id]
        self._slots.void(batch.token)
        for method in ("run", "collect"):
            self._lines.pop(f"{batch.worker}/{method}", None)
        alone = batch.alone and len(batch.tasks) == 1
        for key, message in list(batch.tasks.items()):
            self._finish(batch, key)
            failure = _worker_died(message, batch.worker, error, alone=alone)
            self._host.lost(key, failure, alone=alone, worker=batch.worker, epoch=message.epoch)
        send_to(self._system, self._pool, "suspect", batch.worker)


def _worker_died(message: TaskMessage, worker: str, error: BaseException, *, alone: bool) -> Failure:
    company = "alone on it" if alone else "perhaps with others on it"
    return Failure(
        type="rayflow.errors.WorkerDied",
        message=(
            f"worker {worker} died while it ran step {message.step!r} (attempt {message.attempt}), {company}: {error}"
        ),
        mro=("rayflow.errors.WorkerDied",),
    )
