"""Local step runner: steps that run in the coordinator itself (``@step(local=True)`` and ``distributed=False``)."""

from __future__ import annotations

import itertools
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from rayflow.core.pool.slots import Key
from rayflow.runtime.actors import actor_names
from rayflow.runtime.actors.base import ActorSystem, as_envelope
from rayflow.runtime.code.environment import Environment
from rayflow.runtime.coordinator.pool_client import AttemptCallbacks
from rayflow.runtime.messages import BatchMessage, BatchReply, TaskMessage, pack, unpack
from rayflow.runtime.settings import Settings
from rayflow.runtime.worker.actor import Worker, WorkerSettings

#: Steps that run in one coordinator at the same time.
SLOTS = 32


class LocalStepRunner:
    """A worker inside the coordinator, with its own slots and no pool."""

    def __init__(self, host: AttemptCallbacks, system: ActorSystem, env: Environment, settings: Settings) -> None:
        self._host = host
        shared = (settings.allow_pickle, settings.config.large_value_bytes)
        about = WorkerSettings(SLOTS, "local", actor_names.STORE, *shared)
        self._worker = Worker(system, f"{host.name}:local", env, about)
        self._threads = ThreadPoolExecutor(SLOTS, thread_name_prefix="local")
        self._numbers = itertools.count(1)
        #: Tasks that wait for a thread. The coordinator's thread adds them, and the thread that begins one removes it.
        self._queued: set[Key] = set()

    def run(self, message: TaskMessage) -> None:
        """Run a task as soon as a thread is free."""
        self._queued.add((message.execution_id, message.seq, message.attempt))
        self._threads.submit(self._run, message)

    def cancel(self, key: Key) -> None:
        """Cancel a task whose result is no longer wanted: it does not begin, or is asked to stop."""
        self._queued.discard(key)
        self._worker.cancel(*key, "its result is no longer wanted")

    def forget(self, execution_id: str) -> None:
        """Withdraw the waiting tasks of an execution that is no longer driven here."""
        for key in [key for key in list(self._queued) if key[0] == execution_id]:
            self._queued.discard(key)

    def stop(self) -> None:
        """Accept no more tasks."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._worker.stop()

    def _run(self, message: TaskMessage) -> None:
        key = (message.execution_id, message.seq, message.attempt)
        try:
            self._queued.remove(key)
        except KeyError:
            return  # withdrawn
        self._host.submit(lambda: self._host.sent(key, self._host.now()))
        number = f"{self._host.name}/local/{next(self._numbers)}"
        batch = BatchMessage(number, "local", 0, self._host.name, (message,), 0.0)
        reply: BatchReply = unpack(as_envelope(self._worker.run(pack(batch))).data)
        for outcome in reply.outcomes:
            self._host.submit(partial(self._host.outcome, outcome, self._host.name, message.epoch))
