"""Which Ray cluster a process is in: the one that was named, one that runs here, or a local one that is started."""

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

#: Seconds in which a cluster must accept a connection. Ray itself would try for many minutes.
REACHABLE = 5.0

_LOOPBACK = ("localhost", "127.0.0.1", "[::1]")

Source = Literal["joined", "given", "running", "started"]


class Connection:
    """This process's place in a cluster. Its connections share it, and the last one that is closed gives it up.

    Args:
        address: the cluster's address.
        source: "joined" if the process was in the cluster before, "given" if it was named, "running" if it was
            found on this machine, "started" if it was started just now.
        counted: whether the process leaves the cluster when nobody needs it any more; not if it was in it before.
    """

    def __init__(self, address: str, source: Source, *, counted: bool) -> None:
        self.address = address
        self.source: Source = source
        self._counted = counted

    def close(self) -> None:
        """Give it up; closing it again changes nothing. The cluster itself goes on."""
        from rayflow.runtime.actors import ray_system

        with _members.lock:
            if self._counted:
                self._counted = False
                _members.count -= 1
                if not _members.count:
                    ray_system.leave()


class _Members:
    """The open connections of this process, but those into a cluster that it was in before."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.count = 0
        self.told_slow = False


_members = _Members()


def connect(
    address: str | None = None, *, namespace: str | None = None, environ: Mapping[str, str] = os.environ
) -> Connection:
    """Join a cluster.

    In this order: the one that this process is in already, ``address``, ``RAY_ADDRESS``, one that runs on this
    machine, and where there is none, a local one that is started and goes on after this process.

    Args:
        address: ``host:port``, ``ray://host:port``, or ``auto`` for one that runs on this machine.
        namespace: Ray's namespace of this driver; None for one of its own.
        environ: the environment's variables.

    Raises:
        ClusterError: nothing answers at the address, the process is in another cluster, or none can be started.
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
        _say(chosen, source)
        ray_system.join(chosen, namespace=namespace, ours=source != "given" or chosen == local_address(environ))
        _members.count = 1
        return Connection(chosen, source, counted=True)


def check_reachable(address: str) -> None:
    """Raise ClusterError if ``address`` is no cluster's address, or if nothing accepts connections there."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or "/" in host or not port.isdigit():
        raise ClusterError(f"{address!r} is no address of a Ray cluster: write host:port, ray://host:port or auto")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=REACHABLE).close()
    except OSError as error:
        raise ClusterError(
            f"no Ray cluster answers at {address} ({error}). Check `address` and RAY_ADDRESS; without both, a cluster "
            "that runs on this machine is joined, or a local one started"
        ) from error


def _check_same(address: str | None, current: str) -> None:
    # Where Ray Client hides the cluster's address, nothing can be compared.
    if not address or address == "auto" or current == "ray://":
        return
    host, _, port = address.rpartition(":")
    here = host in _LOOPBACK and current.endswith(f":{port}")
    if address != current and not here:
        raise ClusterError(
            f"this process is in the Ray cluster at {current}, so it cannot join the one at {address}. Leave `address` "
            "out to use the one that it is in, or call ray.shutdown() first"
        )


def _choose(wanted: str, environ: Mapping[str, str]) -> tuple[str, Source]:
    if wanted and wanted != "auto":
        return wanted, "given"
    running = running_address(environ)
    if running:
        return running, "running"
    if wanted:
        raise ClusterError("no Ray cluster runs on this machine: start one with `rayflow up`, or leave `auto` out")
    cluster, started = up(environ=environ)
    return cluster.address, "started" if started else "running"


def _say(address: str, source: Source) -> None:
    if source == "started":
        log.warning(
            "started a local Ray cluster at %s. It goes on after this program; `rayflow down` stops it", address
        )
    if address.startswith("ray://") and not _members.told_slow:
        _members.told_slow = True
        log.warning(
            "%s goes through Ray Client, where each call takes several times as long. Where you can, run the driver "
            "in the cluster (`ray job submit`) or on one of its machines, with that cluster's host:port",
            address,
        )
