"""The engine on a Ray cluster."""

from __future__ import annotations

import logging
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from rayflow.client.engine import Engine
from rayflow.client.pools import QueueBackpressure
from rayflow.client.workflow_guard import refused_in_workflows
from rayflow.definition.options import EngineConfig
from rayflow.errors import ClusterError
from rayflow.runtime.actors import actor_names
from rayflow.runtime.cluster import connection
from rayflow.runtime.code.environment import capture, variables_of
from rayflow.runtime.supervisor.actor import supervisor_spec
from rayflow.runtime.supervisor.actor_specs import store_spec
from rayflow.storage.urls import namespace_of, resolve

log = logging.getLogger(__name__)

#: Options that belong to this engine alone and may differ from those of the running actors.
_OWN = frozenset({"store", "namespace", "address", "recover"})

#: Seconds that the actors of a namespace may take to be ready.
_READY = 120.0

#: The blob that holds the store's salt for digests of variables.
_SALT = "variables-salt"


@refused_in_workflows("engine", constructor=True)
class DistributedEngine(Engine):
    """Runs executions on a Ray cluster, where they survive the death of any process, this one included.

    The engine joins the cluster at ``address`` or ``RAY_ADDRESS``, or the one that runs on this machine. Without one it
    starts an independent local cluster, which keeps running when this process ends (``rayflow down`` stops it).

    Args:
        store: the store's URL; None takes ``RAYFLOW_STORE``, then a file in the user's data folder.
        address: the Ray cluster's address; None looks for one as described above.
        namespace: Ray namespace of the actors; None derives it from the store's URL.
        config: the whole configuration; ``options`` are set on top of it.
        take_over: take over the store from another writer that is still alive; that writer is fenced and stops.
        options: fields of :class:`EngineConfig`.

    Raises:
        ClusterError: no cluster can be joined or started, or the namespace's actors were made with other settings.
        StorageUnavailable: the store cannot be opened, or another cluster writes it.

    Attributes:
        address: the address of the cluster.
        namespace: the Ray namespace of the actors.

    Example:
        >>> with rf.DistributedEngine(store="sqlite:///flows.db") as engine:  # doctest: +SKIP
        ...     engine.execute(analyse, "…")
    """

    def __init__(
        self,
        store: str | None = None,
        *,
        address: str | None = None,
        namespace: str | None = None,
        config: EngineConfig | None = None,
        take_over: bool = False,
        **options: Any,
    ) -> None:
        given = {"store": store, "address": address, "namespace": namespace, **options}
        given = {name: value for name, value in given.items() if value is not None}
        chosen = EngineConfig.load(**given) if config is None else config.replace(**given)
        self._connection = connection.connect(chosen.address)
        from rayflow.runtime.actors.ray_system import RaySystem, get_package, job_runtime_env

        runtime_env = job_runtime_env()
        self._variables = variables_of(runtime_env)
        env, self._packages = capture(runtime_env, get_package)
        url = resolve(chosen.store, environ=os.environ, forbidden=[Path.cwd()] if env.working_dir else [])
        self.namespace = chosen.namespace or namespace_of(url)
        self._system = RaySystem(self.namespace)
        super().__init__(self._system, chosen, url, env)
        self.address = self._connection.address
        try:
            self._open(take_over=take_over)
        except BaseException:
            self._connection.close()
            raise

    def _open(self, *, take_over: bool) -> None:
        self._system.spawn(store_spec(self.store))
        bound = self._backend.open_store(take_over=take_over, timeout=_READY)
        if bound != self.store:
            raise ClusterError(
                f"namespace {self.namespace!r} of this cluster is bound to the store {bound!r}, not to "
                f"{self.store!r}; use that store, or give this engine a separate namespace"
            )
        settings = self._settings()
        self._system.spawn(supervisor_spec(settings))
        running = self._backend.settings(timeout=_READY)
        self._check_settings(settings.config, running.config)
        # An engine writes no pickle where the namespace refuses to read one.
        self._codec.allow_pickle &= running.allow_pickle
        self._backpressure = QueueBackpressure(self.pools, running.config.pool)
        for name, package in self._packages.items():
            self._backend.put_blob(name, package)
        if self._variables.names:
            digest = self._variables.digest(self._salt())
            self._use_environment(replace(self._environment, variables=self._variables.names, variables_digest=digest))
        self._backend.announce_environment(self._environment.to_json(), self._variables)
        if self.config.recover:
            self.recovered = self._backend.recover(timeout=_READY)
            if self.recovered:
                log.info("resumed on opening: %s", ", ".join(self.recovered))

    def _salt(self) -> bytes:
        """Return the store's salt for digests of variables; the first engine that needs the salt creates it."""
        known = self._backend.blob(_SALT)
        if known is None:
            self._backend.put_blob(_SALT, os.urandom(16))
            known = self._backend.blob(_SALT)
        if known is None:
            raise ClusterError("the store does not keep the salt for the digests of environment variables")
        return known

    def _check_settings(self, ours: EngineConfig, running: EngineConfig) -> None:
        differ = [
            f"{name}={getattr(ours, name)!r} (running: {getattr(running, name)!r})"
            for name in sorted(self.config.model_fields_set - _OWN)
            if getattr(ours, name) != getattr(running, name)
        ]
        if differ:
            raise ClusterError(
                f"the actors of namespace {self.namespace!r} run with other settings: {'; '.join(differ)}. Leave "
                "these options out, or stop the actors first (engine.shutdown() or `rayflow down`)"
            )

    def close(self) -> None:
        """Close the engine. Executions continue; ``engine.handle(id)`` of another engine finds them."""
        if self._backend.closed:
            return
        super().close()
        self._connection.close()

    def shutdown(self) -> None:
        """Stop all actors of this namespace, then close. Unfinished executions continue with the next engine."""
        names = sorted(self._system.names(), key=lambda name: name != actor_names.SUPERVISOR)
        for name in names:
            self._system.kill(name)
        self.close()
