"""Steps that run in the coordinator itself: ``@step(local=True)`` and ``distributed=False``."""

from __future__ import annotations

import itertools
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from rayflow.core.pool.slots import Key
from rayflow.runtime.actors import actor_names
from rayflow.runtime.actors.base import ActorSystem, opened
from rayflow.runtime.code.environment import Environment
from rayflow.runtime.coordinator.pool_client import AttemptCallbacks
from rayflow.runtime.messages import BatchMessage, BatchReply, TaskMessage, pack, unpack
from rayflow.runtime.settings import Settings
from rayflow.runtime.worker.actor import Worker, WorkerSettings

#: Steps that run in one coordinator at once.
SLOTS = 32


class LocalStepRunner:
    """A worker inside the coordinator, with slots of its own and no pool.

    Args:
        host: the coordinator.
        system: where the store is found.
        env: the code environment.
        settings: shared by all actors of the namespace.
    """

    def __init__(self, host: AttemptCallbacks, system: ActorSystem, env: Environment, settings: Settings) -> None:
        self._host = host
        shared = (settings.allow_pickle, settings.config.large_value_bytes)
        about = WorkerSettings(SLOTS, "local", actor_names.PERSISTENCE, *shared)
        self._worker = Worker(system, f"{host.name}:local", env, about)
        self._threads = ThreadPoolExecutor(SLOTS, thread_name_prefix="local")
        self._numbers = itertools.count(1)
        #: Tasks that wait for a thread. Added by the coordinator's thread, taken by whoever is first.
        self._queued: set[Key] = set()

    def run(self, message: TaskMessage) -> None:
        """Run a task as soon as there is room."""
        self._queued.add((message.execution_id, message.seq, message.attempt))
        self._threads.submit(self._run, message)

    def cancel(self, key: Key) -> None:
        """Nobody waits for the task any more: it does not begin, or is asked to stop."""
        self._queued.discard(key)
        self._worker.cancel(*key, "nobody waits for it")

    def forget(self, execution_id: str) -> None:
        """The execution is not driven here any more: what has not begun does not begin."""
        for key in [key for key in list(self._queued) if key[0] == execution_id]:
            self._queued.discard(key)

    def stop(self) -> None:
        """Take no more tasks."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._worker.stop()

    def _run(self, message: TaskMessage) -> None:
        key = (message.execution_id, message.seq, message.attempt)
        try:
            self._queued.remove(key)
        except KeyError:
            return  # withdrawn
        self._host.post(lambda: self._host.sent(key, self._host.now()))
        number = f"{self._host.name}/local/{next(self._numbers)}"
        batch = BatchMessage(number, "local", 0, self._host.name, (message,), 0.0)
        reply: BatchReply = unpack(opened(self._worker.run(pack(batch))).data)
        for outcome in reply.outcomes:
            self._host.post(partial(self._host.outcome, outcome, self._host.name, message.epoch))
