"""``pause``, ``cancel``, ``metrics``, and the local cluster: ``up``, ``down``, ``status``."""

from __future__ import annotations

import argparse
import contextlib
import threading
import time
from dataclasses import asdict

from rayflow import prometheus
from rayflow.cli.exit_codes import COMPLETED, FAILED
from rayflow.cli.open_engine import has_cluster, open_engine
from rayflow.cli.reader import read, store_url
from rayflow.cli.screen import Screen
from rayflow.cli.watch import following
from rayflow.client.engine import Engine, backend_of
from rayflow.client.views import summary
from rayflow.core.cluster.metrics import DistributedMetrics
from rayflow.display import duration_text, metrics_text, summary_json
from rayflow.ids import ExecutionStatus
from rayflow.runtime.cluster import connection


def pause(args: argparse.Namespace, screen: Screen) -> int:
    """Pause an execution."""
    with following(lambda: open_engine(args), screen, args) as (engine, _):
        have_it_driven(engine, args)
        engine.pause(args.id, reason=args.reason)
        return _report(engine, screen, args.id)


def cancel(args: argparse.Namespace, screen: Screen) -> int:
    """Cancel an execution; a local one is waited for, since only this process can clean up after it."""
    with following(lambda: open_engine(args), screen, args) as (engine, follower):
        have_it_driven(engine, args)
        engine.cancel(args.id, reason=args.reason)
        if not args.local:
            record = summary(backend_of(engine).record(args.id))
            screen.answer(f"{args.id} is told to stop (it is {record.status})", summary_json(record))
            return COMPLETED
        follower.wait(args.id)
        return _report(engine, screen, args.id)


def have_it_driven(engine: Engine, args: argparse.Namespace) -> None:
    """With ``--local``: nobody reads the inbox of an execution that nobody drives, and nobody but us will."""
    if args.local and backend_of(engine).record(args.id).status in (ExecutionStatus.PENDING, ExecutionStatus.RUNNING):
        engine.resume(args.id)


def _report(engine: Engine, screen: Screen, execution_id: str) -> int:
    record = backend_of(engine).record(execution_id)
    screen.answer(f"{execution_id} is {record.status}", summary_json(summary(record)))
    return COMPLETED


# --- metrics ----------------------------------------------------------------------------------------------
class _StoredMetrics:
    """The totals of a store, without an engine."""

    def __init__(self, url: str) -> None:
        self._url = url

    def metrics(self) -> DistributedMetrics:
        return DistributedMetrics.of(read(self._url, lambda store: store.totals()))


def metrics(args: argparse.Namespace, screen: Screen) -> int:
    """Print the metrics, or serve them. Starts no cluster: without one there are only the store's totals."""
    url = store_url(args.store)
    if not has_cluster(args):
        stored = _StoredMetrics(url)
        stored.metrics()  # so that a wrong store is an error now, not a gap in the graphs later
        return _print_or_serve(stored, args, screen)
    with open_engine(args, recover=False) as engine:
        return _print_or_serve(engine, args, screen)


def _print_or_serve(source: prometheus.Measured, args: argparse.Namespace, screen: Screen) -> int:
    if args.port is None:
        found = source.metrics()
        screen.answer(metrics_text(found), asdict(found))
        return COMPLETED
    try:
        server = prometheus.serve(source, args.port, args.addr)
    except OSError as error:
        screen.error(f"cannot listen on {args.addr}:{args.port}: {error.strerror or error}")
        return FAILED
    with server:
        screen.say(f"metrics for Prometheus at {server.url}; Ctrl-C ends this")
        with contextlib.suppress(KeyboardInterrupt):  # that is how it ends
            threading.Event().wait()
    return COMPLETED


# --- the local cluster --------------------------------------------------------------------------------------
def up(args: argparse.Namespace, screen: Screen) -> int:
    """Start the local cluster, unless it runs."""
    found, started = connection.up(num_cpus=args.num_cpus, dashboard=not args.no_dashboard)
    what = "started" if started else "runs already"
    dashboard = f", dashboard {found.dashboard}" if found.dashboard else ""
    screen.answer(f"the local cluster {what} at {found.address}{dashboard}", {**asdict(found), "started": started})
    return COMPLETED


def down(args: argparse.Namespace, screen: Screen) -> int:
    """Stop the local cluster; unfinished executions go on with the next engine on their stores."""
    stopped = connection.down()
    if stopped.cluster is None:
        screen.answer("there is no local cluster", {"address": None, "ended": [], "killed": []})
        return COMPLETED
    killed = f", {len(stopped.killed)} of them killed" if stopped.killed else ""
    screen.answer(
        f"the local cluster at {stopped.cluster.address} is stopped: {len(stopped.ended)} processes ended{killed}",
        {
            "address": stopped.cluster.address,
            "ended": [pid for pid, _ in stopped.ended],
            "killed": list(stopped.killed),
        },
    )
    return COMPLETED


def status(args: argparse.Namespace, screen: Screen) -> int:
    """Whether the local cluster runs; exit code 1 if it does not."""
    found = connection.status()
    running, known = found.running, found.cluster
    if known is None or not running:
        text = "there is no local cluster; `rayflow up` starts one, and so does the first engine"
    else:
        age = duration_text(time.time() - known.created)
        dashboard = f", dashboard {known.dashboard}" if known.dashboard else ""
        text = f"the local cluster runs at {known.address}{dashboard}: {found.processes} processes, for {age}"
    screen.answer(
        text,
        {"running": running, "processes": found.processes, "cluster": None if known is None else asdict(known)},
    )
    return COMPLETED if running else FAILED
