"""Commands ``metrics``, and ``up``, ``down`` and ``status`` of the local cluster."""

from __future__ import annotations

import argparse
import contextlib
import threading
import time
from dataclasses import asdict

from rayflow import prometheus
from rayflow.cli.exit_codes import COMPLETED, FAILED
from rayflow.cli.open_engine import has_cluster, open_engine, read_store, store_url
from rayflow.cli.options import Commands, add_command, count, port
from rayflow.cli.screen import Screen
from rayflow.core.cluster.metrics import DistributedMetrics
from rayflow.display import duration_text, to_json
from rayflow.display.formatting import facts_text
from rayflow.runtime.cluster import connection

_SECONDS = {"oldest_waiting", "avg_task_duration", "avg_execution_time"}


def add_commands(commands: Commands) -> None:
    """Add the commands of this module."""
    about = "print metrics, or serve them for Prometheus"
    parser = add_command(commands, "metrics", metrics, about, engine=True)
    parser.add_argument("--port", type=port, metavar="N", help="serve metrics on this port until interrupted")
    parser.add_argument("--addr", default="127.0.0.1", help="the address to listen on; default 127.0.0.1")
    parser = add_command(commands, "up", up, "start a local Ray cluster", store=False)
    parser.add_argument("--num-cpus", type=count, metavar="N", help="CPUs of the cluster; default all of the machine")
    parser.add_argument("--no-dashboard", action="store_true", help="start without Ray's dashboard")
    add_command(commands, "down", down, "stop the local Ray cluster", store=False)
    add_command(commands, "status", status, "show whether the local Ray cluster is running", store=False)


class _StoredMetrics:
    """Metrics of a store without an engine: its totals."""

    def __init__(self, url: str) -> None:
        self._url = url

    def metrics(self) -> DistributedMetrics:
        return DistributedMetrics.of(read_store(self._url, lambda store: store.totals()))


def metrics(args: argparse.Namespace, screen: Screen) -> int:
    """Print or serve metrics; without a running cluster, only the store's totals."""
    url = store_url(args.store)
    if not has_cluster(args):
        stored = _StoredMetrics(url)
        stored.metrics()  # a wrong store is an error now, not a gap in the graphs later
        return _print_or_serve(stored, args, screen)
    with open_engine(args, recover=False) as engine:
        return _print_or_serve(engine, args, screen)


def _print_or_serve(source: prometheus.Measured, args: argparse.Namespace, screen: Screen) -> int:
    if args.port is None:
        found = source.metrics()
        screen.result(metrics_text(found), to_json(found))
        return COMPLETED
    try:
        server = prometheus.serve(source, args.port, args.addr)
    except OSError as error:
        screen.error(f"cannot listen on {args.addr}:{args.port}: {error.strerror or error}")
        return FAILED
    with server:
        screen.note(f"serving Prometheus metrics at {server.url}; press Ctrl-C to stop")
        with contextlib.suppress(KeyboardInterrupt):
            threading.Event().wait()
    return COMPLETED


def metrics_text(metrics: DistributedMetrics) -> str:
    """Return metrics, one to a line."""
    shown = {
        name.replace("_", " "): duration_text(value) if name in _SECONDS else f"{value:,}"
        for name, value in asdict(metrics).items()
    }
    return facts_text(shown)


def up(args: argparse.Namespace, screen: Screen) -> int:
    """Start the local cluster, unless it is running."""
    found, started = connection.up(num_cpus=args.num_cpus, dashboard=not args.no_dashboard)
    state = "started" if started else "is already running"
    text = f"the local cluster {state} at {found.address}{_dashboard(found)}"
    screen.result(text, {**asdict(found), "started": started})
    return COMPLETED


def down(args: argparse.Namespace, screen: Screen) -> int:
    """Stop the local cluster; unfinished executions continue with the next engine on their stores."""
    stopped = connection.down()
    if stopped.cluster is None:
        screen.result("there is no local cluster", {"address": None, "ended": [], "killed": []})
        return COMPLETED
    address, ended, killed = stopped.cluster.address, [pid for pid, _ in stopped.ended], list(stopped.killed)
    by_force = f", {len(killed)} of them killed" if killed else ""
    text = f"the local cluster at {address} is stopped: {len(ended)} processes ended{by_force}"
    screen.result(text, {"address": address, "ended": ended, "killed": killed})
    return COMPLETED


def status(args: argparse.Namespace, screen: Screen) -> int:
    """Show whether the local cluster is running; exit code 1 if it is not."""
    found = connection.status()
    running, known = found.running, found.cluster
    if known is None or not running:
        text = "there is no local cluster; `rayflow up` or the first engine starts one"
    else:
        age = duration_text(time.time() - known.created)
        where = f"{known.address}{_dashboard(known)}"
        text = f"the local cluster is running at {where}: {found.processes} processes, for {age}"
    document = {"running": running, "processes": found.processes, "cluster": None if known is None else asdict(known)}
    screen.result(text, document)
    return COMPLETED if running else FAILED


def _dashboard(cluster: connection.LocalCluster) -> str:
    return f", dashboard {cluster.dashboard}" if cluster.dashboard else ""
