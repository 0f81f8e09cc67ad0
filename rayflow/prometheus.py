"""Metrics for Prometheus.

Totals become counters, present states gauges, and durations what the totals allow: sum and count of executions, the
mean of attempts. Worker pools have gauges of their own, with the label ``pool``. ``rayflow_up`` is 0, and everything
else left out, while the metrics cannot be read.
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

#: Field of DistributedMetrics, name of the counter without "_total", what it counts.
_COUNTERS = (
    ("executions_started", "rayflow_executions_started", "Accepted starts of executions."),
    ("executions_completed", "rayflow_executions_completed", "Executions that completed."),
    ("executions_failed", "rayflow_executions_failed", "Executions that failed."),
    ("executions_cancelled", "rayflow_executions_cancelled", "Executions that were cancelled."),
    ("tasks_enqueued", "rayflow_tasks_enqueued", "Attempts at steps that were begun."),
    ("tasks_completed", "rayflow_tasks_completed", "Steps whose result was recorded."),
    ("tasks_failed", "rayflow_tasks_failed", "Steps that used up their attempts."),
    ("attempts_failed", "rayflow_attempts_failed", "Attempts that the steps themselves failed."),
    ("attempts_lost", "rayflow_attempts_lost", "Attempts lost to infrastructure."),
    ("late_results", "rayflow_late_results", "Answers of abandoned attempts, dropped."),
)

#: Field of DistributedMetrics, name of the gauge, what it shows.
_GAUGES = (
    ("queue_depth", "rayflow_queue_depth", "Tasks that wait for a slot."),
    ("oldest_waiting", "rayflow_queue_oldest_waiting_seconds", "How long the oldest waiting task has waited."),
    ("active_workers", "rayflow_active_workers", "Workers that are up."),
    ("tasks_processing", "rayflow_tasks_processing", "Slots in use."),
    ("avg_task_duration", "rayflow_task_duration_mean_seconds", "Mean duration of all attempts that were timed."),
)

#: What a gauge of a pool shows, by the values of its label "state"; "" where it has none.
_States = Mapping[str, Callable[[PoolStatus], float]]

#: Name of the gauge, what it shows, and where that is.
_POOL_GAUGES: Sequence[tuple[str, str, _States]] = (
    ("rayflow_pool_queued_tasks", "Tasks that wait for a slot of the pool.", {"": lambda pool: pool.queued}),
    (
        "rayflow_pool_oldest_waiting_seconds",
        "How long the pool's oldest waiting task has waited.",
        {"": lambda pool: pool.oldest_waiting},
    ),
    (
        "rayflow_pool_workers",
        "Workers of the pool: up to stay, starting, or leaving once their tasks are done.",
        {
            "up": lambda pool: max(0, pool.workers - pool.leaving),  # each counts once, so that they can be summed
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

_EXECUTION = ("rayflow_execution_duration_seconds", "From start to end, of executions that ended.")
_UP = ("rayflow_up", "Whether the metrics could be read: 1 or 0.")


class Measured(Protocol):
    """What metrics are read from: an engine."""

    def metrics(self) -> DistributedMetrics:
        """The metrics now."""


class _Listed(Protocol):
    """Worker pools."""

    def list(self) -> Sequence[PoolStatus]:
        """What each pool does now."""


@runtime_checkable
class _Pooled(Protocol):
    """An engine, as far as its worker pools go; totals alone have none."""

    @property
    def pools(self) -> _Listed:
        """Its worker pools."""


class MetricsCollector(Collector):
    """Turns metrics into Prometheus' families, anew for each scrape.

    Args:
        read: answers the metrics; called once a scrape, on the scrape's thread. What it raises is logged, and the
            scrape says ``rayflow_up 0``.
        pools: answers what the worker pools do now; the same goes for it. There are none if it is left out.

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
        """The families without their samples, so that registering reads nothing."""
        yield from _families(None)
        yield from _pool_families(())

    def collect(self) -> Iterator[Metric]:
        """The families now."""
        try:
            metrics, pools = self._read(), self._pools()
        except Exception as error:  # noqa: BLE001 - whatever it is, a scrape is answered
            log.warning("the metrics cannot be read now: %s", error)
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
    # Rounded, since a sum that went down by a rounding error would look like a restart to Prometheus.
    yield SummaryMetricFamily(*_EXECUTION, ended, round(metrics.avg_execution_time * ended, 6))


def _pool_families(pools: Sequence[PoolStatus]) -> Iterator[Metric]:
    for name, about, states in _POOL_GAUGES:
        family = GaugeMetricFamily(name, about, labels=["pool"] if "" in states else ["pool", "state"])
        for pool in pools:
            for state, read in states.items():
                family.add_metric([pool.name, state] if state else [pool.name], read(pool))
        yield family


class MetricsServer:
    """A server of the metrics page, on a thread of its own, until it is closed. Made by :func:`serve`."""

    def __init__(self, server: WSGIServer, thread: Thread) -> None:
        self._server = server
        self._thread = thread

    @property
    def port(self) -> int:
        """The port that it listens on."""
        return self._server.server_port

    @property
    def url(self) -> str:
        """The page's URL."""
        host = str(self._server.server_address[0])
        return f"http://{f'[{host}]' if ':' in host else host}:{self.port}/metrics"

    def close(self) -> None:
        """Stop listening, and wait for the thread. Idempotent."""
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
        engine: whose metrics, and whose worker pools if it has any.
        port: the port; 0 for any that is free.
        addr: the address to listen on; the default is not reachable from other machines.

    Raises:
        OSError: the address cannot be listened on, mostly because the port is taken.

    Example:
        >>> server = serve(engine, 9464)  # doctest: +SKIP
        >>> server.close()  # doctest: +SKIP
    """
    registry = CollectorRegistry()
    pools = engine.pools.list if isinstance(engine, _Pooled) else tuple
    registry.register(MetricsCollector(engine.metrics, pools))
    server, thread = start_http_server(port, addr, registry)
    return MetricsServer(server, thread)
