"""Worker pools, as an engine shows them: made, looked at, scaled, drained, deleted."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from rayflow.client.workflow_guard import refused_in_workflows
from rayflow.core.cluster.metrics import PoolStatus
from rayflow.definition.options import PoolConfig
from rayflow.definition.setup import setup_reference
from rayflow.errors import CorruptRecord, DefinitionError, PoolNotFound, QueueFull
from rayflow.runtime.actors import actor_names
from rayflow.runtime.actors.base import Actor, ActorSystem, RetryingActor
from rayflow.storage.codec.payloads import MsgpackCodec
from rayflow.storage.codec.schedules import pool_config
from rayflow.storage.model import PoolRecord

#: What may differ between a pool and the configuration that somebody creates it with again: its size changes.
_SIZE = ("workers", "min_workers", "max_workers")

#: Seconds that slots which nobody uses any more may take to be given back.
_LET_GO = 1.0

#: Seconds between two looks at a pool that is being drained.
_LOOK = 0.1

#: Seconds between two looks at a queue that is full: at first, and at most.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.01, 0.5


@refused_in_workflows("pool")
class WorkerPool:
    """One worker pool. It may be dropped at any time: the pool outlives the process that made it.

    Args:
        pools: the pools that it belongs to.
        name: its name.
    """

    def __init__(self, pools: Pools, name: str) -> None:
        self._pools = pools
        self.name = name

    def __repr__(self) -> str:
        return f"<worker pool {self.name!r}>"

    def status(self) -> PoolStatus:
        """What it does now: queue, workers, slots, and why workers do not start. Raises PoolNotFound."""
        return self._pools.status(self.name)

    def scale(
        self, workers: int | None = None, *, min_workers: int | None = None, max_workers: int | None = None
    ) -> None:
        """Change its size while it runs. Nothing is lost: workers that are too many finish their tasks first.

        Args:
            workers: so many, from now on; 0 stops all, and tasks wait.
            min_workers: scale by the waiting work instead, with at least so many.
            max_workers: the same, at most so many.

        Raises:
            DefinitionError: the numbers do not fit.
            PoolNotFound: it was deleted.

        Example:
            >>> engine.pools.get("gpu").scale(6)  # doctest: +SKIP
        """
        bounds = {"min_workers": min_workers, "max_workers": max_workers}
        if (workers is None) == (bounds == dict.fromkeys(bounds)):
            raise DefinitionError(
                "scale() needs a number of workers, or min_workers and max_workers to scale by itself"
            )
        config = self._pools.config(self.name)
        self._pools.save(config.replace(**bounds, **({} if workers is None else {"workers": workers})))

    def drain(self, timeout: float | None = None) -> bool:
        """Stop all workers, each once its tasks are done; what waits, waits until the pool is scaled up again.

        Args:
            timeout: seconds to wait for the last one; None for as long as it takes.

        Returns:
            Whether no worker is left.
        """
        self.scale(0)
        give_up = None if timeout is None else time.monotonic() + timeout
        while True:
            now = self.status()
            if not now.workers + now.starting + now.leaving:
                return True
            if give_up is not None and time.monotonic() > give_up:
                return False
            time.sleep(_LOOK)

    def delete(self, *, force: bool = False) -> None:
        """Delete it, with its workers. Steps that name it fail from then on.

        Args:
            force: also while tasks wait for it or run in it.

        Raises:
            DefinitionError: it is the default pool, or it is in use.
            PoolNotFound: there is none.
        """
        give_up = time.monotonic() + _LET_GO
        while not force and ((now := self.status()).queued or now.busy):
            if time.monotonic() < give_up:
                time.sleep(_LOOK)  # slots are kept for a moment after the last task
                continue
            raise DefinitionError(
                f"pool {self.name!r} is in use: {now.queued} tasks wait and {now.busy} slots are taken. Wait, cancel "
                "what uses it, or pass force"
            )
        self._pools.remove(self.name)


@refused_in_workflows("engine.pools")
class Pools:
    """The worker pools of an engine's namespace.

    Args:
        system: where the actors are.
        codec: says whether a setup may travel as a pickle.
        closed: whether the engine is.
    """

    def __init__(self, system: ActorSystem, codec: MsgpackCodec, closed: Callable[[], bool]) -> None:
        self._system = system
        self._codec = codec
        self._closed = closed

    def create(self, config: PoolConfig) -> WorkerPool:
        """Make a pool. One of that name with the same settings is answered as it is, whatever its size is now.

        Raises:
            DefinitionError: there is one with other settings.
        """
        config = portable(config, self._system, allow_pickle=self._codec.allow_pickle)
        found = self._record(config.name)
        if found is None:
            self.save(config)
            return WorkerPool(self, config.name)
        try:
            there = pool_config(found)
        except CorruptRecord:  # whoever creates it again mends it
            self.save(config)
            return WorkerPool(self, config.name)
        differ = [
            f"{name}={getattr(config, name)!r} (there: {getattr(there, name)!r})"
            for name in PoolConfig.model_fields
            if name not in _SIZE and getattr(config, name) != getattr(there, name)
        ]
        if differ:
            raise DefinitionError(
                f"there is a pool {config.name!r} with other settings: {'; '.join(differ)}. Delete it first, or give "
                "this one another name"
            )
        return WorkerPool(self, config.name)

    def get(self, name: str = "default") -> WorkerPool:
        """The pool of that name. Raises PoolNotFound."""
        self.config(name)
        return WorkerPool(self, name)

    def list(self) -> list[PoolStatus]:
        """What each pool does now, by name; of one whose configuration is damaged, that this is its problem."""
        return [self._now(record) for record in self._ask("pools")]

    def _now(self, record: PoolRecord) -> PoolStatus:
        try:
            pool_config(record)
        except CorruptRecord as error:
            return PoolStatus(record.name, problem=str(error))
        return self.status(record.name)

    # --- for WorkerPool ------------------------------------------------------------------------------------
    def config(self, name: str) -> PoolConfig:
        """How a pool is configured. Raises PoolNotFound, or CorruptRecord."""
        record = self._record(name)
        if record is None:
            raise PoolNotFound(name, known=tuple(each.name for each in self._ask("pools")))
        return pool_config(record)

    def status(self, name: str) -> PoolStatus:
        """What a pool does now. Raises PoolNotFound."""
        self.config(name)
        now: PoolStatus = self._reach(actor_names.pool(name)).call("now", group="control")
        return now

    def save(self, config: PoolConfig) -> None:
        """Make or change a pool, and wait until it is so."""
        self._system.find(actor_names.SUPERVISOR).call("save_pool", config.model_dump_json())
        self._reach(actor_names.pool(config.name)).call("configure")

    def remove(self, name: str) -> None:
        """Delete a pool."""
        self._system.find(actor_names.SUPERVISOR).call("delete_pool", name)

    def _record(self, name: str) -> PoolRecord | None:
        found: PoolRecord | None = self._ask("pool", name)
        return found

    def _ask(self, method: str, *args: Any) -> Any:
        return self._reach(actor_names.PERSISTENCE).call(method, *args)

    def _reach(self, name: str) -> Actor:
        return RetryingActor(self._system, name, self._closed)


def portable(config: PoolConfig, system: ActorSystem, *, allow_pickle: bool) -> PoolConfig:
    """The configuration with its setup as a reference that any process finds; what has to be carried is stored."""
    if config.setup is None:
        return config
    reference, blob = setup_reference(config.setup, allow_pickle=allow_pickle)
    if blob is not None:
        RetryingActor(system, actor_names.PERSISTENCE).call("put_blob", reference.rpartition(":")[2], blob)
    return config.replace(setup=reference)


class QueueBackpressure:
    """Pushes back on whoever starts executions while the default pool's queue is at its limit.

    Args:
        pools: the pools.
        config: of the default pool.
    """

    def __init__(self, pools: Pools, config: PoolConfig) -> None:
        self._pools = pools
        self._name = config.name
        self._limit = config.queue_limit

    def make(self, *, wait: bool) -> None:
        """Wait until the queue has room; costs nothing where it has no limit. Raises QueueFull without ``wait``."""
        if self._limit is None:
            return
        pause = _FIRST_PAUSE
        while self._pools.status(self._name).full:
            if not wait:
                raise QueueFull(self._name, limit=self._limit, who="wait=False was given. Nothing was started")
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)
