"""Sends a coordinator's tasks to one pool's workers and brings their outcomes back.

It owns the coordinator's slots in the pool (the pure :class:`~rayflow.core.pool.slots.Slots`), the lines to workers,
and what is under way on them. It is called from the coordinator's one thread; replies arrive on other threads and are
posted back to that thread before anything is touched.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

from rayflow.core.execution.execution import RunAttempt
from rayflow.core.pool import Grant, LeaseRevoked, Recall, RevokeReason, is_own_tasks, own_tasks
from rayflow.core.pool.slots import Key, SendBatch, Slots
from rayflow.core.pool.step_limits import limits_of
from rayflow.definition.options import PoolConfig
from rayflow.errors import ClusterError, Failure, LeaseLost, QueueFull, StorageUnavailable
from rayflow.runtime.actors import actor_names
from rayflow.runtime.actors.base import ActorSystem, Envelope, Reply, TaskCrashed, TaskRefused, send_to
from rayflow.runtime.coordinator.pool_client import AttemptCallbacks, PoolClient
from rayflow.runtime.coordinator.ray_tasks import RayTaskSubmitter
from rayflow.runtime.coordinator.worker_client import ObjectRefCache, WorkerChannels
from rayflow.runtime.messages import (
    BatchMessage,
    BatchReply,
    TaskMessage,
    TaskOutcome,
    pack,
    worker_died,
    worker_stopped,
)

log = logging.getLogger(__name__)

#: Seconds after which a worker answers a batch although tasks of it are left.
PATIENCE = 0.05

#: Seconds that one question for a long task's outcome may stay open.
COLLECT = 20.0

#: Seconds after which the pool is told again of a task that does not stop, and after which a Ray task that could not
#: be submitted is tried again.
RETIRE_AGAIN, SUBMIT_AGAIN = 5.0, 2.0


@dataclass(slots=True)
class _Batch:
    """A batch under way."""

    id: str
    send: SendBatch
    tasks: dict[Key, TaskMessage] = field(default_factory=dict)
    #: Those that were given up as lost while it was under way; their late outcomes are only counted.
    lost: dict[Key, TaskMessage] = field(default_factory=dict)

    @property
    def own(self) -> bool:
        """Whether it is a Ray task of its own."""
        return is_own_tasks(self.send.environment)


class Dispatcher:
    """See the module's docstring.

    Args:
        host: the coordinator.
        system: where workers are found.
        config: the pool's configuration.
        environment: the coordinator's code environment.
        tasks: runs the steps that are Ray tasks of their own.
        values: the coordinator's handles on large values.
    """

    def __init__(
        self,
        host: AttemptCallbacks,
        system: ActorSystem,
        config: PoolConfig,
        environment: str,
        tasks: RayTaskSubmitter,
        *,
        values: ObjectRefCache,
    ) -> None:
        self._host = host
        self._system = system
        self._config = config
        self._environment = environment
        self._tasks = tasks
        self._pool = actor_names.pool(config.name)
        self._slots = Slots()
        self._runs: dict[Key, tuple[RunAttempt, str]] = {}
        self._batches: dict[str, _Batch] = {}
        self._by_key: dict[Key, str] = {}
        self._by_token: dict[str, str] = {}
        self._lines = WorkerChannels(system, config.name, values)
        self._talk = PoolClient(host, system, config.name, self._slots, self.apply)
        self._numbers = itertools.count(1)
        self._stopping: set[tuple[str, Key]] = set()

    # --- tasks ---------------------------------------------------------------------------------------------
    def configure(self, config: PoolConfig) -> None:
        """The pool is configured like this now."""
        self._config = config

    def want(self, execution_id: str, run: RunAttempt, priority: int) -> None:
        """Run an attempt as soon as there is a slot.

        Raises:
            QueueFull: the queue is at its limit, and the step is not to wait.
            Exception: whatever the step's ``concurrency_key`` raises.
        """
        options = run.call.options
        if options.when_full == "raise" and self._talk.full:
            self._slots.forget_told()  # ask again: there may be room by now
            who = f"step {run.call.name!r} is not to wait (when_full='raise')"
            raise QueueFull(self._config.name, limit=self._config.queue_limit or 0, who=who)
        key = (execution_id, run.seq, run.attempt)
        environment = own_tasks(self._environment) if options.own_task else self._environment
        self._slots.want(
            key,
            run.call.name,
            environment=environment,
            priority=priority,
            alone=run.alone and not options.own_task,  # a process of its own is alone anyway
            limits=limits_of(run.call, self._config),
            now=self._host.now(),
        )
        self._runs[key] = (run, execution_id)

    def stop(self, key: Key) -> None:
        """Nobody waits for the attempt: withdraw it, or tell its worker."""
        self._runs.pop(key, None)
        if self._slots.withdraw(key):
            return
        batch = self._batches.get(self._by_key.get(key, ""))
        if batch is None:
            return
        if batch.own:
            self._finish(batch, key)  # it may not even have begun; its number may be used again
            self._tasks.stop(batch.id)
        else:
            self._stopping.add((batch.id, key))
            epoch = batch.tasks[key].epoch
            worker = actor_names.worker(self._config.name, batch.send.worker)
            send_to(self._system, worker, "cancel", *key, "nobody waits for it", epoch, group="control")
        self._host.later(self._config.stop_grace, lambda: self._stuck(key, batch))

    def _stuck(self, key: Key, batch: _Batch) -> None:
        if batch.id not in self._batches:
            return
        if batch.own:
            self._tasks.stop(batch.id, force=True)
        elif (batch.id, key) in self._stopping:
            log.warning("step %s of %s did not stop; worker %s is replaced", key[1], key[0], batch.send.worker)
            send_to(self._system, self._pool, "retire", batch.send.worker, batch.send.token)
            self._host.later(RETIRE_AGAIN, lambda: self._stuck(key, batch))  # the pool may have been restarted

    def forget(self, execution_id: str) -> None:
        """The execution is not driven here any more: stop all that it still has."""
        for key in [key for key in (*self._runs, *self._by_key) if key[0] == execution_id]:
            self.stop(key)

    def refuse_all(self, error: Exception) -> None:
        """The pool is no more: nothing that waits for it can be run."""
        for key in list(self._runs):
            self._slots.withdraw(key)
            del self._runs[key]
            self._host.refused(key, error)

    def begun(self, key: Key, at: float) -> None:
        """A Ray task has begun."""
        batch = self._batches.get(self._by_key.get(key, ""))
        if batch is not None:
            self._slots.began(batch.send.token, at)
            self._host.sent(key, at)

    def worker_of(self, key: Key) -> str:
        """Where an attempt is under way; "" if it waits."""
        batch = self._batches.get(self._by_key.get(key, ""))
        return "" if batch is None else batch.send.worker

    # --- slots ---------------------------------------------------------------------------------------------
    def apply(self, epoch: int, commands: Sequence[Grant | Recall | LeaseRevoked]) -> None:
        """The pool says something: in its reply, or by itself."""
        if not self._slots.heard_from(epoch):
            return
        for command in commands:
            match command:
                case Grant():
                    self._slots.granted(command, self._host.now())
                case Recall():
                    self._slots.recalled(command.token)
                case LeaseRevoked():
                    self._void(command)

    def _void(self, command: LeaseRevoked) -> None:
        self._slots.void(command.token)
        batch = self._batches.get(self._by_token.get(command.token, ""))
        # Its call may fail much later, or never: of a worker that hangs on a node that hangs.
        if batch is not None and command.why is RevokeReason.DIED:
            self._worker_died(batch, "its pool lost it")
        elif batch is not None and command.why is RevokeReason.DRAINED:
            self._lose(batch, partial(worker_stopped, worker=command.worker))

    def pump(self) -> None:
        """Send what can be sent, and tell the pool what it does not know."""
        for send in self._slots.plan(self._host.now()):
            self._send(send)
        self._talk.tell()

    def refresh(self) -> None:
        """Tell the pool everything again; it forgets coordinators that it does not hear from."""
        self._talk.tell_all()

    @property
    def at_work(self) -> bool:
        """Whether anything is under way."""
        return bool(self._batches)

    def next_wake(self) -> float | None:
        """When an idle slot is to be given back."""
        return self._slots.next_wake()

    # --- workers -------------------------------------------------------------------------------------------
    def _send(self, send: SendBatch) -> None:
        batch = _Batch(f"{self._host.name}/{self._config.name}/{next(self._numbers)}", send)
        runs = [self._runs.pop(key) for key in send.keys]
        for key, (run, execution_id) in zip(send.keys, runs, strict=True):
            message = self._host.message(run, execution_id)
            if message is not None:
                batch.tasks[key] = message if send.start_by is None else message._replace(start_by=send.start_by)
        if not batch.tasks:
            self._slots.began(send.token, 0.0)
            self._slots.done(send.token, self._host.now())
            return
        self._batches[batch.id] = batch
        self._by_token[send.token] = batch.id
        for key in batch.tasks:
            self._by_key[key] = batch.id
            if not batch.own:
                self._host.sent(key, self._host.now())
        tasks = tuple(batch.tasks.values())
        host = self._host
        about = (batch.id, send.token, self._slots.epoch, host.name)
        # A Ray task looks at the disk itself, in a process that no other task uses at that time.
        code = () if batch.own else tuple({host.code_fingerprint(name) for name in {key[0] for key in batch.tasks}})
        request = self._lines.parcel(pack(BatchMessage(*about, tasks, PATIENCE, send.rated, code)), tasks)
        label = tasks[0].step if len(tasks) == 1 else f"{tasks[0].step} and {len(tasks) - 1} more"
        if batch.own:
            self._run_own(batch, runs[0][0], request, label)
        else:
            self._call(batch, "run", request, label)

    def _run_own(self, batch: _Batch, run: RunAttempt, request: bytes | Envelope, label: str) -> None:
        def reply(answer: Reply) -> None:
            self._host.post(lambda: self._replied(batch, answer))

        [key] = batch.tasks
        try:
            lacking = self._tasks.run(batch.id, run.call.options, request, label, reply)
        except (ClusterError, StorageUnavailable) as error:
            self._slots.began(batch.send.token, 0.0)
            epoch = self._finish(batch, key).epoch
            self._over(batch)
            if isinstance(error, TaskRefused):
                self._host.refused(key, error)
            else:
                log.warning("step %s of %s cannot be submitted now: %s", key[1], key[0], error)
                self._host.later(SUBMIT_AGAIN, lambda: self._host.not_begun(key, epoch))
        else:
            if lacking:
                self._host.waits(key, lacking)

    def _call(self, batch: _Batch, method: str, request: bytes | Envelope, label: str) -> None:
        def reply(answer: Reply) -> None:
            self._host.post(lambda: self._replied(batch, answer))

        self._lines.call(batch.send.worker, method, request, reply, label)

    # --- outcomes ------------------------------------------------------------------------------------------
    def _replied(self, batch: _Batch, answer: Reply) -> None:
        if batch.id not in self._batches:
            self._replied_late(batch, answer)
        elif answer.error is not None:
            self._failed(batch, answer.error)
        else:
            self._take(batch, self._lines.read(answer.value, {key[0] for key in batch.tasks}))

    def _replied_late(self, batch: _Batch, answer: Reply) -> None:
        reply = BatchReply() if answer.error is not None else self._lines.read(answer.value, ())
        for outcome in reply.outcomes:
            message = batch.lost.pop((outcome.execution_id, outcome.seq, outcome.attempt), None)
            if message is not None:
                self._host.outcome(outcome, batch.send.worker, message.epoch)
        if reply.running is not None:
            self._call(batch, "collect", pack((batch.id, COLLECT)), "late")

    def _take(self, batch: _Batch, reply: BatchReply) -> None:
        if reply.refused:
            self._refused(batch, reply.refused)
            return
        for outcome in reply.outcomes:
            self._take_outcome(batch, outcome)
        for key in [key for key in reply.not_begun if key in batch.tasks]:
            self._slots.began(batch.send.token, 0.0)
            self._host.not_begun(key, self._finish(batch, key).epoch)
        for key in [key for key in reply.stopped if key in batch.tasks]:
            self._tell_lost(batch, key, partial(worker_stopped, worker=batch.send.worker))
        if reply.running is None:
            self._over(batch)
        else:
            self._wait_for_running(batch, reply)

    def _take_outcome(self, batch: _Batch, outcome: TaskOutcome) -> None:
        key = (outcome.execution_id, outcome.seq, outcome.attempt)
        self._slots.began(batch.send.token, outcome.began)
        message = batch.tasks.get(key)
        if message is None:
            return
        if outcome.began:
            self._slots.observe(message.step, max(0.0, outcome.ended - outcome.began))
        self._finish(batch, key)
        self._host.outcome(outcome, batch.send.worker, message.epoch)

    def _wait_for_running(self, batch: _Batch, reply: BatchReply) -> None:
        if reply.began:
            self._slots.began(batch.send.token, reply.began)
        message = None if reply.running is None else batch.tasks.get(reply.running)
        if message is not None and reply.not_begun:
            self._slots.is_long(message.step)
        label = "a task that was stopped" if message is None else message.step
        self._call(batch, "collect", pack((batch.id, COLLECT)), label)

    def _finish(self, batch: _Batch, key: Key) -> TaskMessage:
        if self._by_key.get(key) == batch.id:  # it may have been sent anew, after a rewind
            del self._by_key[key]
        self._stopping.discard((batch.id, key))
        return batch.tasks.pop(key)

    def _over(self, batch: _Batch) -> None:
        self._remove(batch)
        self._slots.done(batch.send.token, self._host.now())

    def _remove(self, batch: _Batch) -> None:
        del self._batches[batch.id]
        self._by_token.pop(batch.send.token, None)
        self._tasks.over(batch.id)

    def _refused(self, batch: _Batch, why: str) -> None:
        # Busy: the slot is not free yet although the pool thought so (the worker is the truth). Stale: the pool
        # was restarted, and this slot was granted by the one before. Either way the slot is not ours.
        log.info("worker %s refused a batch: %s", batch.send.worker, why)
        self._remove(batch)
        self._slots.began(batch.send.token, 0.0)
        self._slots.void(batch.send.token)
        for key in list(batch.tasks):
            self._host.not_begun(key, self._finish(batch, key).epoch)

    # --- losses --------------------------------------------------------------------------------------------
    def _failed(self, batch: _Batch, error: BaseException) -> None:
        self._slots.void(batch.send.token)
        worker = batch.send.worker
        self._lines.forget(worker)
        if isinstance(error, LeaseLost) or (batch.own and not isinstance(error, TaskCrashed)):
            self._lose(batch, partial(worker_stopped, worker=worker, detail=str(error)))
            return
        self._worker_died(batch, str(error))
        if not batch.own:
            send_to(self._system, self._pool, "suspect", worker)

    def _worker_died(self, batch: _Batch, detail: str) -> None:
        alone = batch.own or batch.send.alone
        self._lose(batch, partial(worker_died, worker=batch.send.worker, detail=detail, alone=alone), alone=alone)

    def _lose(self, batch: _Batch, failure: Callable[[TaskMessage], Failure], *, alone: bool = False) -> None:
        self._remove(batch)
        for key in list(batch.tasks):
            self._tell_lost(batch, key, failure, alone=alone)

    def _tell_lost(
        self, batch: _Batch, key: Key, failure: Callable[[TaskMessage], Failure], *, alone: bool = False
    ) -> None:
        message = batch.lost[key] = self._finish(batch, key)
        self._host.lost(key, failure(message), alone=alone, worker=batch.send.worker, epoch=message.epoch)
