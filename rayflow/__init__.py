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
from rayflow.definition.function import WorkflowFunction, workflow
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
from rayflow.definition.start_options import ConfiguredWorkflow, SavedWorkflow, WorkflowCall
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
    InvalidArgument,
    InvalidInput,
    InvalidTransition,
    LockLost,
    LockPermitsMismatch,
    LockUnavailable,
    NonDeterminismError,
    PoolExists,
    PoolInUse,
    PoolNotFound,
    QueueFull,
    RayflowError,
    RequiresCluster,
    ResultTimeout,
    ScheduleExists,
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
    from rayflow.client.dead_letters import DeadLetterInfo, FailedAttempt
    from rayflow.client.distributed import DistributedEngine
    from rayflow.client.handle import ExecutionHandle
    from rayflow.client.local import LocalEngine
    from rayflow.client.locks import Lease, LockInfo
    from rayflow.client.pools import WorkerPool
    from rayflow.client.recovery import RecoveryManager
    from rayflow.client.retention import PurgeResult
    from rayflow.client.schedules import ScheduleInfo
    from rayflow.client.views import Output, WorkflowInfo
    from rayflow.core.cluster.metrics import DistributedMetrics, PoolStatus
    from rayflow.core.cluster.recovery import CoordinatorStatus, OverdueItem, RecoveryStatus
    from rayflow.core.execution.snapshot import ChildSnapshot, ExecutionSnapshot, StepSnapshot, TaskState, TaskStatus
    from rayflow.storage.codec.large_values import materialize

__all__ = [
    "Agent",
    "AgentOutput",
    "AgentResult",
    "ChildFailed",
    "ChildSnapshot",
    "ClusterError",
    "CodecError",
    "ConditionalStep",
    "ConfiguredWorkflow",
    "CoordinatorStatus",
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
    "FailedAttempt",
    "Failure",
    "IncompatibleVersion",
    "InvalidArgument",
    "InvalidInput",
    "InvalidTransition",
    "Lease",
    "LocalEngine",
    "Lock",
    "LockInfo",
    "LockLost",
    "LockPermitsMismatch",
    "LockUnavailable",
    "MapStep",
    "NonDeterminismError",
    "Output",
    "OverdueItem",
    "ParallelStep",
    "PoolConfig",
    "PoolExists",
    "PoolInUse",
    "PoolNotFound",
    "PoolStatus",
    "PurgeResult",
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
    "SavedWorkflow",
    "Schedule",
    "ScheduleExists",
    "ScheduleInfo",
    "ScheduleNotFound",
    "SequentialStep",
    "SideEffectError",
    "SingletonConflict",
    "Step",
    "StepContext",
    "StepFailed",
    "StepOptions",
    "StepResult",
    "StepSnapshot",
    "StepTimeout",
    "StorageError",
    "StorageUnavailable",
    "TaskState",
    "TaskStatus",
    "TerminalError",
    "TokenUsage",
    "WorkerPool",
    "Workflow",
    "WorkflowCall",
    "WorkflowFunction",
    "WorkflowInfo",
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

#: Names that are loaded when they are first used, with their modules.
_LAZY = {
    "ChildSnapshot": "rayflow.core.execution.snapshot",
    "CoordinatorStatus": "rayflow.core.cluster.recovery",
    "DeadLetterInfo": "rayflow.client.dead_letters",
    "DistributedEngine": "rayflow.client.distributed",
    "DistributedMetrics": "rayflow.core.cluster.metrics",
    "ExecutionHandle": "rayflow.client.handle",
    "ExecutionSnapshot": "rayflow.core.execution.snapshot",
    "FailedAttempt": "rayflow.client.dead_letters",
    "Lease": "rayflow.client.locks",
    "LocalEngine": "rayflow.client.local",
    "LockInfo": "rayflow.client.locks",
    "Output": "rayflow.client.views",
    "OverdueItem": "rayflow.core.cluster.recovery",
    "PoolStatus": "rayflow.core.cluster.metrics",
    "PurgeResult": "rayflow.client.retention",
    "RecoveryManager": "rayflow.client.recovery",
    "RecoveryStatus": "rayflow.core.cluster.recovery",
    "ScheduleInfo": "rayflow.client.schedules",
    "StepSnapshot": "rayflow.core.execution.snapshot",
    "TaskState": "rayflow.core.execution.snapshot",
    "TaskStatus": "rayflow.core.execution.snapshot",
    "WorkerPool": "rayflow.client.pools",
    "WorkflowInfo": "rayflow.client.views",
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
