"""Ray tasks: functions that run once, in their own process."""

# ruff: noqa: SLF001 - as in actors.py

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import ray
from ray import exceptions as failures
from ray._private.utils import get_runtime_env_info

from rayflow.errors import ClusterError
from rayflow.runtime.actors.base import Reply, TaskRefused, TaskSpec
from rayflow.runtime.actors.ray_system.cluster import api, environment_of, replies, require_cluster
from rayflow.runtime.actors.ray_system.errors import text_of, translated
from rayflow.runtime.actors.ray_system.pending_calls import Then


class RayTask:
    """A submitted Ray task, by the reference to its result."""

    def __init__(self, ref: Any) -> None:
        self._ref = ref

    def cancel(self, *, force: bool = False) -> None:
        """Stop the task by a KeyboardInterrupt; with ``force``, kill its process."""
        ray.cancel(self._ref, force=force, recursive=False)


def run(system: object, spec: TaskSpec, then: Then) -> RayTask:
    """Submit a task, as :meth:`~rayflow.runtime.actors.base.ActorSystem.run` requires.

    Raises:
        TaskRefused: if Ray refuses its options.
        ClusterError: if it cannot be submitted, or this process has not joined a cluster.
    """
    require_cluster()
    options = {**spec.options, "name": spec.name, "max_retries": 0}
    environment = environment_of(spec.runtime_env)
    try:
        # As for actors: .options() would make another environment.
        given = None if environment is None else get_runtime_env_info(environment, serialize=True)
        ref = _function(spec.fn, once=bool(spec.options.get("num_gpus")))._remote(
            args=[system, *spec.args], kwargs={}, serialized_runtime_env_info=given, **options
        )
    except (ValueError, TypeError) as error:
        raise TaskRefused(spec.name, text_of(error)) from error
    except failures.RayError as error:
        raise ClusterError(f"{spec.name} cannot be submitted as a Ray task: {text_of(error)}") from error
    settle = replies.expect(spec.name, then, ref)

    def ended(value: Any) -> None:
        settle(Reply(error=translated(spec.name, value)) if isinstance(value, failures.RayError) else Reply(value))

    ref._on_completed(ended)
    return RayTask(ref)


@functools.lru_cache(maxsize=16)
def _function(fn: Callable[..., Any], *, once: bool) -> Any:
    # One for each function, because Ray exports each one that is passed to it. A process that has used a GPU may keep
    # some of its memory, so it runs one task only; Ray ensures that only if the decorator names the GPU.
    return api.remote(max_calls=1)(fn) if once else api.remote(fn)
