"""Prometheus exporter for an engine's metrics.

Totals are counters and current states are gauges. Durations are exported as far as the totals allow: sum and count of
executions, mean of attempts. Gauges of worker pools have the label ``pool``. While the metrics cannot be read,
``rayflow_up`` is 0 and all other metrics are missing.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from threading import Thread
from types import TracebackType
from typing import Protocol, Self, runtime_checkable
from wsgiref.simple_server import WSGIServer

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric, SummaryMetricFamily
from prometheus_client.registry import Collector

from rayflow.core.cluster.metrics import DistributedMetrics, PoolStatus

log = logging.getLogger(__name__)

#: Field of DistributedMetrics, name of the counter without "_total", help text.
_COUNTERS = (
    ("executions_started", "rayflow_executions_started", "Accepted starts of executions."),
    ("executions_completed", "rayflow_executions_completed", "Executions that completed."),
    ("executions_failed", "rayflow_executions_failed", "Executions that failed."),
    ("executions_cancelled", "rayflow_executions_cancelled", "Executions that were cancelled."),
    ("tasks_enqueued", "rayflow_tasks_enqueued", "Started attempts at steps."),
    ("tasks_completed", "rayflow_tasks_completed", "Steps with a recorded result."),
    ("tasks_failed", "rayflow_tasks_failed", "Steps that used up their attempts."),
    ("attempts_failed", "rayflow_attempts_failed", "Attempts that failed in the step's code."),
    ("attempts_lost", "rayflow_attempts_lost", "Attempts lost to infrastructure."),
    ("late_results", "rayflow_late_results", "Results of abandoned attempts, dropped."),
)

#: Field of DistributedMetrics, name of the gauge, help text.
_GAUGES = (
    ("queue_depth", "rayflow_queue_depth", "Tasks that wait for a slot."),
    ("oldest_waiting", "rayflow_queue_oldest_waiting_seconds", "Age of the oldest waiting task."),
    ("active_workers", "rayflow_active_workers", "Workers that are up."),
    ("tasks_processing", "rayflow_tasks_processing", "Slots in use."),
    ("avg_task_duration", "rayflow_task_duration_mean_seconds", "Mean duration of all timed attempts."),
)

#: Values of a pool's gauge by the label "state"; the key "" stands for no such label.
_States = Mapping[str, Callable[[PoolStatus], float]]

#: Name of the gauge, help text, values.
_POOL_GAUGES: Sequence[tuple[str, str, _States]] = (
    ("rayflow_pool_queued_tasks", "Tasks that wait for a slot of the pool.", {"": lambda pool: pool.queued}),
    (
        "rayflow_pool_oldest_waiting_seconds",
        "Age of the pool's oldest waiting task.",
        {"": lambda pool: pool.oldest_waiting},
    ),
    (
        "rayflow_pool_workers",
        "Workers of the pool: up, starting, or leaving once their tasks are done.",
        {
            "up": lambda pool: max(0, pool.workers - pool.leaving),  # so that each worker counts once in the sum
            "starting": lambda pool: pool.starting,
            "leaving": lambda pool: pool.leaving,
        },
    ),
    (
        "rayflow_pool_slots",
        "Slots of the pool: busy or idle.",
        {"busy": lambda pool: pool.busy, "idle": lambda pool: pool.idle},
    ),
)

_EXECUTION = ("rayflow_execution_duration_seconds", "Time from start to end of ended executions.")
_UP = ("rayflow_up", "Whether the metrics could be read: 1 or 0.")


class Measured(Protocol):
    """Source of metrics: an engine."""

    def metrics(self) -> DistributedMetrics:
        """Return the current metrics."""


class _Pools(Protocol):
    def list(self) -> Sequence[PoolStatus]:
        """Return the status of each pool."""


@runtime_checkable
class _WithPools(Protocol):
    """An engine with worker pools."""

    @property
    def pools(self) -> _Pools:
        """The engine's worker pools."""


