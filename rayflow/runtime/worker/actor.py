"""Worker actor: runs batches of tasks on its slots.

The worker owns its threads (one for each slot, one event loop for async steps, one that reports progress) and one lock.
The decisions under that lock are in :mod:`rayflow.runtime.worker.slots`; :mod:`rayflow.runtime.worker.attempt` runs one
attempt, and :mod:`rayflow.runtime.worker.setup` runs the pool's setup. Pools assign slots by leases, but the worker has
the last word: it refuses what its slots cannot take, and what an older pool or coordinator sends.
"""

from __future__ import annotations

import functools
import logging
import os
import platform
import queue
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from rayflow.definition.code import CodeCache, CodeRef
from rayflow.errors import LeaseLost, StorageError
from rayflow.runtime.actors import actor_names
from rayflow.runtime.actors.base import ActorSystem, Envelope, Reply, as_envelope, send_to
from rayflow.runtime.code.change_detector import CodeChangeDetector, record_imports
from rayflow.runtime.code.environment import Environment, Variables, apply, supplied
from rayflow.runtime.large_values import Values, retry_until
from rayflow.runtime.messages import BatchMessage, BatchReply, pack, unpack
from rayflow.runtime.worker import output
from rayflow.runtime.worker.async_loop import LoopThread
from rayflow.runtime.worker.attempt import Attempt, Runner
from rayflow.runtime.worker.heartbeat import HeartbeatRecorder
from rayflow.runtime.worker.reporter import ProgressReporter
from rayflow.runtime.worker.setup import PoolSetup
from rayflow.runtime.worker.slots import Batch, WorkerSlots
from rayflow.storage.codec.large_values import THRESHOLD
from rayflow.storage.codec.payloads import MsgpackCodec

log = logging.getLogger(__name__)

#: Seconds for which the worker tries to fetch a blob while the store cannot be reached.
FETCH_TIMEOUT = 10.0

#: Seconds for the clean-up of steps that are stopped together with the worker.
STOP_GRACE = 1.0


@dataclass(frozen=True, slots=True)
class WorkerSettings:
    """Settings of a worker.

    Args:
        concurrency: number of slots: batches that it runs at the same time.
        pool: name of its pool.
        store_actor: name of the actor with the method ``blob(digest)``.
        allow_pickle: whether payloads may hold pickles, and code may travel by value.
        large: payload size in bytes beyond which a value is stored by reference.
        setup: the pool's setup, as :func:`~rayflow.definition.setup.setup_reference` returns it; "" for none.
        max_tasks: number of tasks after which the worker has to be replaced; None for no limit.
        pool_actor: name of the actor whose ``worn(worker)`` receives that the worker has to be replaced.
        own_variables: names of the environment variables that the pool or the step sets. They take precedence over
            those of the code environment.
    """

    concurrency: int
    pool: str
    store_actor: str
    allow_pickle: bool = True
    large: int = THRESHOLD
    setup: str = ""
    max_tasks: int | None = None
    pool_actor: str = ""
    own_variables: tuple[str, ...] = ()


