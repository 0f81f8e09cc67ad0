"""Metrics: totals counted by a store, and the current state of its pools."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rayflow.definition.options import PoolConfig


@dataclass(frozen=True, slots=True)
class DistributedMetrics:
    """Totals of a store since its creation, and the current state of its pools.

    Totals are counted in the transactions of the counted events, so they survive restarts.

    Args:
        executions_started: accepted starts.
        executions_completed: completed executions.
        executions_failed: failed executions.
        executions_cancelled: cancelled executions.
        tasks_enqueued: started attempts at steps.
        tasks_completed: steps with a recorded result.
        tasks_failed: steps that used up their attempts.
        attempts_failed: attempts that failed in the step's code.
        attempts_lost: attempts lost to infrastructure.
        late_results: results of abandoned attempts, dropped.
        queue_depth: tasks that wait for a slot now.
        oldest_waiting: seconds that the oldest of these has waited.
        active_workers: workers that are up.
        tasks_processing: slots in use now.
        avg_task_duration: mean duration of all timed attempts, in seconds.
        avg_execution_time: mean time from start to end of all ended executions, in seconds.
    """

    executions_started: int = 0
    executions_completed: int = 0
    executions_failed: int = 0
    executions_cancelled: int = 0
    tasks_enqueued: int = 0
    tasks_completed: int = 0
    tasks_failed: int = 0
    attempts_failed: int = 0
    attempts_lost: int = 0
    late_results: int = 0
    queue_depth: int = 0
    oldest_waiting: float = 0.0
    active_workers: int = 0
    tasks_processing: int = 0
    avg_task_duration: float = 0.0
    avg_execution_time: float = 0.0

    @classmethod
    def of(cls, totals: Mapping[str, float], pools: Sequence[PoolStatus] = ()) -> DistributedMetrics:
        """Return the metrics for a store's totals and the status of its pools."""
        ended = sum(totals.get(f"executions_{how}", 0) for how in ("completed", "failed", "cancelled"))
        timed = totals.get("attempts_timed", 0)
        return cls(
            executions_started=int(totals.get("executions_started", 0)),
            executions_completed=int(totals.get("executions_completed", 0)),
            executions_failed=int(totals.get("executions_failed", 0)),
            executions_cancelled=int(totals.get("executions_cancelled", 0)),
            tasks_enqueued=int(totals.get("attempts_started", 0)),
            tasks_completed=int(totals.get("steps_completed", 0)),
            tasks_failed=int(totals.get("steps_failed", 0)),
            attempts_failed=int(totals.get("attempts_failed", 0)),
            attempts_lost=int(totals.get("attempts_lost", 0)),
            late_results=int(totals.get("late_results", 0)),
            queue_depth=sum(pool.queued for pool in pools),
            oldest_waiting=max((pool.oldest_waiting for pool in pools), default=0.0),
            active_workers=sum(pool.workers for pool in pools),
            tasks_processing=sum(pool.busy for pool in pools),
            avg_task_duration=totals.get("attempt_microseconds", 0) / 1e6 / timed if timed else 0.0,
            avg_execution_time=totals.get("execution_seconds", 0) / ended if ended else 0.0,
        )


@dataclass(frozen=True, slots=True)
class PoolStatus:
    """Status of a worker pool.

    Args:
        name: name of the pool.
        config: settings of the pool.
        queued: tasks that wait for a slot.
        oldest_waiting: seconds that the oldest of these has waited; 0 if none waits.
        full: whether the queue is at its limit.
        wanted: workers that the pool should have now, over all code environments with work.
        workers: workers that are up, including leaving ones.
        starting: workers that are not up yet.
        leaving: workers that stop once their tasks are done.
        busy: slots in use, including those of separate Ray tasks.
        idle: free slots of workers.
        problem: reason why workers do not start, as text; "" if they do.
    """

    name: str = "default"
    config: PoolConfig = PoolConfig()
    queued: int = 0
    oldest_waiting: float = 0.0
    full: bool = False
    wanted: int = 0
    workers: int = 0
    starting: int = 0
    leaving: int = 0
    busy: int = 0
    idle: int = 0
    problem: str = ""
