"""Worker pools of a namespace: their records in the store and their actors.

All methods run on the supervisor's thread.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from rayflow.definition.options import PoolConfig
from rayflow.errors import CorruptRecord, InvalidArgument, PoolNotFound
from rayflow.runtime.actors import actor_names
from rayflow.runtime.actors.base import Actor, ActorSystem, send_to
from rayflow.runtime.actors.health import restarting_monitor
from rayflow.runtime.code.environment import Environment, Variables
from rayflow.runtime.settings import Settings
from rayflow.runtime.supervisor.actor_specs import pool_spec
from rayflow.storage.codec.schedules import pool_config
from rayflow.storage.model import PoolRecord

log = logging.getLogger(__name__)

#: Seconds within which a pool actor has to start.
_START_TIMEOUT = 60.0


class PoolRegistry:
    """The pools of a namespace."""

    def __init__(self, system: ActorSystem, settings: Settings, submit: Callable[[Callable[[], None]], None]) -> None:
        self._system = system
        self._settings = settings
        self._default = settings.config.pool
        self._names: set[str] = set()
        self._monitor = restarting_monitor(system, settings.config.ping_timeout, submit)

    def start(self, *, restarted: bool) -> None:
        """Start an actor for each pool.

        Args:
            restarted: whether the namespace is running already. Otherwise the default pool starts as configured,
                whatever size it had in an earlier cluster.
        """
        if not restarted:
            self._save(self._default)
        for record in self._call_store("pools"):
            try:
                pool_config(record)
            except CorruptRecord as error:
                if record.name != self._default.name:
                    log.error("pool %s does not start: %s", record.name, error)  # noqa: TRY400 - the message says it all
                    continue
                self._save(self._default)  # a namespace cannot work without it
            self._spawn(record.name).call("ready", timeout=_START_TIMEOUT)

    def save(self, config: PoolConfig) -> None:
        """Create a pool or change the existing one. Its actor reads the configuration from the store."""
        self._save(config)
        self._spawn(config.name).send("configure")

    def delete(self, name: str) -> None:
        """Delete a pool and its workers. The caller ensures that no execution needs it.

        Raises:
            InvalidArgument: if it is the default pool.
            PoolNotFound: if the pool does not exist.
        """
        if name == self._default.name:
            raise InvalidArgument(f"the default pool {name!r} cannot be deleted; scale it to 0 instead")
        if not self._call_store("delete_pool", name):
            raise PoolNotFound(name)
        self._names.discard(name)
        self._monitor.forget(actor_names.pool(name))
        self._system.kill(actor_names.pool(name))
        for actor in self._system.names():
            if actor_names.is_worker(actor, name):
                self._system.kill(actor)

    def want(self, env: Environment, variables: Variables) -> None:
        """Have workers of the default pool ready for a code environment."""
        send_to(self._system, actor_names.pool(self._default.name), "want", env.to_json(), variables)

    def forget(self, coordinator: str) -> None:
        """Notify all pools that a coordinator has ended."""
        for name in self._names:
            send_to(self._system, actor_names.pool(name), "forget", coordinator)

    def ping_all(self) -> None:
        """Ping the pool actors; one that stays silent for too long is killed and restarted."""
        for name in self._names:
            self._monitor.ping(actor_names.pool(name))

    def _save(self, config: PoolConfig) -> None:
        record = PoolRecord(config.name, config.model_dump_json().encode(), self._system.clock.now())
        self._call_store("save_pool", record)

    def _spawn(self, name: str) -> Actor:
        actor = self._system.spawn(pool_spec(name, self._settings))
        self._names.add(name)
        return actor

    def _call_store(self, method: str, *args: Any) -> Any:
        return self._system.find(actor_names.STORE).call(method, *args, timeout=self._settings.config.ping_timeout)
