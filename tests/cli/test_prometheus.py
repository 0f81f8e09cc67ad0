"""Metrics for Prometheus: names, values, and scrapes during an outage."""

from __future__ import annotations

import logging
import urllib.request
from collections.abc import Iterator

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

import rayflow as rf
from rayflow.core.cluster.metrics import DistributedMetrics, PoolStatus
from rayflow.errors import ClusterError
from rayflow.prometheus import MetricsCollector, serve

FIGURES = DistributedMetrics(
    executions_started=10,
    executions_completed=5,
    executions_failed=2,
    executions_cancelled=1,
    tasks_enqueued=40,
    tasks_completed=30,
    tasks_failed=3,
    attempts_failed=6,
    attempts_lost=4,
    late_results=2,
    queue_depth=7,
    oldest_waiting=1.5,
    active_workers=4,
    tasks_processing=9,
    avg_task_duration=0.25,
    avg_execution_time=2.5,
)


class Source:
    """Source of metrics that can fail."""

    def __init__(self) -> None:
        self.error: Exception | None = None
        self.reads = 0

    def metrics(self) -> DistributedMetrics:
        self.reads += 1
        if self.error is not None:
            raise self.error
        return FIGURES


class Pools:
    """Two pools."""

    def __init__(self) -> None:
        self.error: Exception | None = None

    def list(self) -> list[PoolStatus]:
        if self.error is not None:
            raise self.error
        return [
            PoolStatus("default", workers=4, busy=5, idle=11),
            PoolStatus("gpu", queued=7, oldest_waiting=1.5, wanted=2, workers=3, starting=1, leaving=2, busy=1),
        ]


class SourceWithPools(Source):
    """Engine with the methods that the exporter uses."""

    def __init__(self) -> None:
        super().__init__()
        self.pools = Pools()


def labelled(url: str) -> dict[tuple[str, ...], float]:
    """Return the samples with labels: the name and the labels' values."""
    with urllib.request.urlopen(url, timeout=30) as page:  # noqa: S310 - our own server
        text = page.read().decode()
    families = text_string_to_metric_families(text)
    samples = [sample for family in families for sample in family.samples if sample.labels]
    assert all(list(sample.labels) in (["pool"], ["pool", "state"]) for sample in samples)
    return {(sample.name, *sample.labels.values()): sample.value for sample in samples}


def scraped(url: str) -> dict[str, float]:
    with urllib.request.urlopen(url, timeout=30) as page:  # noqa: S310 - our own server
        text = page.read().decode()
    return {sample.name: sample.value for family in text_string_to_metric_families(text) for sample in family.samples}


@pytest.fixture
def source() -> Source:
    return Source()


@pytest.fixture
def url(source: Source) -> Iterator[str]:
    with serve(source, 0) as server:
        yield server.url


def test_every_figure_has_its_conventional_name(url: str) -> None:
    assert scraped(url) == {
        "rayflow_up": 1,
        "rayflow_executions_started_total": 10,
        "rayflow_executions_completed_total": 5,
        "rayflow_executions_failed_total": 2,
        "rayflow_executions_cancelled_total": 1,
        "rayflow_tasks_enqueued_total": 40,
        "rayflow_tasks_completed_total": 30,
        "rayflow_tasks_failed_total": 3,
        "rayflow_attempts_failed_total": 6,
        "rayflow_attempts_lost_total": 4,
        "rayflow_late_results_total": 2,
        "rayflow_queue_depth": 7,
        "rayflow_queue_oldest_waiting_seconds": 1.5,
        "rayflow_active_workers": 4,
        "rayflow_tasks_processing": 9,
        "rayflow_task_duration_mean_seconds": 0.25,
        "rayflow_execution_duration_seconds_count": 8,
        "rayflow_execution_duration_seconds_sum": 20,
    }


def test_each_scrape_reads_anew_and_registering_reads_nothing(url: str, source: Source) -> None:
    assert source.reads == 0
    scraped(url)
    scraped(url)
    assert source.reads == 2


def test_one_family_can_be_asked_for_by_its_name(url: str) -> None:
    assert scraped(f"{url}?name[]=rayflow_queue_depth") == {"rayflow_queue_depth": 7}


@pytest.mark.parametrize("error", [ClusterError("the cluster is gone"), ZeroDivisionError("a defect")])
def test_a_scrape_says_that_the_metrics_cannot_be_read_and_the_next_one_works(
    url: str, source: Source, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    source.error = error
    with caplog.at_level(logging.WARNING, "rayflow.prometheus"):
        assert scraped(url) == {"rayflow_up": 0}
    assert f"reading metrics failed, returning rayflow_up 0: {error}" in caplog.text
    source.error = None
    assert scraped(url)["rayflow_up"] == 1


def test_two_collectors_of_one_registry_are_refused() -> None:
    registry = CollectorRegistry()
    registry.register(MetricsCollector(DistributedMetrics))
    with pytest.raises(ValueError, match="Duplicated timeseries"):
        registry.register(MetricsCollector(DistributedMetrics))


def test_closing_frees_the_port_and_may_be_repeated(source: Source) -> None:
    server = serve(source, 0)
    port = server.port
    assert scraped(server.url)["rayflow_up"] == 1
    server.close()
    server.close()
    with serve(source, port) as again:
        assert again.port == port


def test_a_port_that_is_taken_is_an_error(source: Source) -> None:
    with serve(source, 0) as server, pytest.raises(OSError, match="in use"):
        serve(source, server.port)


def test_each_pool_has_its_gauges() -> None:
    with serve(SourceWithPools(), 0) as server:
        assert labelled(server.url) == {
            ("rayflow_pool_queued_tasks", "default"): 0,
            ("rayflow_pool_queued_tasks", "gpu"): 7,
            ("rayflow_pool_oldest_waiting_seconds", "default"): 0,
            ("rayflow_pool_oldest_waiting_seconds", "gpu"): 1.5,
            ("rayflow_pool_workers", "default", "up"): 4,
            ("rayflow_pool_workers", "default", "starting"): 0,
            ("rayflow_pool_workers", "default", "leaving"): 0,
            ("rayflow_pool_workers", "gpu", "up"): 1,
            ("rayflow_pool_workers", "gpu", "starting"): 1,
            ("rayflow_pool_workers", "gpu", "leaving"): 2,
            ("rayflow_pool_slots", "default", "busy"): 5,
            ("rayflow_pool_slots", "default", "idle"): 11,
            ("rayflow_pool_slots", "gpu", "busy"): 1,
            ("rayflow_pool_slots", "gpu", "idle"): 0,
        }
        assert scraped(server.url)["rayflow_queue_depth"] == 7


def test_without_an_engine_there_are_no_pools(url: str) -> None:
    assert labelled(url) == {}


def test_pools_that_cannot_be_read_fail_the_scrape() -> None:
    source = SourceWithPools()
    with serve(source, 0) as server:
        source.pools.error = ClusterError("the pool is gone")
        assert scraped(server.url) == {"rayflow_up": 0}
        source.pools.error = None
        assert scraped(server.url)["rayflow_up"] == 1


@rf.workflow
async def nothing() -> None: ...


def test_an_engines_metrics_are_served() -> None:
    with rf.LocalEngine() as engine, serve(engine, 0) as server:
        engine.start(nothing).result(30)
        found = scraped(server.url)
        assert found["rayflow_executions_completed_total"] == 1
        assert found["rayflow_execution_duration_seconds_count"] == 1
        assert ("rayflow_pool_queued_tasks", "default") in labelled(server.url)
        engine.close()
        assert scraped(server.url) == {"rayflow_up": 0}
