"""Finds and ends the processes of one local cluster, by what they carry and descend from, never by their names.

A cluster's processes are started with a mark in their environment and in a session of their own. Its daemons keep
the mark; its workers overwrite parts of theirs, but descend from a daemon or are in its session. No other process
is looked at twice.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from typing import Any

#: The environment variable that holds a cluster's mark.
MARK = "RAYFLOW_LOCAL_CLUSTER"
#: Seconds between two looks at processes that were told to end.
_LOOK = 0.05

#: A ``psutil.Process``. It knows when its process began, and signals no other one that got the same pid.
Process = Any


def carrying(mark: str) -> list[Process]:
    """All running processes of the cluster with that mark, in the order in which they began."""
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
    """Whether the process still runs; one that has ended and that nobody has asked about does not."""
    try:
        return bool(process.is_running() and process.status() != _psutil().STATUS_ZOMBIE)
    except _psutil().NoSuchProcess:
        return False


def name_of(process: Process) -> str:
    """The name of the process's program; "" if it has ended."""
    return str(_asked(process.name, ""))


def programs(found: list[Process], name: str) -> list[Process]:
    """Those that run the program of that name: not what one of them has just forked, to become another program."""
    alike = {process.pid: process for process in found if name_of(process) == name}
    return [process for process in alike.values() if _parent(process) not in alike]


def command_of(process: Process) -> list[str]:
    """The words of the process's command line; none if it has ended."""
    return list(_asked(process.cmdline, []))


def end(processes: list[Process], seconds: float) -> list[Process]:
    """Ask processes to end, and wait for so many seconds at most; answers those that still run then."""
    for process in processes:
        with contextlib.suppress(_psutil().NoSuchProcess):
            process.terminate()
    return wait(processes, seconds)


def kill(processes: list[Process], seconds: float) -> list[Process]:
    """Kill processes, and wait for so many seconds at most; answers those that still run then."""
    for process in processes:
        with contextlib.suppress(_psutil().NoSuchProcess):
            process.kill()
    return wait(processes, seconds)


def wait(processes: list[Process], seconds: float) -> list[Process]:
    """Wait until processes have ended, for so many seconds at most; answers those that still run then."""
    until = time.monotonic() + seconds
    left = [process for process in processes if running(process)]
    while left and time.monotonic() < until:
        time.sleep(_LOOK)
        left = [process for process in left if running(process)]
    return left


def serves(address: str) -> bool:
    """Whether a Ray process on this machine belongs to the cluster at ``host:port``; Ray finds them the same way."""
    return any(f"--gcs-address={address}" in command_of(process) for process in _all())


def _all() -> Iterator[Process]:
    return iter(_psutil().process_iter())


def _psutil() -> Any:
    from rayflow.runtime.actors import ray_system

    return ray_system.psutil()


def _environment(process: Process) -> dict[str, str]:
    return dict(_asked(process.environ, {}))


def _parent(process: Process) -> int:
    return int(_asked(process.ppid, 0))


def _session(pid: int) -> int | None:
    try:
        return os.getsid(pid)
    except OSError:
        return None


def _asked(question: Callable[[], Any], otherwise: Any) -> Any:
    # A process may end, or belong to another user, at any moment while it is looked at.
    try:
        return question()
    except (_psutil().Error, OSError):
        return otherwise
