"""Admission to a worker pool: who gets which slot of which worker, and when it is asked back."""

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
    is_own_tasks,
    own_tasks,
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
    "is_own_tasks",
    "own_tasks",
]
