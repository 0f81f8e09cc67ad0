"""The seed's metrics from a store's totals."""

from __future__ import annotations

from dataclasses import asdict

from rayflow.core.cluster.metrics import DistributedMetrics, PoolStatus


def test_of_a_new_store() -> None:
    assert DistributedMetrics.of({}) == DistributedMetrics()
    assert set(asdict(DistributedMetrics()).values()) == {0}


def test_each_figure_has_its_total() -> None:
    totals = {
        "executions_started": 10,
        "executions_completed": 4,
        "executions_failed": 2,
        "executions_cancelled": 1,
        "execution_seconds": 35.0,
        "attempts_started": 30,
        "steps_completed": 20,
        "steps_failed": 3,
        "attempts_failed": 5,
        "attempts_lost": 6,
        "late_results": 7,
        "attempts_timed": 25,
        "attempt_microseconds": 50_000_000,
        "something_else": 99,
    }
    assert DistributedMetrics.of(
        totals, [PoolStatus(queued=8, oldest_waiting=1.5, workers=3, busy=4), PoolStatus("gpu", workers=1, busy=5)]
    ) == DistributedMetrics(
        executions_started=10,
        executions_completed=4,
        executions_failed=2,
        executions_cancelled=1,
        tasks_enqueued=30,
        tasks_completed=20,
        tasks_failed=3,
        attempts_failed=5,
        attempts_lost=6,
        late_results=7,
        queue_depth=8,
        oldest_waiting=1.5,
        active_workers=4,
        tasks_processing=9,
        avg_task_duration=2.0,
        avg_execution_time=5.0,
    )
