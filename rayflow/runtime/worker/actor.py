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
from rayflow.runtime.actors.base import ActorSystem, Envelope, Reply, as_envelope, send_to
from rayflow.runtime.code.change_detector import CodeChangeDetector
from rayflow.runtime.code.environment import Environment, apply
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
FETCH_TIMEOUT = 10.0

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
    """

    concurrency: int
    pool: str
    store_actor: str
    allow_pickle: bool = True
    large: int = THRESHOLD
    setup: str = ""
    max_tasks: int | None = None
    pool_actor: str = ""


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
        folders = environment.paths if isinstance(environment, Environment) else environment.get("paths", ())
        self._code_changes = CodeChangeDetector(folders if system.separate else ())
        self._code_checked_at = 0.0
        self._resolved: CodeRef | None = None
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

    # --- about itself --------------------------------------------------------------------------------------
    def ready(self) -> dict[str, Any]:
        """Make the code environment usable and run the pool's setup; answers pid, Python version, node and pool.

        Raises:
            ClusterError: the setup failed. It is not tried again in this worker.
        """
        self._start()
        self._setup.begin()
        return {
            "pid": os.getpid(),
            "python": platform.python_version(),
            "node": platform.node(),
            "pool": self._settings.pool,
        }

    def ping(self) -> dict[str, int]:
        """Slots in use, and a counter that grows with each task that begins or ends."""
        with self._lock:
            return {"busy": len(self._slots.active), "progress": self._slots.progress}

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
        data, held = as_envelope(request)
        message: BatchMessage = unpack(data)
        self._start()
        outdated = self._code_changed_since(message.code_as_of)
        with self._lock:
            if outdated:
                self._slots.wear_out()
            batch, refused = self._slots.find(message.id), ""
            if batch is None:
                refused = self._slots.refusal(message)
                if not refused:
                    batch = self._take(message)
                    batch.refs = held
            worn = self._slots.worn
        if batch is None:
            if worn:
                self._report_worn()  # again: a pool that was restarted does not know
            return pack(BatchReply(refused=refused))
        early = len(message.tasks) > 1 or message.tell_begin
        batch.settled.wait(message.patience if early else None)
        with self._lock:
            return _to_reply(batch, self._slots.answer(batch, time.monotonic()))

    def collect(self, data: bytes) -> bytes | Envelope:
        """Wait for the running task of a batch that was answered early; answers a packed BatchReply.

        Args:
            data: packed (batch id, seconds to wait).

        Raises:
            LeaseLost: no such batch is here any more.
        """
        batch_id, seconds = unpack(data)
        with self._lock:
            batch = self._slots.find(batch_id)
        if batch is None:
            raise LeaseLost(f"worker {self._name} has no batch {batch_id!r}: it never came, or was collected long ago")
        batch.settled.wait(seconds)
        with self._lock:
            return _to_reply(batch, self._slots.collect(batch, time.monotonic()))

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
            known, attempts = self._slots.cancel((execution_id, seq, attempt), epoch, reason, self._clock.now())
        for found in attempts:
            found.stop(reason)
        return known

    # --- fencing -------------------------------------------------------------------------------------------
    def revoke(self, execution_id: str, epoch: int) -> None:
        """Begin nothing more of that execution below that epoch."""
        with self._lock:
            self._slots.revoke(execution_id, epoch)

    def fence_pool(self, epoch: int) -> None:
        """Take no more batches that were granted by a pool below that epoch."""
        with self._lock:
            self._slots.pool_epoch = max(self._slots.pool_epoch, epoch)

    def revoke_token(self, token: str) -> bool:
        """Refuse that token from now on and give back what has not begun with it; answers whether nothing runs with it.

        It does not wait: whoever wants to know when a running task has ended asks again.
        """
        with self._lock:
            self._slots.revoke_token(token, time.monotonic())
            return not self._slots.in_use(token)

    def census(self) -> list[tuple[str, str, int, int]]:
        """A row for each slot in use: token, execution id, sequence number, attempt."""
        with self._lock:
            return self._slots.census()

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

    # --- inside --------------------------------------------------------------------------------------------
    def _start(self) -> None:
        if self._open:
            return
        with self._opening:
            if not self._open:
                apply(self._environment)
                output.install()
                self._reporter.start(f"{self._name}/news")
                self._open = True

    def _take(self, message: BatchMessage) -> Batch:
        batch = self._slots.take(message)
        if len(self._threads) < len(self._slots.active):
            name = f"{self._name}/slot-{len(self._threads)}"
            thread = threading.Thread(target=self._serve, name=name, daemon=True)
            self._threads.append(thread)
            thread.start()
        self._reporter.work()
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

    def _values(self, batch: Batch, name: str, wait: Callable[[float], bool], keeping: Callable[[], None]) -> Values:
        about = (self._system, self._codec, self._settings.large)
        return Values(*about, execution_id=name, held=batch.refs, made=batch.new_refs, wait=wait, keeping=keeping)

    def _slot_freed(self) -> None:
        self._ended.notify_all()
        if not self._slots.active:
            self._reporter.rest()

    def _running_attempts(self) -> list[Attempt]:
        with self._lock:
            return [batch.attempt for batch in self._slots.active.values() if batch.attempt is not None]

    def _report_worn(self) -> None:
        def told(reply: Reply) -> None:
            if reply.error is not None:
                log.info("worker %s cannot say that it is worn: %s", self._name, reply.error)

        send_to(self._system, self._settings.pool_actor, "worn", actor_names.worker_in(self._name), then=told)

    # --- code ----------------------------------------------------------------------------------------------
    def _resolve(self, code: Mapping[str, Any], part: str) -> Any:
        reference = _reference(tuple(code.items()))
        found = self._cache.resolve(reference, part, self._fetch)
        if reference is not self._resolved:  # its module may have been imported just now
            self._code_changes.note()
            self._resolved = reference
        return found

    def _code_changed_since(self, moment: float) -> bool:
        """Whether the code that is loaded here was edited before that moment, as far as is not known already."""
        if moment <= self._code_checked_at:
            return False
        now = time.time()
        if self._code_changes.changed():
            return True
        self._code_checked_at = now
        return False

    def _fetch(self, digest: str) -> bytes:
        def get() -> Any:
            return self._system.find(self._settings.store_actor).call("blob", digest, timeout=FETCH_TIMEOUT)

        give_up = time.monotonic() + FETCH_TIMEOUT
        what, within = "the code of a step cannot be fetched", lambda: time.monotonic() <= give_up
        blob = retry_until(what, get, self._stopped.wait, within)
        if blob is None:
            raise StorageError(f"the store has no blob {digest}, which holds the code")
        return bytes(blob)


def _to_reply(batch: Batch, reply: BatchReply) -> bytes | Envelope:
    # What is told is held by who was told: a batch may be kept long after its end.
    data, made = pack(reply), dict(batch.new_refs)
    batch.new_refs.clear()
    if batch.finished:
        batch.refs = {}
    return Envelope(data, made) if made else data


@functools.lru_cache(maxsize=1024)
def _reference(items: tuple[tuple[str, Any], ...]) -> CodeRef:
    return CodeRef.from_dict(dict(items))
