"""Specifications of the store, pool and coordinator actors."""

from __future__ import annotations

from rayflow.runtime.actors import actor_names
from rayflow.runtime.actors.base import ActorSpec
from rayflow.runtime.code.environment import Environment
from rayflow.runtime.coordinator.actor import CoordinatorActor
from rayflow.runtime.pool.actor import PoolActor
from rayflow.runtime.settings import Settings
from rayflow.runtime.store.actor import StoreActor


def store_spec(url: str) -> ActorSpec:
    """Return the specification of the store actor: pinned next to its disk, restarted when it dies."""
    return ActorSpec(
        cls=StoreActor,
        name=actor_names.STORE,
        args=(url,),
        threads=32,
        # Few threads for large values: each holds one in memory.
        groups={"control": 2, "completions": 64, "values": 2, "loads": 4},
        restart=True,
        pinned=True,
    )


def pool_spec(name: str, settings: Settings) -> ActorSpec:
    """Return the specification of a pool actor."""
    return ActorSpec(
        cls=PoolActor,
        name=actor_names.pool(name),
        args=(name, settings),
        groups={"control": 2},
        restart=True,
        pinned=True,
    )


def coordinator_spec(name: str, env: Environment, settings: Settings) -> ActorSpec:
    """Return the specification of a coordinator: not restarted, because another coordinator takes over."""
    return ActorSpec(
        cls=CoordinatorActor,
        name=name,
        args=(name, env, settings),
        groups={"watch": 2, "control": 4},
        runtime_env=env.runtime_env(),
    )