class Worker:
    """The worker actor. Other actors call its public methods, from several threads.

    Args:
        environment: its code environment, applied at the first use.
        begun: receives each attempt that begins, before its step is called.
    """

    def __init__(
        self,
        system: ActorSystem,
        name: str,
        environment: Mapping[str, Any] | Environment,
        settings: WorkerSettings,
        begun: Callable[[Attempt], None] | None = None,
    ) -> None:
        self._system = system
        self._clock = system.clock
        self._name = name
        self._environment = environment
        self._settings = settings
        self._cache = CodeCache(allow_pickle=settings.allow_pickle)
        self._detector = CodeChangeDetector(self._fetch, enabled=system.separate)
        self._loop = LoopThread(f"{name}/async")
        self._codec = MsgpackCodec(allow_pickle=settings.allow_pickle)
        self._runner = Runner(self._resolve, self._loop)
        self._setup = PoolSetup(
            settings.setup, settings.pool, self._fetch, self._loop, allow_pickle=settings.allow_pickle
        )
        self._reporter = ProgressReporter(system, self._running_attempts)
        self._begun = begun
        self._worn_reported = False
        self._opening = threading.Lock()
        self._open = False
        self._lock = threading.Lock()
        self._ended = threading.Condition(self._lock)
        self._slots = WorkerSlots(settings.concurrency, most=settings.max_tasks)
        self._queue: queue.SimpleQueue[Batch | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._stopped = threading.Event()

    def ready(self, variables: Variables | None = None) -> dict[str, Any]:
        """Apply the code environment and run the pool's setup. Return pid, Python version, node and pool.

        Args:
            variables: the variables of the code environment; None if they are unknown, which suffices after the start.

        Raises:
            ClusterError: if the setup failed, which this worker does not run again, or variables are unknown.
        """
        if not self._open and isinstance(self._environment, Environment):
            supplied(self._environment, variables).without(self._settings.own_variables).apply()
        self._start()
        self._setup.begin()
        return {
            "pid": os.getpid(),
            "python": platform.python_version(),
            "node": platform.node(),
            "pool": self._settings.pool,
        }

    def ping(self) -> dict[str, int]:
        """Return the number of slots in use, and a counter that grows with each task that begins or ends."""
        with self._lock:
            return {"busy": len(self._slots.active), "progress": self._slots.progress}

    def pid(self) -> int:
        """Return the id of the actor's process."""
        return os.getpid()

    def watch(self) -> None:
        """Block until the worker stops. The call fails at once when its process dies."""
        self._stopped.wait()

    def run(self, request: bytes | Envelope) -> bytes | Envelope:
        """Run a packed BatchMessage, and return a packed BatchReply.

        The reply to a batch of one task comes at its end, unless ``tell_begin`` is set. The reply to any other batch
        comes after its patience at the latest: tasks that have not begun are returned, and :meth:`collect` returns
        what still runs. A batch that arrives again while it is here is not run again.
        """
        data, refs = as_envelope(request)
        message: BatchMessage = unpack(data)
        self._start()
        outdated = bool(message.code) and self._detector.outdated(message.code)
        with self._lock:
            if outdated:
                self._slots.wear_out()
            batch, refused = self._slots.find(message.id), ""
            if batch is None:
                refused = self._slots.refusal(message)
                if not refused:
                    batch = self._take(message)
                    batch.refs = refs
            worn = self._slots.worn
        if batch is None:
            if worn:
                self._report_worn()  # again, because a restarted pool does not know
            return pack(BatchReply(refused=refused))
        early = len(message.tasks) > 1 or message.tell_begin
        batch.settled.wait(message.patience if early else None)
        with self._lock:
            return _to_reply(batch, self._slots.reply(batch, time.monotonic()))

    def collect(self, data: bytes) -> bytes | Envelope:
        """Wait for the running task of a batch that got an early reply, and return a packed BatchReply.

        Args:
            data: packed (batch id, seconds to wait).

        Raises:
            LeaseLost: if the batch does not exist.
        """
        batch_id, seconds = unpack(data)
        with self._lock:
            batch = self._slots.find(batch_id)
        if batch is None:
            raise LeaseLost(
                f"worker {self._name} has no batch {batch_id!r}: the batch never arrived, or was collected long ago"
            )
        batch.settled.wait(seconds)
        with self._lock:
            return _to_reply(batch, self._slots.collect(batch, time.monotonic()))

    def cancel(self, execution_id: str, seq: int, attempt: int, reason: str = "", epoch: int | None = None) -> bool:
        """Stop an attempt: withdraw it, cancel it (async), or set its ``step_context().cancelled`` (sync).

        Args:
            execution_id: the execution.
            seq: number of the step.
            attempt: number of the attempt.
            reason: why, for the failure's message.
            epoch: only attempts of coordinators up to this epoch; None for any.

        Returns:
            Whether the attempt was waiting or under way here.
        """
        with self._lock:
            known, attempts = self._slots.cancel((execution_id, seq, attempt), epoch, reason, self._clock.now())
        for found in attempts:
            found.stop(reason)
        return known

    def revoke(self, execution_id: str, epoch: int) -> None:
        """Refuse tasks of an execution below that epoch."""
        with self._lock:
            self._slots.revoke(execution_id, epoch)

    def fence_pool(self, epoch: int) -> None:
        """Refuse batches on slots that a pool below that epoch granted."""
        with self._lock:
            self._slots.pool_epoch = max(self._slots.pool_epoch, epoch)

    def revoke_token(self, token: str) -> bool:
        """Refuse a token from now on, and return its tasks that have not begun. Return whether no task runs on it.

        The method does not wait for a running task: the pool repeats the call.
        """
        with self._lock:
            self._slots.revoke_token(token, time.monotonic())
            return not self._slots.in_use(token)

    def census(self) -> list[tuple[str, str, int, int]]:
        """Return a row for each slot in use: token, execution id, step number, attempt."""
        with self._lock:
            return self._slots.census()

    def stop(self, drain_timeout: float = 0.0) -> bool:
        """Accept no more batches, return tasks that have not begun, wait for running ones, and end the threads.

        Tasks that still run afterwards are stopped, and abandoned after a short grace. However they end, they are
        reported as stopped: lost with the worker, neither completed nor failed.

        Args:
            drain_timeout: seconds to wait for running tasks.

        Returns:
            Whether all running tasks have ended without being stopped.
        """
        with self._lock:
            self._slots.close(time.monotonic())
            drained = self._ended.wait_for(lambda: not self._slots.active, drain_timeout)
            attempts = self._slots.end()
        for attempt in attempts:
            attempt.stop("the worker stops")
        with self._lock:
            self._ended.wait_for(lambda: not self._slots.active, STOP_GRACE)
            self._slots.abandon(time.monotonic())
            self._ended.notify_all()
            self._reporter.stop()
            threads = len(self._threads)
        self._setup.end()
        self._stopped.set()
        self._loop.stop(STOP_GRACE)
        for _ in range(threads):
            self._queue.put(None)
        return drained

    def _start(self) -> None:
        if self._open:
            return
        with self._opening:
            if not self._open:
                apply(self._environment)
                if self._system.separate:
                    record_imports()
                output.install()
                self._reporter.start(f"{self._name}/reporter")
                self._open = True

    def _take(self, message: BatchMessage) -> Batch:
        batch = self._slots.take(message)
        if len(self._threads) < len(self._slots.active):
            name = f"{self._name}/slot-{len(self._threads)}"
            thread = threading.Thread(target=self._serve, name=name, daemon=True)
            thread.start()
            self._threads.append(thread)
        self._reporter.resume()
        self._queue.put(batch)
        return batch

    def _serve(self) -> None:
        while (batch := self._queue.get()) is not None:
            while (attempt := self._begin(batch)) is not None:
                outcome = self._runner.run(attempt)
                with self._lock:
                    if outcome is None:
                        self._slots.not_begun(batch, time.monotonic())
                    else:
                        self._slots.finish(batch, outcome, time.monotonic())
                    if batch.finished:
                        self._slot_freed()

    def _begin(self, batch: Batch) -> Attempt | None:
        with self._lock:
            task = self._slots.begin(batch, self._clock.now(), time.monotonic())
            if task is None:
                self._slot_freed()
                return None
            attempt = batch.attempt = Attempt(
                task,
                self._name,
                batch.message.coordinator,
                beats=HeartbeatRecorder(task.beat_every, self._codec.encode, self._reporter.wake),
                prepared=self._setup.value,
                begun=self._begun,
                clock=self._clock.now,
                values=partial(self._values, batch, task.execution_id),
            )
            worn_now = self._slots.worn and not self._worn_reported
            self._worn_reported = self._slots.worn
        if worn_now:
            self._report_worn()
        return attempt

    def _values(self, batch: Batch, name: str, wait: Callable[[float], bool], storing: Callable[[], None]) -> Values:
        about = (self._system, self._codec, self._settings.large)
        return Values(*about, execution_id=name, refs=batch.refs, new_refs=batch.new_refs, wait=wait, storing=storing)

    def _slot_freed(self) -> None:
        self._ended.notify_all()
        if not self._slots.active:
            self._reporter.pause()

    def _running_attempts(self) -> list[Attempt]:
        with self._lock:
            return [batch.attempt for batch in self._slots.active.values() if batch.attempt is not None]

    def _report_worn(self) -> None:
        def replied(reply: Reply) -> None:
            if reply.error is not None:
                log.info("worker %s cannot report that it has to be replaced: %s", self._name, reply.error)

        send_to(self._system, self._settings.pool_actor, "worn", actor_names.worker_in(self._name), then=replied)

    def _resolve(self, code: Mapping[str, Any], part: str) -> Any:
        return self._cache.resolve(_reference(tuple(code.items())), part, self._fetch)

    def _fetch(self, digest: str) -> bytes:
        def get() -> Any:
            return self._system.find(self._settings.store_actor).call("blob", digest, timeout=FETCH_TIMEOUT)

        deadline = time.monotonic() + FETCH_TIMEOUT
        what, within = "the code of a step cannot be fetched", lambda: time.monotonic() <= deadline
        blob = retry_until(what, get, self._stopped.wait, within)
        if blob is None:
            raise StorageError(f"the store has no blob {digest} with the code of a step")
        return bytes(blob)


def _to_reply(batch: Batch, reply: BatchReply) -> bytes | Envelope:
    # The receiver keeps the references alive from now on: a batch may stay here long after its end.
    data, made = pack(reply), dict(batch.new_refs)
    batch.new_refs.clear()
    if batch.finished:
        batch.refs = {}
    return Envelope(data, made) if made else data


@functools.lru_cache(maxsize=1024)
def _reference(items: tuple[tuple[str, Any], ...]) -> CodeRef:
    return CodeRef.from_dict(dict(items))
