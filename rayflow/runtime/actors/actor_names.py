"""Names of the actors of a namespace, as a person sees them in the Ray dashboard."""

from __future__ import annotations

PERSISTENCE = "rayflow:persistence"
SUPERVISOR = "rayflow:supervisor"
_POOL = "rayflow:pool:"
_COORDINATOR = "rayflow:coordinator:"
_WORKER = "rayflow:worker:"


def pool(name: str) -> str:
    """The actor of a worker pool."""
    return _POOL + name


def coordinator(environment: str, unique: str) -> str:
    """A coordinator of a code environment."""
    return f"{_COORDINATOR}{environment}:{unique}"


def worker(pool_name: str, name: str) -> str:
    """The actor of a worker, which its pool and the leases call ``environment-epoch-unique``."""
    return f"{_WORKER}{pool_name}:{name}"


def worker_in(actor: str) -> str:
    """What its pool calls the worker of that actor."""
    return actor.rpartition(":")[2]


def is_coordinator(name: str) -> bool:
    """Whether a name is a coordinator's."""
    return name.startswith(_COORDINATOR)


def is_worker(name: str, pool_name: str | None = None) -> bool:
    """Whether a name is a worker's (of that pool)."""
    return name.startswith(_WORKER if pool_name is None else f"{_WORKER}{pool_name}:")


def environment_of(name: str) -> str:
    """The code environment in the name of a coordinator's actor, or in a worker's own name."""
    return name.split(":")[-2] if is_coordinator(name) else name.rsplit("-", 2)[0]
