"""Runs the steps of a coordinator that are Ray tasks of their own."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from rayflow.core.pool.step_limits import lacking, needs_of
from rayflow.definition.options import StepOptions
from rayflow.errors import ClusterError
from rayflow.runtime.actors import actor_names
from rayflow.runtime.actors.base import ActorSystem, Envelope, Reply, RunningTask, TaskSpec
from rayflow.runtime.code.environment import Environment, make_available, merged
from rayflow.runtime.settings import Settings
from rayflow.runtime.worker.actor import WorkerSettings
from rayflow.runtime.worker.ray_task import run_own_task

log = logging.getLogger(__name__)

#: Seconds for which it is remembered what the nodes have.
_NODES_FOR = 5.0

_OPTIONS = ("num_cpus", "num_gpus", "memory", "resources", "scheduling_strategy")


class RayTaskSubmitter:
    """See the module's docstring. Used on the coordinator's thread only.

    Args:
        system: where tasks run.
        name: the coordinator's name.
        env: its code environment.
        settings: shared by all actors of the namespace.
    """

    def __init__(self, system: ActorSystem, name: str, env: Environment, settings: Settings) -> None:
        self._system = system
        self._name = name
        self._env = env
        self._settings = WorkerSettings(
            1, "", actor_names.PERSISTENCE, settings.allow_pickle, settings.config.large_value_bytes
        )
        self._running: dict[str, RunningTask] = {}
        self._nodes: tuple[float, list[dict[str, float]]] = (0.0, [])
        self._provided = False
        # Ray uses a process again for tasks of the same environment; modules of two code environments, which may
        # have the same names, must not meet in one.
        self._apart = {"env_vars": {"RAYFLOW_CODE_ENVIRONMENT": env.id}}

    def run(
        self, batch: str, options: StepOptions, request: bytes | Envelope, label: str, then: Callable[[Reply], None]
    ) -> str:
        """Submit a task; it waits in Ray's own queue until there is room for it.

        Args:
            batch: its batch's id.
            options: the step's.
            request: the packed batch.
            label: what it is called in the Ray dashboard.
            then: told how it ended.

        Returns:
            What no node of the cluster has for it; "" if one has it all.

        Raises:
            TaskRefused: the options do not fit.
            ClusterError, StorageUnavailable: it cannot be submitted now.
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
            fn=run_own_task,
            name=label,
            args=(self._env, settings, f"{self._name}/task", request),
            options={name: value for name, value in given.items() if value is not None},
            runtime_env=merged(merged(self._env.runtime_env(), own), self._apart),
        )
        self._running[batch] = self._system.run(spec, then)
        needs = needs_of(options)
        if options.num_cpus is None:
            needs["CPU"] = 1.0  # what Ray reserves where nothing is said
        return lacking(needs, self._all_nodes())

    def stop(self, batch: str, *, force: bool = False) -> None:
        """Ask a task to stop, or kill its process."""
        running = self._running.get(batch)
        if running is not None:
            running.cancel(force=force)

    def over(self, batch: str) -> None:
        """The task has ended."""
        self._running.pop(batch, None)

    def _all_nodes(self) -> list[dict[str, float]]:
        asked, nodes = self._nodes
        if time.monotonic() > asked + _NODES_FOR:
            try:
                nodes = self._system.nodes()
            except ClusterError as error:
                log.warning("it is not known now what the cluster's nodes have: %s", error)
                nodes = []
            self._nodes = time.monotonic(), nodes
        return nodes
