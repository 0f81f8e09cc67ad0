"""Worker pools of a namespace: create, list, scale, drain, delete."""

from __future__ import annotations

import time

from rayflow.client.backend import Backend
from rayflow.client.workflow_guard import refused_in_workflows
from rayflow.core.cluster.metrics import PoolStatus
from rayflow.definition.options import PoolConfig
from rayflow.definition.setup import setup_reference
from rayflow.definition.start_options import WhenFull
from rayflow.errors import CorruptRecord, InvalidArgument, PoolExists, PoolInUse, PoolNotFound, QueueFull
from rayflow.storage.codec.payloads import MsgpackCodec
from rayflow.storage.codec.schedules import pool_config
from rayflow.storage.model import PoolRecord

#: Fields in which a pool may differ from the configuration it is created with again: its size changes.
_SIZE = ("workers", "min_workers", "max_workers")

#: Seconds in which coordinators release slots that they no longer use.
_RELEASE_TIME = 1.0

#: Seconds between two checks of a pool that drains.
_CHECK_INTERVAL = 0.1

#: Seconds between two checks of a full queue: the first, and at most.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.01, 0.5


@refused_in_workflows("pool")
class WorkerPool:
    """One worker pool. The object may be dropped at any time; the pool outlives the process that created it.

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
        """Return queue, workers, slots and why workers do not start. Raises PoolNotFound."""
        return self._pools.status(self.name)

    def scale(
        self, workers: int | None = None, *, min_workers: int | None = None, max_workers: int | None = None
    ) -> None:
        """Change the pool's size while it runs. Surplus workers finish their tasks first.

        Args:
            workers: number of workers; with 0 all workers stop and tasks wait.
            min_workers: scale by the waiting work instead, with at least this number.
            max_workers: the same, with at most this number.

        Raises:
            InvalidArgument: the numbers are not valid.
            PoolNotFound: the pool was deleted.

        Example:
            >>> engine.pools.get("gpu").scale(6)  # doctest: +SKIP
        """
        bounds = {"min_workers": min_workers, "max_workers": max_workers}
        if (workers is None) == (bounds == dict.fromkeys(bounds)):
            raise InvalidArgument(
                "scale() takes either a number of workers, or min_workers and max_workers for automatic scaling"
            )
        config = self._pools.config(self.name)
        self._pools.change(config.replace(**bounds, **({} if workers is None else {"workers": workers})))

    def drain(self, timeout: float | None = None) -> bool:
        """Stop all workers, each after its tasks. Waiting tasks wait until the pool is scaled up again.

        Args:
            timeout: seconds to wait for the last one; None waits without a limit.

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
            time.sleep(_CHECK_INTERVAL)

    def delete(self, *, force: bool = False) -> None:
        """Delete the pool and its workers. Steps that name the pool fail from then on.

        Args:
            force: delete it also while tasks wait for it or run on it.

        Raises:
            InvalidArgument: it is the default pool.
            PoolInUse: tasks wait for it or run on it.
            PoolNotFound: the pool does not exist.
        """
        give_up = time.monotonic() + _RELEASE_TIME
        while not force and ((now := self.status()).queued or now.busy):
            if time.monotonic() < give_up:
                time.sleep(_CHECK_INTERVAL)  # coordinators keep slots for a moment after the last task
                continue
            raise PoolInUse(self.name, queued=now.queued, busy=now.busy)
        self._pools.remove(self.name)


@refused_in_workflows("engine.pools")
class Pools:
    """The worker pools of an engine's namespace.

    Args:
        backend: where pools are read and written.
        codec: says whether a setup may travel as a pickle.
    """

    def __init__(self, backend: Backend, codec: MsgpackCodec) -> None:
        self._backend = backend
        self._codec = codec

    def create(self, config: PoolConfig) -> WorkerPool:
        """Create a pool, or return the existing one if its settings are the same; its size may differ.

        Raises:
            PoolExists: there is a pool of that name with other settings.
        """
        config = resolve_setup(config, self._backend, allow_pickle=self._codec.allow_pickle)
        found = self._backend.pool(config.name)
        if found is None:
            self._backend.save_pool(config)
            return WorkerPool(self, config.name)
        try:
            there = pool_config(found)
        except CorruptRecord:  # creating it again repairs it
            self._backend.save_pool(config)
            return WorkerPool(self, config.name)
        differ = [
            f"{name}={getattr(config, name)!r} (existing: {getattr(there, name)!r})"
            for name in PoolConfig.model_fields
            if name not in _SIZE and getattr(config, name) != getattr(there, name)
        ]
        if differ:
            raise PoolExists(config.name, differences="; ".join(differ))
        return WorkerPool(self, config.name)

    def get(self, name: str = "default") -> WorkerPool:
        """Return the pool of that name. Raises PoolNotFound."""
        self.config(name)
        return WorkerPool(self, name)

    def list(self) -> list[PoolStatus]:
        """Return the status of each pool, by name; a damaged configuration is reported as the pool's problem."""
        return [self._now(record) for record in self._backend.pools()]

    def _now(self, record: PoolRecord) -> PoolStatus:
        try:
            pool_config(record)
        except CorruptRecord as error:
            return PoolStatus(record.name, problem=str(error))
        return self.status(record.name)

    def config(self, name: str) -> PoolConfig:
        """Return a pool's configuration. Raises PoolNotFound, or CorruptRecord."""
        record = self._backend.pool(name)
        if record is None:
            raise PoolNotFound(name, known=tuple(each.name for each in self._backend.pools()))
        return pool_config(record)

    def status(self, name: str) -> PoolStatus:
        """Return a pool's status. Raises PoolNotFound."""
        self.config(name)
        return self._backend.pool_status(name)

    def change(self, config: PoolConfig) -> None:
        """Change a pool, and wait until the pool actor has the configuration."""
        self._backend.save_pool(config)

    def remove(self, name: str) -> None:
        """Delete a pool and its workers."""
        self._backend.delete_pool(name)


def resolve_setup(config: PoolConfig, backend: Backend, *, allow_pickle: bool) -> PoolConfig:
    """Return the configuration with its setup as a reference that any process can load; store code sent by value."""
    if config.setup is None:
        return config
    reference, blob = setup_reference(config.setup, allow_pickle=allow_pickle)
    if blob is not None:
        backend.put_blob(reference.rpartition(":")[2], blob)
    return config.replace(setup=reference)


class QueueBackpressure:
    """Backpressure on starts while the queue of the default pool is at its limit.

    Args:
        pools: the pools.
        config: of the default pool.
    """

    def __init__(self, pools: Pools, config: PoolConfig) -> None:
        self._pools = pools
        self._name = config.name
        self._limit = config.queue_limit

    def wait(self, *, when_full: WhenFull) -> None:
        """Wait until the queue has room; returns at once if the pool has no limit. Raises QueueFull for "raise"."""
        if self._limit is None:
            return
        pause = _FIRST_PAUSE
        while self._pools.status(self._name).full:
            if when_full == "raise":
                raise QueueFull(self._name, limit=self._limit, who='when_full="raise" was given. Nothing was started')
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)
