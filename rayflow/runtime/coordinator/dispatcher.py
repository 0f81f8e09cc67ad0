"""Dispatcher of one pool: sends a coordinator's tasks to the pool's workers and returns their outcomes.

The dispatcher owns the coordinator's slots in the pool (the pure :class:`~rayflow.core.pool.slots.Slots`), the
channels to workers, and the batches under way. All methods run on the coordinator's thread; replies arrive on other
threads and are submitted to that thread first.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

from rayflow.core.execution.execution import RunAttempt
from rayflow.core.pool import Grant, LeaseRevoked, Recall, RevokeReason, is_ray_task_environment, ray_task_environment
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

#: Seconds after which a worker replies to a batch although tasks of it are left.
BATCH_PATIENCE = 0.05

#: Seconds that one request for the outcome of a long task may stay open.
COLLECT_TIMEOUT = 20.0

#: Seconds until the pool is notified again of a task that does not stop, and until a Ray task that could not be
#: submitted is submitted again.
RETIRE_RETRY, SUBMIT_RETRY = 5.0, 2.0


@dataclass(slots=True)
class _Batch:
    """A batch under way."""

    id: str
    send: SendBatch
    tasks: dict[Key, TaskMessage] = field(default_factory=dict)
    #: Tasks that were declared lost during the batch; their late outcomes are only recorded.
    lost: dict[Key, TaskMessage] = field(default_factory=dict)

    @property
    def is_ray_task(self) -> bool:
        """Return whether the batch is a Ray task."""
        return is_ray_task_environment(self.send.environment)


class Dispatcher:
    """The dispatcher of one pool.

    Args:
        tasks: submits the steps that run as Ray tasks.
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
        self._channels = WorkerChannels(system, config.name, values)
        self._pool_client = PoolClient(host, system, config.name, self._slots, self.apply)
        self._numbers = itertools.count(1)
        self._stopping: set[tuple[str, Key]] = set()

    def configure(self, config: PoolConfig) -> None:
        """Apply a new configuration of the pool."""
        self._config = config

    def want(self, execution_id: str, run: RunAttempt, priority: int) -> None:
        """Run an attempt as soon as there is a slot.

        Raises:
            QueueFull: if the pool's queue is at its limit, and the step must not wait.
            Exception: whatever the step's ``concurrency_key`` raises.
        """
        options = run.call.options
        if options.when_full == "raise" and self._pool_client.full:
            self._slots.report_lost()  # report again: there may be room by now
            who = f"step {run.call.name!r} must not wait (when_full='raise')"
            raise QueueFull(self._config.name, limit=self._config.queue_limit or 0, who=who)
        key = (execution_id, run.seq, run.attempt)
        environment = ray_task_environment(self._environment) if options.own_task else self._environment
        self._slots.enqueue(
            key,
            run.call.name,
            environment=environment,
            priority=priority,
            exclusive=run.exclusive and not options.own_task,  # a Ray task has its own process anyway
            limits=limits_of(run.call, self._config),
            now=self._host.now(),
        )
        self._runs[key] = (run, execution_id)

    def stop(self, key: Key) -> None:
        """Stop an attempt whose result is no longer wanted: withdraw it, or cancel it at its worker."""
        self._runs.pop(key, None)
        if self._slots.withdraw(key):
            return
        batch = self._batches.get(self._by_key.get(key, ""))
        if batch is None:
            return
        if batch.is_ray_task:
            self._finish(batch, key)  # it may not have begun, and its number may be used again
            self._tasks.stop(batch.id)
        else:
            self._stopping.add((batch.id, key))
            epoch = batch.tasks[key].epoch
            worker = actor_names.worker(self._config.name, batch.send.worker)
            send_to(self._system, worker, "cancel", *key, "its result is no longer wanted", epoch, group="control")
        self._host.submit_later(self._config.stop_grace, lambda: self._still_runs(key, batch))

    def _still_runs(self, key: Key, batch: _Batch) -> None:
        if batch.id not in self._batches:
            return
        if batch.is_ray_task:
            self._tasks.stop(batch.id, force=True)
        elif (batch.id, key) in self._stopping:
            log.warning("step %s of %s did not stop, replacing worker %s", key[1], key[0], batch.send.worker)
            send_to(self._system, self._pool, "retire", batch.send.worker, batch.send.token)
            self._host.submit_later(
                RETIRE_RETRY, lambda: self._still_runs(key, batch)
            )  # the pool may have been restarted

    def forget(self, execution_id: str) -> None:
        """Stop all attempts of an execution that is no longer driven here."""
        for key in [key for key in (*self._runs, *self._by_key) if key[0] == execution_id]:
            self.stop(key)

    def refuse_all(self, error: Exception) -> None:
        """Refuse all waiting attempts, because the pool was deleted."""
        for key in list(self._runs):
            self._slots.withdraw(key)
            del self._runs[key]
            self._host.refused(key, error)

    def begun(self, key: Key, at: float) -> None:
        """Record that a Ray task has begun."""
        batch = self._batches.get(self._by_key.get(key, ""))
        if batch is not None:
            self._slots.began(batch.send.token, at)
            self._host.sent(key, at)

    def worker_of(self, key: Key) -> str:
        """Return the worker that runs an attempt; "" if the attempt waits."""
        batch = self._batches.get(self._by_key.get(key, ""))
        return "" if batch is None else batch.send.worker

    def apply(self, epoch: int, commands: Sequence[Grant | Recall | LeaseRevoked]) -> None:
        """Apply the pool's decisions."""
        if not self._slots.accept_epoch(epoch):
            return
        for command in commands:
            match command:
                case Grant():
                    self._slots.granted(command, self._host.now())
                case Recall():
                    self._slots.recalled(command.token)
                case LeaseRevoked():
                    self._lease_revoked(command)

    def _lease_revoked(self, command: LeaseRevoked) -> None:
        self._slots.revoked(command.token)
        batch = self._batches.get(self._by_token.get(command.token, ""))
        # The call itself may fail much later or never, if the worker's node hangs.
        if batch is not None and command.why is RevokeReason.DIED:
            self._worker_died(batch, "its pool reported its loss")
        elif batch is not None and command.why is RevokeReason.DRAINED:
            self._lose(batch, partial(worker_stopped, worker=command.worker))

    def dispatch_ready(self) -> None:
        """Send the tasks that have a slot, and report changes to the pool."""
        for send in self._slots.plan(self._host.now()):
            self._send(send)
        self._pool_client.report()

    def refresh(self) -> None:
        """Report everything to the pool again: it forgets coordinators that stay silent."""
        self._pool_client.report_all()

    @property
    def at_work(self) -> bool:
        """Return whether a batch is under way."""
        return bool(self._batches)

    def next_wake(self) -> float | None:
        """Return when an idle slot has to be returned."""
        return self._slots.next_wake()

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
            if not batch.is_ray_task:
                self._host.sent(key, self._host.now())
        tasks = tuple(batch.tasks.values())
        host = self._host
        about = (batch.id, send.token, self._slots.epoch, host.name)
        # A Ray task compares the files on disk itself, in a process that runs one task at a time.
        executions = set() if batch.is_ray_task else {key[0] for key in batch.tasks}
        code = tuple({host.code_fingerprint(execution_id) for execution_id in executions})
        request = self._channels.envelope(pack(BatchMessage(*about, tasks, BATCH_PATIENCE, send.rated, code)), tasks)
        label = tasks[0].step if len(tasks) == 1 else f"{tasks[0].step} and {len(tasks) - 1} more"
        if batch.is_ray_task:
            self._run_ray_task(batch, runs[0][0], request, label)
        else:
            self._call(batch, "run", request, label)

    def _run_ray_task(self, batch: _Batch, run: RunAttempt, request: bytes | Envelope, label: str) -> None:
        def reply(answer: Reply) -> None:
            self._host.submit(lambda: self._replied(batch, answer))

        [key] = batch.tasks
        try:
            lacking = self._tasks.run(batch.id, run.call.options, request, label, reply)
        except (ClusterError, StorageUnavailable) as error:
            self._slots.began(batch.send.token, 0.0)
            epoch = self._finish(batch, key).epoch
            self._end(batch)
            if isinstance(error, TaskRefused):
                self._host.refused(key, error)
            else:
                log.warning("cannot submit step %s of %s, retrying in %g s: %s", key[1], key[0], SUBMIT_RETRY, error)
                self._host.submit_later(SUBMIT_RETRY, lambda: self._host.not_begun(key, epoch))
        else:
            if lacking:
                self._host.waits(key, lacking)

    def _call(self, batch: _Batch, method: str, request: bytes | Envelope, label: str) -> None:
        def reply(answer: Reply) -> None:
            self._host.submit(lambda: self._replied(batch, answer))

        self._channels.call(batch.send.worker, method, request, reply, label)

    def _replied(self, batch: _Batch, answer: Reply) -> None:
        if batch.id not in self._batches:
            self._replied_late(batch, answer)
        elif answer.error is not None:
            self._failed(batch, answer.error)
        else:
            self._take(batch, self._channels.read(answer.value, {key[0] for key in batch.tasks}))

    def _replied_late(self, batch: _Batch, answer: Reply) -> None:
        reply = BatchReply() if answer.error is not None else self._channels.read(answer.value, ())
        for outcome in reply.outcomes:
            message = batch.lost.pop((outcome.execution_id, outcome.seq, outcome.attempt), None)
            if message is not None:
                self._host.outcome(outcome, batch.send.worker, message.epoch)
        if reply.running is not None:
            self._call(batch, "collect", pack((batch.id, COLLECT_TIMEOUT)), "late")

    def _take(self, batch: _Batch, reply: BatchReply) -> None:
        if reply.refused:
            self._batch_refused(batch, reply.refused)
            return
        for outcome in reply.outcomes:
            self._take_outcome(batch, outcome)
        for key in [key for key in reply.not_begun if key in batch.tasks]:
            self._slots.began(batch.send.token, 0.0)
            self._host.not_begun(key, self._finish(batch, key).epoch)
        for key in [key for key in reply.stopped if key in batch.tasks]:
            self._tell_lost(batch, key, partial(worker_stopped, worker=batch.send.worker))
        if reply.running is None:
            self._end(batch)
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
            self._slots.ran_long(message.step)
        label = "a stopped task" if message is None else message.step
        self._call(batch, "collect", pack((batch.id, COLLECT_TIMEOUT)), label)

    def _finish(self, batch: _Batch, key: Key) -> TaskMessage:
        if self._by_key.get(key) == batch.id:  # after a rewind, another batch may have the same key
            del self._by_key[key]
        self._stopping.discard((batch.id, key))
        return batch.tasks.pop(key)

    def _end(self, batch: _Batch) -> None:
        self._remove(batch)
        self._slots.done(batch.send.token, self._host.now())

    def _remove(self, batch: _Batch) -> None:
        del self._batches[batch.id]
        self._by_token.pop(batch.send.token, None)
        self._tasks.forget(batch.id)

    def _batch_refused(self, batch: _Batch, why: str) -> None:
        # Busy: the slot is not free yet, although the pool assumed it is. Stale: the pool was restarted, and this slot
        # was granted before. Either way this coordinator has no right to the slot.
        log.info("worker %s refused a batch as %s", batch.send.worker, why)
        self._remove(batch)
        self._slots.began(batch.send.token, 0.0)
        self._slots.revoked(batch.send.token)
        for key in list(batch.tasks):
            self._host.not_begun(key, self._finish(batch, key).epoch)

    def _failed(self, batch: _Batch, error: BaseException) -> None:
        self._slots.revoked(batch.send.token)
        worker = batch.send.worker
        self._channels.forget(worker)
        if isinstance(error, LeaseLost) or (batch.is_ray_task and not isinstance(error, TaskCrashed)):
            self._lose(batch, partial(worker_stopped, worker=worker, detail=str(error)))
            return
        self._worker_died(batch, str(error))
        if not batch.is_ray_task:
            send_to(self._system, self._pool, "suspect", worker)

    def _worker_died(self, batch: _Batch, detail: str) -> None:
        exclusive = batch.is_ray_task or batch.send.exclusive
        self._lose(
            batch,
            partial(worker_died, worker=batch.send.worker, detail=detail, exclusive=exclusive),
            exclusive=exclusive,
        )

    def _lose(self, batch: _Batch, failure: Callable[[TaskMessage], Failure], *, exclusive: bool = False) -> None:
        self._remove(batch)
        for key in list(batch.tasks):
            self._tell_lost(batch, key, failure, exclusive=exclusive)

    def _tell_lost(
        self, batch: _Batch, key: Key, failure: Callable[[TaskMessage], Failure], *, exclusive: bool = False
    ) -> None:
        message = batch.lost[key] = self._finish(batch, key)
        self._host.lost(key, failure(message), exclusive=exclusive, worker=batch.send.worker, epoch=message.epoch)
