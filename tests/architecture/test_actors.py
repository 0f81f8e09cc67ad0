"""Actor classes have no coroutine methods: one would make Ray run all calls on one event loop, one after another."""

from __future__ import annotations

import inspect

import pytest

from rayflow.runtime.coordinator.actor import CoordinatorActor
from rayflow.runtime.pool.actor import PoolActor
from rayflow.runtime.store.actor import StoreActor
from rayflow.runtime.supervisor.actor import SupervisorActor
from rayflow.runtime.worker.actor import Worker


@pytest.mark.parametrize(
    "actor", [StoreActor, SupervisorActor, CoordinatorActor, PoolActor, Worker], ids=lambda cls: cls.__name__
)
def test_no_method_of_an_actor_is_a_coroutine(actor: type) -> None:
    # As Ray 2.60 looks (ray/actor.py, has_async_methods): whatever the name.
    found = [name for name, _ in inspect.getmembers(actor, predicate=inspect.iscoroutinefunction)]
    found += [name for name, _ in inspect.getmembers(actor, predicate=inspect.isasyncgenfunction)]
    assert not found, f"{actor.__name__} becomes an asyncio actor by {found}: make it a function of the module"