class MetricsCollector(Collector):
    """Collector that converts an engine's metrics on each scrape.

    Args:
        read: returns the metrics; called once per scrape, on its thread. If it raises, the error is logged, and the
            scrape returns ``rayflow_up 0``.
        pools: returns the status of the worker pools, in the same way; no pools by default.

    Example:
        >>> registry = CollectorRegistry()
        >>> registry.register(MetricsCollector(lambda: DistributedMetrics(queue_depth=3)))
        >>> registry.get_sample_value("rayflow_queue_depth")
        3
    """

    def __init__(
        self, read: Callable[[], DistributedMetrics], pools: Callable[[], Sequence[PoolStatus]] = tuple
    ) -> None:
        self._read = read
        self._pools = pools

    def describe(self) -> Iterator[Metric]:
        """Yield the families without samples, so that registering reads no metrics."""
        yield from _families(None)
        yield from _pool_families(())

    def collect(self) -> Iterator[Metric]:
        """Yield the families with their current samples."""
        try:
            metrics, pools = self._read(), self._pools()
        except Exception as error:  # noqa: BLE001 - any error becomes rayflow_up 0
            log.warning("reading metrics failed, returning rayflow_up 0: %s", error)
            yield GaugeMetricFamily(*_UP, value=0)
            return
        yield from _families(metrics)
        yield from _pool_families(pools)


def _families(metrics: DistributedMetrics | None) -> Iterator[Metric]:
    yield GaugeMetricFamily(*_UP, value=None if metrics is None else 1)
    for field, name, about in _COUNTERS:
        yield CounterMetricFamily(name, about, value=None if metrics is None else getattr(metrics, field))
    for field, name, about in _GAUGES:
        yield GaugeMetricFamily(name, about, value=None if metrics is None else getattr(metrics, field))
    if metrics is None:
        yield SummaryMetricFamily(*_EXECUTION)
        return
    ended = metrics.executions_completed + metrics.executions_failed + metrics.executions_cancelled
    # Rounded, because Prometheus would take a sum that decreased by a rounding error for a restart.
    yield SummaryMetricFamily(*_EXECUTION, ended, round(metrics.avg_execution_time * ended, 6))


def _pool_families(pools: Sequence[PoolStatus]) -> Iterator[Metric]:
    for name, about, states in _POOL_GAUGES:
        family = GaugeMetricFamily(name, about, labels=["pool"] if "" in states else ["pool", "state"])
        for pool in pools:
            for state, read in states.items():
                family.add_metric([pool.name, state] if state else [pool.name], read(pool))
        yield family


class MetricsServer:
    """Server of the metrics page, on a separate thread, until :meth:`close`. Made by :func:`serve`."""

    def __init__(self, server: WSGIServer, thread: Thread) -> None:
        self._server = server
        self._thread = thread

    @property
    def port(self) -> int:
        """Port that the server listens on."""
        return self._server.server_port

    @property
    def url(self) -> str:
        """URL of the page."""
        host = str(self._server.server_address[0])
        return f"http://{f'[{host}]' if ':' in host else host}:{self.port}/metrics"

    def close(self) -> None:
        """Stop the server and wait for its thread. Idempotent."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def serve(engine: Measured, port: int, addr: str = "127.0.0.1") -> MetricsServer:
    """Serve an engine's metrics for Prometheus.

    Args:
        engine: source of the metrics, and of the worker pools if it has any.
        port: port to listen on; 0 for any free port.
        addr: address to listen on; the default is not reachable from other machines.

    Raises:
        OSError: the server cannot listen on the address; most often the port is in use.

    Example:
        >>> server = serve(engine, 9464)  # doctest: +SKIP
        >>> server.close()  # doctest: +SKIP
    """
    registry = CollectorRegistry()
    pools = engine.pools.list if isinstance(engine, _WithPools) else tuple
    registry.register(MetricsCollector(engine.metrics, pools))
    server, thread = start_http_server(port, addr, registry)
    return MetricsServer(server, thread)
