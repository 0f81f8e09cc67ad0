"""The engine without Ray: the same machines, stores and actors, as threads of this process."""

from __future__ import annotations

import os
import uuid
from collections.abc import Mapping
from typing import Any

from rayflow.client.engine import Engine
from rayflow.client.pools import QueueBackpressure
from rayflow.definition.options import EngineConfig
from rayflow.errors import RequiresCluster
from rayflow.runtime.actors import actor_names
from rayflow.runtime.actors.thread_system import ThreadSystem
from rayflow.runtime.code.environment import Variables, capture
from rayflow.runtime.supervisor.actor import supervisor_spec
from rayflow.runtime.supervisor.actor_specs import persistence_spec
from rayflow.storage.base import Filter
from rayflow.storage.model import ExecutionRecord
from rayflow.storage.urls import resolve

#: What only a cluster can do, and what it is called in a message.
_NEEDS_CLUSTER = {"address": "join a cluster", "namespace": "keep actors in a namespace"}


class LocalEngine(Engine):
    """Runs executions in this process: for tests, laptops and quick looks.

    It records as durably as the store does, and takes up unfinished executions when it is opened again on the
    same store; but when this process ends, they stop. CPU-bound steps share one interpreter.

    Args:
        store: the store's URL; the default keeps nothing beyond this process.
        config: the whole configuration; ``options`` are set on top of it.
        take_over: take the store from another writer that is still alive; that one is fenced, and stops.
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
        # Its own, so that it is told from another process that writes the same store.
        self._threads = ThreadSystem(f"LocalEngine {uuid.uuid4().hex[:12]}")
        super().__init__(self._threads, chosen, url, capture()[0])
        try:
            self._open(take_over=take_over)
        except BaseException:
            self._threads.close()
            raise

    def _open(self, *, take_over: bool) -> None:
        self._threads.spawn(persistence_spec(self.store)).call("ready", take_over)
        settings = self._settings()
        self._threads.spawn(supervisor_spec(settings)).call("ready")
        self._room = QueueBackpressure(self.pools, settings.config.pool)
        self._supervisor().call("environment", self._env.to_json(), Variables())
        self.recovered: list[str] = []
        if self.config.recover:
            self.recovered = self._supervisor().call("recover")

    def driving(self) -> bool:
        """Whether any execution is under way in this process, or is about to be."""
        names, now = set(self._threads.names()), self.clock.now()
        driven: list[ExecutionRecord] = self._persistence().call("executions", Filter(driven=True, limit=10_000))
        return any(
            record.coordinator in names
            if record.owner
            else record.runnable_at is not None and record.runnable_at <= now
            for record in driven
        )

    def close(self) -> None:
        """Stop. Unfinished executions go on when an engine opens the same store again."""
        if self._closed:
            return
        super().close()
        for name in sorted(self._threads.names(), key=_closing_order):
            self._threads.find(name).call("stop")
        self._threads.close()


def check_local(config: EngineConfig | None, options: Mapping[str, Any]) -> None:
    """Raise RequiresCluster if an option needs a cluster.

    Args:
        config: the whole configuration, if one was given.
        options: what is set on top of it.
    """
    for option, what in _NEEDS_CLUSTER.items():
        if options.get(option) is not None or (config is not None and getattr(config, option) is not None):
            raise RequiresCluster(what)


def _closing_order(name: str) -> int:
    """Those that start others first, the store last."""
    first = [actor_names.SUPERVISOR, "rayflow:coordinator", "rayflow:pool", "rayflow:worker", actor_names.PERSISTENCE]
    return next(i for i, prefix in enumerate(first) if name.startswith(prefix))
