"""Names of the actors of a namespace, as the Ray dashboard shows them."""

from __future__ import annotations

STORE = "rayflow:store"
SUPERVISOR = "rayflow:supervisor"
_POOL = "rayflow:pool:"
_COORDINATOR = "rayflow:coordinator:"
_WORKER = "rayflow:worker:"


def pool(name: str) -> str:
    """Return the actor name of a worker pool."""
    return _POOL + name


def coordinator(environment: str, unique: str) -> str:
    """Return the actor name of a coordinator of a code environment."""
    return f"{_COORDINATOR}{environment}:{unique}"


def worker(pool_name: str, name: str) -> str:
    """Return the actor name of a worker; pools and leases call the worker ``environment-epoch-unique``."""
    return f"{_WORKER}{pool_name}:{name}"


def worker_in(actor: str) -> str:
    """Return the worker's name in its pool, from its actor name."""
    return actor.rpartition(":")[2]


def is_coordinator(name: str) -> bool:
    """Return whether an actor name belongs to a coordinator."""
    return name.startswith(_COORDINATOR)


def is_worker(name: str, pool_name: str | None = None) -> bool:
    """Return whether an actor name belongs to a worker (of that pool)."""
    return name.startswith(_WORKER if pool_name is None else f"{_WORKER}{pool_name}:")


def environment_of(name: str) -> str:
    """Return the code environment in the actor name of a coordinator, or in a worker's name in its pool."""
    return name.split(":")[-2] if is_coordinator(name) else name.rsplit("-", 2)[0]
