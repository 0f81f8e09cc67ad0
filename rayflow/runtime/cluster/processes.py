"""Processes of one local cluster: found by environment, session and ancestry, never by name, and ended.

A cluster's processes are started with a mark in their environment, in a new session. Its daemons keep the mark; its
workers overwrite parts of their environment, but are in the session or descend from a daemon. No other process is
touched.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from typing import Any

#: The environment variable that holds a cluster's mark.
MARK = "RAYFLOW_LOCAL_CLUSTER"
#: Seconds between two checks whether processes have ended.
_POLL_INTERVAL = 0.05

#: A ``psutil.Process``. It knows when its process began, and signals no other one that got the same pid.
Process = Any


def carrying(mark: str) -> list[Process]:
    """Return all running processes of the cluster with that mark, in the order of their start."""
    everything = list(_all())
    seeds = {p.pid: p for p in everything if _environment(p).get(MARK) == mark}
    sessions = {_session(pid) for pid in seeds} - {None}
    found = {**seeds, **{p.pid: p for p in everything if _session(p.pid) in sessions}}
    parents = {p.pid: _parent(p) for p in everything}
    while more := [p for p in everything if parents[p.pid] in found and p.pid not in found]:
        found.update((p.pid, p) for p in more)
    found.pop(os.getpid(), None)
    return sorted((p for p in found.values() if running(p)), key=lambda p: (p.create_time(), p.pid))


def running(process: Process) -> bool:
    """Return whether the process still runs; a zombie does not."""
    try:
        return bool(process.is_running() and process.status() != _psutil().STATUS_ZOMBIE)
    except _psutil().NoSuchProcess:
        return False


def name_of(process: Process) -> str:
    """Return the name of the process's program; "" if the process has ended."""
    return str(_query(process.name, ""))


def programs(found: list[Process], name: str) -> list[Process]:
    """Return the processes that run a program, without children that are about to run another program."""
    alike = {process.pid: process for process in found if name_of(process) == name}
    return [process for process in alike.values() if _parent(process) not in alike]


def command_of(process: Process) -> list[str]:
    """Return the words of the process's command line; none if the process has ended."""
    return list(_query(process.cmdline, []))


def end(processes: list[Process], seconds: float) -> list[Process]:
    """Terminate processes, wait at most ``seconds``, and return those that still run."""
    for process in processes:
        with contextlib.suppress(_psutil().NoSuchProcess):
            process.terminate()
    return wait(processes, seconds)


def kill(processes: list[Process], seconds: float) -> list[Process]:
    """Kill processes, wait at most ``seconds``, and return those that still run."""
    for process in processes:
        with contextlib.suppress(_psutil().NoSuchProcess):
            process.kill()
    return wait(processes, seconds)


def wait(processes: list[Process], seconds: float) -> list[Process]:
    """Wait at most ``seconds`` until processes have ended, and return those that still run."""
    until = time.monotonic() + seconds
    left = [process for process in processes if running(process)]
    while left and time.monotonic() < until:
        time.sleep(_POLL_INTERVAL)
        left = [process for process in left if running(process)]
    return left


def serves(address: str) -> bool:
    """Return whether a process on this machine belongs to the Ray cluster at ``host:port``, as Ray itself does."""
    return any(f"--gcs-address={address}" in command_of(process) for process in _all())


def _all() -> Iterator[Process]:
    return iter(_psutil().process_iter())


def _psutil() -> Any:
    from rayflow.runtime.actors import ray_system

    return ray_system.psutil()


def _environment(process: Process) -> dict[str, str]:
    return dict(_query(process.environ, {}))


def _parent(process: Process) -> int:
    return int(_query(process.ppid, 0))


def _session(pid: int) -> int | None:
    try:
        return os.getsid(pid)
    except OSError:
        return None


def _query(question: Callable[[], Any], otherwise: Any) -> Any:
    # A process may end at any moment, or belong to another user.
    try:
        return question()
    except (_psutil().Error, OSError):
        return otherwise
