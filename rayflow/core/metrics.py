"""The seed's metrics: what a store has counted, and what its pools do now."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class DistributedMetrics:
    """Totals of a store since it was made, and the present state of its pools.

    Totals are counted in the transactions of what they count, so they survive every restart.

    Args:
        executions_started: accepted starts.
        executions_completed: executions that completed.
        executions_failed: executions that failed.
        executions_cancelled: executions that were cancelled.
        tasks_enqueued: attempts at steps that were begun.
        tasks_completed: steps whose result was recorded.
        tasks_failed: steps that used up their attempts.
        attempts_failed: attempts that the steps themselves failed.
        attempts_lost: attempts lost to infrastructure.
        late_results: answers of abandoned attempts, dropped.
        queue_depth: tasks that wait for a slot now.
        oldest_waiting: seconds that the oldest of them has waited.
        active_workers: workers that are up.
        tasks_processing: slots in use now.
        avg_task_duration: seconds, the mean of all attempts that were timed.
        avg_execution_time: seconds from start to end, the mean of all that ended.
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
    def of(cls, totals: Mapping[str, float], pool: PoolNow | None = None) -> DistributedMetrics:
        """The metrics of a store's totals and a pool's present state."""
        ended = sum(totals.get(f"executions_{how}", 0) for how in ("completed", "failed", "cancelled"))
        timed = totals.get("attempts_timed", 0)
        now = pool or PoolNow()
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
            queue_depth=now.waiting,
            oldest_waiting=now.oldest_waiting,
            active_workers=now.workers,
            tasks_processing=now.busy,
            avg_task_duration=totals.get("attempt_microseconds", 0) / 1e6 / timed if timed else 0.0,
            avg_execution_time=totals.get("execution_seconds", 0) / ended if ended else 0.0,
        )


@dataclass(frozen=True, slots=True)
class PoolNow:
    """What a pool does now."""

    waiting: int = 0
    oldest_waiting: float = 0.0
    workers: int = 0
    busy: int = 0
