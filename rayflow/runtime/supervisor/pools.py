"""Which worker pools a namespace has: their records in the store, and their actors.

Everything is called on the supervisor's one thread.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from rayflow.definition.options import PoolConfig
from rayflow.errors import CorruptRecord, DefinitionError, PoolNotFound
from rayflow.runtime.actors import actor_names
from rayflow.runtime.actors.base import Actor, ActorSystem, send_to
from rayflow.runtime.actors.health import keeping_alive
from rayflow.runtime.code.environment import Environment, Variables
from rayflow.runtime.settings import Settings
from rayflow.runtime.supervisor.actor_specs import pool_spec
from rayflow.storage.codec.schedules import pool_config
from rayflow.storage.model import PoolRecord

log = logging.getLogger(__name__)

#: Seconds that a pool's actor may take to be ready.
_READY = 60.0


class PoolRegistry:
    """See the module's docstring.

    Args:
        system: where actors are made and found.
        settings: shared by all actors of the namespace.
        post: runs an action on the supervisor's thread.
    """

    def __init__(self, system: ActorSystem, settings: Settings, post: Callable[[Callable[[], None]], None]) -> None:
        self._system = system
        self._settings = settings
        self._default = settings.config.pool
        self._kept: set[str] = set()
        self._pings = keeping_alive(system, settings.config.ping_timeout, post)

    def begin(self, *, restarted: bool) -> None:
        """Have an actor for each pool.

        Args:
            restarted: the namespace is at work already. Else the default pool begins as it is configured, whatever
                size it was given in an earlier cluster.
        """
        if not restarted:
            self._keep(self._default)
        for record in self._ask("pools"):
            try:
                pool_config(record)
            except CorruptRecord as error:
                if record.name != self._default.name:
                    log.error("pool %s cannot begin, others can: %s", record.name, error)  # noqa: TRY400 - it says it all
                    continue
                self._keep(self._default)  # there is no namespace without it
            self._open(record.name).call("ready", timeout=_READY)

    def save(self, config: PoolConfig) -> None:
        """Make a pool, or change the one of that name. Its actor reads it when it begins, and when it is told."""
        self._keep(config)
        self._open(config.name).send("configure")

    def delete(self, name: str) -> None:
        """Delete a pool with its workers; nothing may need it any more.

        Raises:
            DefinitionError: it is the default pool.
            PoolNotFound: there is none of that name.
        """
        if name == self._default.name:
            raise DefinitionError(f"the default pool {name!r} cannot be deleted; scale it to 0 instead")
        if not self._ask("delete_pool", name):
            raise PoolNotFound(name)
        self._kept.discard(name)
        self._pings.forget(actor_names.pool(name))
        self._system.kill(actor_names.pool(name))
        for actor in self._system.names():
            if actor_names.is_worker(actor, name):
                self._system.kill(actor)

    def want(self, env: Environment, variables: Variables) -> None:
        """An engine of this code environment is at work: have the default pool's workers ready."""
        send_to(self._system, actor_names.pool(self._default.name), "want", env.to_json(), variables)

    def forget(self, coordinator: str) -> None:
        """A coordinator died."""
        for name in self._kept:
            send_to(self._system, actor_names.pool(name), "forget", coordinator)

    def ping_all(self) -> None:
        """Ping the pools' actors; one that does not answer for long is killed and made anew."""
        for name in self._kept:
            self._pings.ping(actor_names.pool(name))

    def _keep(self, config: PoolConfig) -> None:
        self._ask("save_pool", PoolRecord(config.name, config.model_dump_json().encode(), self._system.clock.now()))

    def _open(self, name: str) -> Actor:
        actor = self._system.spawn(pool_spec(name, self._settings))
        self._kept.add(name)
        return actor

    def _ask(self, method: str, *args: Any) -> Any:
        return self._system.find(actor_names.PERSISTENCE).call(
            method, *args, timeout=self._settings.config.ping_timeout
        )
