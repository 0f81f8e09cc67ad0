"""Durable workflows for AI agents on Ray.

Write steps and workflows as plain ``async`` Python, run them with :class:`DistributedEngine` on a Ray cluster, or
with :class:`LocalEngine` without one. ``import rayflow`` stays light: Ray is imported when an engine is made.
"""

from __future__ import annotations

import importlib
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as _distribution_version
from typing import TYPE_CHECKING, Any

from rayflow.definition.agent import Agent, AgentOutput, AgentResult, TokenUsage, agent
from rayflow.definition.api import (
    Lock,
    StepContext,
    compensate,
    continue_as_new,
    lock,
    now,
    patched,
    random,
    semaphore,
    send_signal,
    start_child,
    state,
    step_context,
    uuid4,
    wait_for_signal,
)
from rayflow.definition.declared_steps import (
    ConditionalStep,
    DistributedParallelStep,
    MapStep,
    ParallelStep,
    RemoteStep,
    RetryStep,
    SequentialStep,
    StepResult,
)
from rayflow.definition.function import ChildWorkflow, WorkflowFunction, workflow
from rayflow.definition.options import (
    EngineConfig,
    ExecutionOptions,
    PoolConfig,
    RateLimit,
    Retention,
    RetryPolicy,
    StepOptions,
)
from rayflow.definition.schedule import Schedule
from rayflow.definition.step import Step, step
from rayflow.definition.workflow import Workflow
from rayflow.errors import (
    ChildFailed,
    ClusterError,
    CodecError,
    CorruptRecord,
    DeadLetterNotFound,
    Deadlock,
    DefinitionError,
    ExecutionAlreadyExists,
    ExecutionCancelled,
    ExecutionFailed,
    ExecutionNotFound,
    ExecutionTimeout,
    Failure,
    IncompatibleVersion,
    InvalidTransition,
    LeaseLost,
    LockLost,
    LockPermitsMismatch,
    LockUnavailable,
    NonDeterminismError,
    PoolNotFound,
    QueueFull,
    RayflowError,
    RequiresCluster,
    ResultTimeout,
    ScheduleNotFound,
    SideEffectError,
    SingletonConflict,
    StepFailed,
    StepTimeout,
    StorageError,
    StorageUnavailable,
    TerminalError,
    WorkflowNotRegistered,
    WorkflowStalled,
    WriterFenced,
)
from rayflow.ids import ExecutionStatus

if TYPE_CHECKING:
    from rayflow.client.dead_letters import DeadLetterInfo
    from rayflow.client.distributed import DistributedEngine
    from rayflow.client.handle import ExecutionHandle
    from rayflow.client.local import LocalEngine
    from rayflow.client.pools import WorkerPool
    from rayflow.client.recovery import RecoveryManager
    from rayflow.core.cluster.metrics import DistributedMetrics, PoolStatus
    from rayflow.core.cluster.recovery import OverdueItem, RecoveryStatus
    from rayflow.core.execution.snapshot import ExecutionSnapshot, TaskStatus
    from rayflow.storage.codec.large_values import materialize

__all__ = [
    "Agent",
    "AgentOutput",
    "AgentResult",
    "ChildFailed",
    "ChildWorkflow",
    "ClusterError",
    "CodecError",
    "ConditionalStep",
    "CorruptRecord",
    "DeadLetterInfo",
    "DeadLetterNotFound",
    "Deadlock",
    "DefinitionError",
    "DistributedEngine",
    "DistributedMetrics",
    "DistributedParallelStep",
    "EngineConfig",
    "ExecutionAlreadyExists",
    "ExecutionCancelled",
    "ExecutionFailed",
    "ExecutionHandle",
    "ExecutionNotFound",
    "ExecutionOptions",
    "ExecutionSnapshot",
    "ExecutionStatus",
    "ExecutionTimeout",
    "Failure",
    "IncompatibleVersion",
    "InvalidTransition",
    "LeaseLost",
    "LocalEngine",
    "Lock",
    "LockLost",
    "LockPermitsMismatch",
    "LockUnavailable",
    "MapStep",
    "NonDeterminismError",
    "OverdueItem",
    "ParallelStep",
    "PoolConfig",
    "PoolNotFound",
    "PoolStatus",
    "QueueFull",
    "RateLimit",
    "RayflowError",
    "RecoveryManager",
    "RecoveryStatus",
    "RemoteStep",
    "RequiresCluster",
    "ResultTimeout",
    "Retention",
    "RetryPolicy",
    "RetryStep",
    "Schedule",
    "ScheduleNotFound",
    "SequentialStep",
    "SideEffectError",
    "SingletonConflict",
    "Step",
    "StepContext",
    "StepFailed",
    "StepOptions",
    "StepResult",
    "StepTimeout",
    "StorageError",
    "StorageUnavailable",
    "TaskStatus",
    "TerminalError",
    "TokenUsage",
    "WorkerPool",
    "Workflow",
    "WorkflowFunction",
    "WorkflowNotRegistered",
    "WorkflowStalled",
    "WriterFenced",
    "__version__",
    "agent",
    "compensate",
    "continue_as_new",
    "lock",
    "materialize",
    "now",
    "patched",
    "random",
    "semaphore",
    "send_signal",
    "start_child",
    "state",
    "step",
    "step_context",
    "uuid4",
    "wait_for_signal",
    "workflow",
]

#: What is loaded when it is first used, and from where.
_LAZY = {
    "DeadLetterInfo": "rayflow.client.dead_letters",
    "DistributedEngine": "rayflow.client.distributed",
    "DistributedMetrics": "rayflow.core.cluster.metrics",
    "ExecutionHandle": "rayflow.client.handle",
    "ExecutionSnapshot": "rayflow.core.execution.snapshot",
    "LocalEngine": "rayflow.client.local",
    "OverdueItem": "rayflow.core.cluster.recovery",
    "PoolStatus": "rayflow.core.cluster.metrics",
    "RecoveryManager": "rayflow.client.recovery",
    "RecoveryStatus": "rayflow.core.cluster.recovery",
    "TaskStatus": "rayflow.core.execution.snapshot",
    "WorkerPool": "rayflow.client.pools",
    "materialize": "rayflow.storage.codec.large_values",
}

try:
    __version__ = _distribution_version("rayflow-durable")
except PackageNotFoundError:  # a checkout on the path, not installed
    __version__ = "0.0.0+unknown"


def __getattr__(name: str) -> Any:
    module = _LAZY.get(name)
    if module is None:
        raise AttributeError(f"module 'rayflow' has no attribute {name!r}")
    value = getattr(importlib.import_module(module), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
