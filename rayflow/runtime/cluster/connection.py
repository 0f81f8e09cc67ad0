"""Cluster connection: joins the named Ray cluster, one that runs on this machine, or a new local one."""

from __future__ import annotations

import logging
import os
import socket
import threading
from collections.abc import Mapping
from typing import Literal

from rayflow.errors import ClusterError
from rayflow.runtime.cluster.local import (
    LocalCluster,
    Status,
    Stopped,
    down,
    home,
    local_address,
    running_address,
    status,
    up,
)

__all__ = [
    "Connection",
    "LocalCluster",
    "Source",
    "Status",
    "Stopped",
    "connect",
    "down",
    "home",
    "status",
    "up",
]

log = logging.getLogger(__name__)

#: Seconds within which a cluster must accept a connection. Ray itself would try for many minutes.
REACHABLE = 5.0

_LOOPBACK = ("localhost", "127.0.0.1", "[::1]")

Source = Literal["joined", "given", "running", "started"]


class Connection:
    """A connection of this process to a cluster. The process leaves the cluster when the last one is closed.

    Args:
        address: the cluster's address.
        source: "joined" if the process was in the cluster before, "given" if the cluster was named, "running" if it
            was found on this machine, "started" if it has just been started.
        counted: whether this connection counts. It does not if the process was in the cluster before.
    """

    def __init__(self, address: str, source: Source, *, counted: bool) -> None:
        self.address = address
        self.source: Source = source
        self._counted = counted

    def close(self) -> None:
        """Close the connection; further calls have no effect. The cluster itself continues."""
        from rayflow.runtime.actors import ray_system

        with _members.lock:
            if self._counted:
                self._counted = False
                _members.count -= 1
                if not _members.count:
                    ray_system.leave()


class _Members:
    """The open connections of this process that count."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.count = 0
        self.warned_slow = False


_members = _Members()


def connect(
    address: str | None = None, *, namespace: str | None = None, environ: Mapping[str, str] = os.environ
) -> Connection:
    """Join a cluster.

    The first of these is chosen: the cluster that this process is in, ``address``, ``RAY_ADDRESS``, a cluster that runs
    on this machine, a new local cluster that continues after this process.

    Args:
        address: ``host:port``, ``ray://host:port``, or ``auto`` for a cluster that runs on this machine.
        namespace: Ray's namespace of this driver; None for a new one.
        environ: the environment variables.

    Raises:
        ClusterError: if no cluster runs at the address, the process is in another one, or none can be started.
    """
    from rayflow.runtime.actors import ray_system

    with _members.lock:
        current = ray_system.joined()
        if current:
            _check_same(address, current)
            _members.count += bool(_members.count)
            return Connection(current, "joined", counted=_members.count > 0)
        chosen, source = _choose(address or environ.get("RAY_ADDRESS") or "", environ)
        check_reachable(chosen)
        _log_choice(chosen, source)
        ray_system.join(chosen, namespace=namespace, ours=source != "given" or chosen == local_address(environ))
        _members.count = 1
        return Connection(chosen, source, counted=True)


def check_reachable(address: str) -> None:
    """Raise ClusterError if ``address`` is invalid, or if nothing accepts connections there."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or "/" in host or not port.isdigit():
        raise ClusterError(
            f"{address!r} is not an address of a Ray cluster; allowed are host:port, ray://host:port and auto"
        )
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=REACHABLE).close()
    except OSError as error:
        raise ClusterError(
            f"no Ray cluster is reachable at {address} ({error}). Check `address` and RAY_ADDRESS. Without both, "
            "rayflow joins a cluster that runs on this machine, or starts a local one"
        ) from error


def _check_same(address: str | None, current: str) -> None:
    # Ray Client hides the cluster's address, so it cannot be compared.
    if not address or address == "auto" or current == "ray://":
        return
    host, _, port = address.rpartition(":")
    here = host in _LOOPBACK and current.endswith(f":{port}")
    if address != current and not here:
        raise ClusterError(
            f"this process has joined the Ray cluster at {current}, so it cannot join the one at {address}. Omit "
            "`address` to use the current cluster, or call ray.shutdown() first"
        )


def _choose(wanted: str, environ: Mapping[str, str]) -> tuple[str, Source]:
    if wanted and wanted != "auto":
        return wanted, "given"
    running = running_address(environ)
    if running:
        return running, "running"
    if wanted:
        raise ClusterError("no Ray cluster runs on this machine. Start one with `rayflow up`, or omit `auto`")
    cluster, started = up(environ=environ)
    return cluster.address, "started" if started else "running"


def _log_choice(address: str, source: Source) -> None:
    if source == "started":
        log.warning(
            "started a local Ray cluster at %s. It continues after this program; `rayflow down` stops it", address
        )
    if address.startswith("ray://") and not _members.warned_slow:
        _members.warned_slow = True
        log.warning(
            "%s uses Ray Client, where each call takes several times as long. If possible, run the driver in the "
            "cluster (`ray job submit`), or on one of its machines with the cluster's host:port",
            address,
        )
