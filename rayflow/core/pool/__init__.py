"""Admission to a worker pool: leases of worker slots, shared limits, and the number of workers."""

from rayflow.core.pool.machine import PoolMachine
from rayflow.core.pool.protocol import (
    Command,
    Demand,
    EnvironmentStats,
    Grant,
    Lease,
    LeaseRevoked,
    Limit,
    PoolStats,
    PoolTerms,
    Recall,
    Revoke,
    RevokeReason,
    StartWorkers,
    StopWorker,
    is_ray_task_environment,
    ray_task_environment,
)

__all__ = [
    "Command",
    "Demand",
    "EnvironmentStats",
    "Grant",
    "Lease",
    "LeaseRevoked",
    "Limit",
    "PoolMachine",
    "PoolStats",
    "PoolTerms",
    "Recall",
    "Revoke",
    "RevokeReason",
    "StartWorkers",
    "StopWorker",
    "is_ray_task_environment",
    "ray_task_environment",
]
