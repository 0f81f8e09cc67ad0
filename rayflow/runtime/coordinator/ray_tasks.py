"""Ray task submitter: runs the steps of a coordinator that need their own process as Ray tasks."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from rayflow.core.pool.step_limits import missing_resources, resource_needs
from rayflow.definition.options import StepOptions
from rayflow.errors import ClusterError
from rayflow.runtime.actors import actor_names
from rayflow.runtime.actors.base import ActorSystem, Envelope, Reply, RunningTask, TaskSpec
from rayflow.runtime.code.environment import Environment, make_available, merged
from rayflow.runtime.settings import Settings
from rayflow.runtime.worker.actor import WorkerSettings
from rayflow.runtime.worker.ray_task import run_ray_task

log = logging.getLogger(__name__)

#: Seconds for which the resources of the nodes are cached.
_NODES_TTL = 5.0

_OPTIONS = ("num_cpus", "num_gpus", "memory", "resources", "scheduling_strategy")


class RayTaskSubmitter:
    """Submits and stops Ray tasks. All methods run on the coordinator's thread."""

    def __init__(self, system: ActorSystem, name: str, env: Environment, settings: Settings) -> None:
        self._system = system
        self._name = name
        self._env = env
        self._settings = WorkerSettings(
            1, "", actor_names.STORE, settings.allow_pickle, settings.config.large_value_bytes
        )
        self._running: dict[str, RunningTask] = {}
        self._nodes: tuple[float, list[dict[str, float]]] = (0.0, [])
        self._provided = False
        # Ray reuses a process for tasks of the same environment. Modules of two code environments may have the same
        # names, so they must not be loaded into one process.
        self._isolation = {"env_vars": {"RAYFLOW_CODE_ENVIRONMENT": env.id}}

    def run(
        self, batch: str, options: StepOptions, request: bytes | Envelope, label: str, then: Callable[[Reply], None]
    ) -> str:
        """Submit a task, which waits in Ray's queue until the cluster has room for it.

        Args:
            batch: the id of its batch.
            options: the options of the step.
            request: the packed batch.
            label: the task's name in the Ray dashboard.
            then: receives the reply.

        Returns:
            The resources that no node of the cluster has; "" if one has all.

        Raises:
            TaskRefused: if the options are invalid.
            ClusterError, StorageUnavailable: if it cannot be submitted now.
        """
        if not self._provided:
            make_available(self._system, self._env)
            self._provided = True
        own = options.runtime_env or {}
        settings = replace(self._settings, own_variables=tuple(own.get("env_vars") or ()))
        given: dict[str, Any] = {name: getattr(options, name) for name in _OPTIONS}
        if options.resources is not None:
            given["resources"] = dict(options.resources)
        spec = TaskSpec(
            fn=run_ray_task,
            name=label,
            args=(self._env, settings, f"{self._name}/task", request),
            options={name: value for name, value in given.items() if value is not None},
            runtime_env=merged(merged(self._env.runtime_env(), own), self._isolation),
        )
        self._running[batch] = self._system.run(spec, then)
        needs = resource_needs(options)
        if options.num_cpus is None:
            needs["CPU"] = 1.0  # Ray's default
        return missing_resources(needs, self._all_nodes())

    def stop(self, batch: str, *, force: bool = False) -> None:
        """Ask a task to stop; with ``force``, kill its process."""
        running = self._running.get(batch)
        if running is not None:
            running.cancel(force=force)

    def forget(self, batch: str) -> None:
        """Drop a task that has ended."""
        self._running.pop(batch, None)

    def _all_nodes(self) -> list[dict[str, float]]:
        asked, nodes = self._nodes
        if time.monotonic() > asked + _NODES_TTL:
            try:
                nodes = self._system.nodes()
            except ClusterError as error:
                log.warning("cannot read the resources of the nodes, assuming there are enough: %s", error)
                nodes = []
            self._nodes = time.monotonic(), nodes
        return nodes
