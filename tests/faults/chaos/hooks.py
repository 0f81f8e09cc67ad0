"""What a run puts into its own processes from outside, when they import what it concerns. Nothing of rayflow knows.

Workers remember which coordinator sent what, so that the ledger can say it; most coordinators and workers are made on
the nodes beside the head, which are lost and hang; and the store's connections fail when the run says so
(``trouble.py``).
"""

from __future__ import annotations

import dataclasses
import importlib.util
import random
import sys
from collections.abc import Callable, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

#: The variable that has the run's folder.
VARIABLE = "RAYFLOW_CHAOS_FOLDER"

#: A resource that every node has but the head, and the share of actors that are made there.
BESIDE, SHARE = "beside", 0.7

#: Who sent what this worker runs, by execution and epoch.
senders: dict[tuple[str, int], str] = {}


def install(folder: str) -> None:
    """Have this process do what a run needs of it.

    Args:
        folder: the run's.
    """

    def store(module: Any) -> None:
        from tests.faults.chaos import trouble

        trouble.install(module.SqliteStore, Path(folder))

    sys.meta_path.insert(
        0,
        _After(
            {
                "rayflow.runtime.worker.slots": remember_senders,
                "rayflow.runtime.pool.workers": lambda module: spread(module, "ActorSpec"),
                "rayflow.runtime.supervisor.coordinators": lambda module: spread(module, "coordinator_spec"),
                "rayflow.storage.sqlite.store": store,
            }
        ),
    )


def remember_senders(module: Any) -> None:
    """Have the module's batches remember who sent them."""
    take = module.WorkerSlots.take

    def taken(self: Any, message: Any) -> Any:
        senders.update(((task.execution_id, task.epoch), message.coordinator) for task in message.tasks)
        return take(self, message)

    module.WorkerSlots.take = taken


def spread(module: Any, name: str) -> None:
    """Have most of a module's actors made beside the head, where there is a node: Ray leaves nearly all to the head.

    That they reserve whole CPUs would spread them, too; but where a GCS dies while it has an actor made, Ray may keep
    for ever what was reserved.

    Args:
        module: the module.
        name: of what makes its actors' specifications there.
    """
    made = getattr(module, name)

    def specification(*args: Any, **options: Any) -> Any:
        spec = made(*args, **options)
        beside = _nodes_beside() and random.random() < SHARE
        return dataclasses.replace(spec, resources={BESIDE: 0.001}) if beside else spec

    setattr(module, name, specification)


def _nodes_beside() -> bool:
    import ray

    nodes: Any = ray.nodes  # Ray does not say what it answers
    return any(node["Alive"] and BESIDE in node["Resources"] for node in nodes())


class _After(MetaPathFinder):
    """Calls something when a module has been imported.

    Args:
        actions: what, by the module's name.
    """

    def __init__(self, actions: dict[str, Callable[[Any], None]]) -> None:
        self._actions = actions

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        action = self._actions.pop(fullname, None)
        if action is None:
            return None
        spec = importlib.util.find_spec(fullname)  # by the others: it is not ours any more
        assert spec is not None
        assert spec.loader is not None
        execute = spec.loader.exec_module

        def executed(module: ModuleType) -> None:
            execute(module)
            action(module)

        spec.loader.exec_module = executed  # type: ignore[method-assign]
        return spec
