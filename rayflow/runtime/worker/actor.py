"""A worker: runs batches of tasks on its slots.

The worker owns its threads (one for each slot, one loop for async steps, one that brings news to coordinators) and one
lock; what is decided under that lock is in :mod:`rayflow.runtime.worker.slots`, how one attempt runs in
:mod:`rayflow.runtime.worker.attempt`, what its pool's setup did in :mod:`rayflow.runtime.worker.setup`. Pools steer
work by leases; the worker is the truth: it refuses what its slots cannot take, and what an older pool or coordinator
sends.
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
from rayflow.runtime.actors.base import ActorSystem, Envelope, Reply, opened, send_to
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

#: Seconds that the worker tries to get a blob while the store cannot be reached.
FETCH_PATIENCE = 10.0

#: Seconds for the clean-up of steps that are told to stop because the worker does.
STOP_GRACE = 1.0


@dataclass(frozen=True, slots=True)
class WorkerSettings:
    """How a worker runs.

    Args:
        concurrency: slots: batches that it works on at once.
        pool: name of its pool.
        store_actor: name of the actor that answers ``blob(digest)``.
        allow_pickle: whether payloads may hold pickles, and code may travel by value.
        large: bytes of a payload beyond which a value is kept by reference.
        setup: its pool's setup, as :func:`~rayflow.definition.setup.setup_reference` answers it; "" for none.
        max_tasks: tasks that it begins, after which it is to be replaced; None for any number.
        pool_actor: name of the actor that is told so, by ``worn(worker)``.
        own_variables: environment variables that the pool or the step sets itself; they count for more than those of
            the code environment.
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
    """See the module's docstring. All public methods are called by other actors, from several threads.

    Args:
        system: where it lives.
        name: its name.
        environment: its code environment, applied at its first use.
        settings: how it runs.
        begun: told of each attempt that begins, before its step is called.
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
        self._prepared = PoolSetup(
            settings.setup, settings.pool, self._fetch, self._loop, allow_pickle=settings.allow_pickle
        )
        self._news = ProgressReporter(system, self._under_way)
        self._begun = begun
        self._told_worn = False
        self._opening = threading.Lock()
        self._open = False
        self._lock = threading.Lock()
        self._ended = threading.Condition(self._lock)
        self._batches = WorkerSlots(settings.concurrency, most=settings.max_tasks)
        self._queue: queue.SimpleQueue[Batch | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._stopped = threading.Event()

    # --- about itself --------------------------------------------------------------------------------------
    def ready(self, variables: Variables | None = None) -> dict[str, Any]:
        """Make the code environment usable and run the pool's setup; answers pid, Python version, node and pool.

        Args:
            variables: those of the code environment; None if they are not known, which is enough once it has begun.

        Raises:
            ClusterError: the setup failed, which is not tried again in this worker; or variables are not known.
        """
        if not self._open and isinstance(self._environment, Environment):
            supplied(self._environment, variables).without(self._settings.own_variables).apply()
        self._start()
        self._prepared.begin()
        return {
            "pid": os.getpid(),
            "python": platform.python_version(),
            "node": platform.node(),
            "pool": self._settings.pool,
        }

    def ping(self) -> dict[str, int]:
        """Slots in use, and a counter that grows with each task that begins or ends."""
        with self._lock:
            return {"busy": len(self._batches.active), "progress": self._batches.progress}

    def pid(self) -> int:
        """The id of its process."""
        return os.getpid()

    def watch(self) -> None:
        """Return when the worker was stopped. Who calls it learns of its death by the call's failure."""
        self._stopped.wait()

    # --- work ----------------------------------------------------------------------------------------------
    def run(self, request: bytes | Envelope) -> bytes | Envelope:
        """Run a packed BatchMessage; answers a packed BatchReply.

        A batch of one is waited for to its end, unless it is to tell its begin. Any other is answered when its
        patience is up: what has not begun is given back, and what runs is asked for with :meth:`collect`. A batch
        that comes again while it is under way, or kept for collecting, is not run again.
        """
        data, held = opened(request)
        message: BatchMessage = unpack(data)
        self._start()
        outdated = bool(message.code) and self._detector.outdated(message.code)
        with self._lock:
            if outdated:
                self._batches.wear_out()
            batch, refused = self._batches.find(message.id), ""
            if batch is None:
                refused = self._batches.refusal(message)
                if not refused:
                    batch = self._take(message)
                    batch.held = held
            worn = self._batches.worn
        if batch is None:
            if worn:
                self._tell_worn()  # again: a pool that was restarted does not know
            return pack(BatchReply(refused=refused))
        early = len(message.tasks) > 1 or message.tell_begin
        batch.settled.wait(message.patience if early else None)
        with self._lock:
            return _sealed(batch, self._batches.answer(batch, time.monotonic()))

    def collect(self, data: bytes) -> bytes | Envelope:
        """Wait for the running task of a batch that was answered early; answers a packed BatchReply.

        Args:
            data: packed (batch id, seconds to wait).

        Raises:
            LeaseLost: no such batch is here any more.
        """
        batch_id, seconds = unpack(data)
        with self._lock:
            batch = self._batches.find(batch_id)
        if batch is None:
            raise LeaseLost(f"worker {self._name} has no batch {batch_id!r}: it never came, or was collected long ago")
        batch.settled.wait(seconds)
        with self._lock:
            return _sealed(batch, self._batches.collect(batch, time.monotonic()))

    def cancel(self, execution_id: str, seq: int, attempt: int, reason: str = "", epoch: int | None = None) -> bool:
        """Stop an attempt: withdraw it, cancel it (async), or set its ``step_context().cancelled`` (sync).

        Args:
            execution_id: which execution.
            seq: which step.
            attempt: which attempt.
            reason: why, for people.
            epoch: only attempts of coordinators up to this epoch; None for any.

        Returns:
            Whether the attempt was waiting or under way here.
        """
        with self._lock:
            known, attempts = self._batches.cancel((execution_id, seq, attempt), epoch, reason, self._clock.now())
        for found in attempts:
            found.stop(reason)
        return known

    # --- fencing -------------------------------------------------------------------------------------------
    def revoke(self, execution_id: str, epoch: int) -> None:
        """Begin nothing more of that execution below that epoch."""
        with self._lock:
            self._batches.revoke(execution_id, epoch)

    def fence_pool(self, epoch: int) -> None:
        """Take no more batches that were granted by a pool below that epoch."""
        with self._lock:
            self._batches.pool_epoch = max(self._batches.pool_epoch, epoch)

    def revoke_token(self, token: str) -> bool:
        """Refuse that token from now on and give back what has not begun with it; answers whether nothing runs with it.

        It does not wait: whoever wants to know when a running task has ended asks again.
        """
        with self._lock:
            self._batches.revoke_token(token, time.monotonic())
            return not self._batches.in_use(token)

    def census(self) -> list[tuple[str, str, int, int]]:
        """A row for each slot in use: token, execution id, sequence number, attempt."""
        with self._lock:
            return self._batches.census()

    # --- its end -------------------------------------------------------------------------------------------
    def stop(self, drain_timeout: float = 0.0) -> bool:
        """Take nothing more, give back what has not begun, wait for what runs, and end the threads.

        What still runs afterwards is told to stop, and after a short grace given up. However it ends, it is
        answered as stopped: lost with the worker, neither done nor failed.

        Args:
            drain_timeout: seconds to wait for what runs.

        Returns:
            Whether everything that had begun has ended by itself.
        """
        with self._lock:
            self._batches.close(time.monotonic())
            drained = self._ended.wait_for(lambda: not self._batches.active, drain_timeout)
            attempts = self._batches.end()
        for attempt in attempts:
            attempt.stop("the worker stops")
        with self._lock:
            self._ended.wait_for(lambda: not self._batches.active, STOP_GRACE)
            self._batches.give_up(time.monotonic())
            self._ended.notify_all()
            self._news.stop()
            threads = len(self._threads)
        self._prepared.end()
        self._stopped.set()
        self._loop.stop(STOP_GRACE)
        for _ in range(threads):
            self._queue.put(None)
        return drained

    # --- inside --------------------------------------------------------------------------------------------
    def _start(self) -> None:
        if self._open:
            return
        with self._opening:
            if not self._open:
                apply(self._environment)
                if self._system.separate:
                    record_imports()
                output.install()
                self._news.start(f"{self._name}/news")
                self._open = True

    def _take(self, message: BatchMessage) -> Batch:
        batch = self._batches.take(message)
        if len(self._threads) < len(self._batches.active):
            name = f"{self._name}/slot-{len(self._threads)}"
            thread = threading.Thread(target=self._serve, name=name, daemon=True)
            self._threads.append(thread)
            thread.start()
        self._news.work()
        self._queue.put(batch)
        return batch

    def _serve(self) -> None:
        while (batch := self._queue.get()) is not None:
            while (attempt := self._begin(batch)) is not None:
                outcome = self._runner.run(attempt)
                with self._lock:
                    if outcome is None:
                        self._batches.not_begun(batch, time.monotonic())
                    else:
                        self._batches.finish(batch, outcome, time.monotonic())
                    if batch.over:
                        self._free()

    def _begin(self, batch: Batch) -> Attempt | None:
        with self._lock:
            task = self._batches.begin(batch, self._clock.now(), time.monotonic())
            if task is None:
                self._free()
                return None
            attempt = batch.attempt = Attempt(
                task,
                self._name,
                batch.message.coordinator,
                beats=HeartbeatRecorder(task.beat_every, self._codec.encode, self._news.wake),
                prepared=self._prepared.value,
                begun=self._begun,
                clock=self._clock.now,
                values=partial(self._values, batch, task.execution_id),
            )
            worn_now = self._batches.worn and not self._told_worn
            self._told_worn = self._batches.worn
        if worn_now:
            self._tell_worn()
        return attempt

    def _values(self, batch: Batch, name: str, wait: Callable[[float], bool], keeping: Callable[[], None]) -> Values:
        about = (self._system, self._codec, self._settings.large)
        return Values(*about, execution_id=name, held=batch.held, made=batch.made, wait=wait, keeping=keeping)

    def _free(self) -> None:
        self._ended.notify_all()
        if not self._batches.active:
            self._news.rest()

    def _under_way(self) -> list[Attempt]:
        with self._lock:
            return [batch.attempt for batch in self._batches.active.values() if batch.attempt is not None]

    def _tell_worn(self) -> None:
        def told(reply: Reply) -> None:
            if reply.error is not None:
                log.info("worker %s cannot say that it is worn: %s", self._name, reply.error)

        send_to(self._system, self._settings.pool_actor, "worn", actor_names.worker_in(self._name), then=told)

    # --- code ----------------------------------------------------------------------------------------------
    def _resolve(self, code: Mapping[str, Any], part: str) -> Any:
        return self._cache.resolve(_reference(tuple(code.items())), part, self._fetch)

    def _fetch(self, digest: str) -> bytes:
        def get() -> Any:
            return self._system.find(self._settings.store_actor).call("blob", digest, timeout=FETCH_PATIENCE)

        give_up = time.monotonic() + FETCH_PATIENCE
        what, within = "the code of a step cannot be fetched", lambda: time.monotonic() <= give_up
        blob = retry_until(what, get, self._stopped.wait, within)
        if blob is None:
            raise StorageError(f"the store has no blob {digest}, which holds the code")
        return bytes(blob)


def _sealed(batch: Batch, reply: BatchReply) -> bytes | Envelope:
    # What is told is held by who was told: a batch may be kept long after its end.
    data, made = pack(reply), dict(batch.made)
    batch.made.clear()
    if batch.over:
        batch.held = {}
    return Envelope(data, made) if made else data


@functools.lru_cache(maxsize=1024)
def _reference(items: tuple[tuple[str, Any], ...]) -> CodeRef:
    return CodeRef.from_dict(dict(items))
