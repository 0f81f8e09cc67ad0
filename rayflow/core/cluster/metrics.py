"""The seed's metrics: what a store has counted, and what its pools do now."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rayflow.definition.options import PoolConfig


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
    def of(cls, totals: Mapping[str, float], pools: Sequence[PoolStatus] = ()) -> DistributedMetrics:
        """The metrics of a store's totals and the present state of its pools."""
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
    """What a worker pool does now.

    Args:
        name: its name.
        config: how it is configured.
        queued: tasks that wait for a slot.
        oldest_waiting: seconds that the oldest of them has waited; 0 if none does.
        full: whether the queue is at its limit.
        wanted: workers that it should have now, over all code environments with work.
        workers: workers that are up, those that are leaving included.
        starting: workers that are not up yet.
        leaving: workers that stop once their tasks are done.
        busy: slots in use, by Ray tasks of their own as well.
        idle: slots of workers that are free.
        problem: why its workers do not start, in words; "" if they do.
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
