"""The engine without Ray: the same machines, stores and actors, on threads of this process."""

from __future__ import annotations

import os
import uuid
from collections.abc import Mapping
from typing import Any

from rayflow.client.engine import Engine
from rayflow.client.pools import QueueBackpressure
from rayflow.client.workflow_guard import refused_in_workflows
from rayflow.definition.options import EngineConfig
from rayflow.errors import RequiresCluster
from rayflow.runtime.actors import actor_names
from rayflow.runtime.actors.thread_system import ThreadSystem
from rayflow.runtime.code.environment import Variables, capture
from rayflow.runtime.supervisor.actor import supervisor_spec
from rayflow.runtime.supervisor.actor_specs import store_spec
from rayflow.storage.base import Filter
from rayflow.storage.urls import resolve

#: What only a cluster can do, and what it is called in a message.
_NEEDS_CLUSTER = {"address": "join a cluster", "namespace": "keep actors in a namespace"}


@refused_in_workflows("engine", constructor=True)
class LocalEngine(Engine):
    """Runs executions in this process: for tests, laptops and quick looks.

    Executions are as durable as the store, and unfinished ones continue when the engine is opened again on the same
    store. They stop when this process ends. CPU-bound steps share one interpreter.

    Args:
        store: the store's URL; the default store ends with this process.
        config: the whole configuration; ``options`` are set on top of it.
        take_over: take over the store from another writer that is still alive; that writer is fenced and stops.
        options: fields of :class:`EngineConfig`.

    Raises:
        RequiresCluster: an option needs a cluster.
        StorageUnavailable: the store cannot be opened, or another process writes it.

    Example:
        >>> import rayflow as rf
        >>> @rf.workflow
        ... async def hello(name: str) -> str:
        ...     return f"hello {name}"
        >>> with rf.LocalEngine() as engine:
        ...     engine.execute(hello, "you")
        'hello you'
    """

    def __init__(
        self,
        store: str = "memory://",
        *,
        config: EngineConfig | None = None,
        take_over: bool = False,
        **options: Any,
    ) -> None:
        check_local(config, options)
        base = config or EngineConfig.load()
        chosen = base.replace(**{"max_coordinators": 1, "standby_coordinators": 1, **options})
        url = resolve(store, environ=os.environ)
        # A unique identity: two processes that write the same store must differ.
        self._threads = ThreadSystem(f"LocalEngine {uuid.uuid4().hex[:12]}")
        super().__init__(self._threads, chosen, url, capture()[0])
        try:
            self._open(take_over=take_over)
        except BaseException:
            self._threads.close()
            raise

    def _open(self, *, take_over: bool) -> None:
        self._threads.spawn(store_spec(self.store))
        self._backend.open_store(take_over=take_over)
        settings = self._settings()
        self._threads.spawn(supervisor_spec(settings))
        self._backend.settings()
        self._backpressure = QueueBackpressure(self.pools, settings.config.pool)
        self._backend.announce_environment(self._environment.to_json(), Variables())
        if self.config.recover:
            self.recovered = self._backend.recover()

    def driving(self) -> bool:
        """Return whether an execution runs in this process, or is about to."""
        names, now = set(self._threads.names()), self._backend.clock.now()
        driven = self._backend.executions(Filter(driven=True, limit=10_000))
        return any(
            record.coordinator in names
            if record.owner
            else record.runnable_at is not None and record.runnable_at <= now
            for record in driven
        )

    def close(self) -> None:
        """Stop all actors. Unfinished executions continue when an engine opens the same store again."""
        if self._backend.closed:
            return
        super().close()
        for name in sorted(self._threads.names(), key=_closing_order):
            self._threads.find(name).call("stop")
        self._threads.close()


def check_local(config: EngineConfig | None, options: Mapping[str, Any]) -> None:
    """Raise RequiresCluster if an option needs a cluster.

    Args:
        config: the whole configuration, if one was given.
        options: options that override it.
    """
    for option, what in _NEEDS_CLUSTER.items():
        if options.get(option) is not None or (config is not None and getattr(config, option) is not None):
            raise RequiresCluster(what)


def _closing_order(name: str) -> int:
    """Return the order of closing: actors that start others first, the store last."""
    first = [actor_names.SUPERVISOR, "rayflow:coordinator", "rayflow:pool", "rayflow:worker", actor_names.STORE]
    return next(i for i, prefix in enumerate(first) if name.startswith(prefix))
