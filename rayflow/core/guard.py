"""Catches workflow code that reaches the outside world directly, as far as Python lets it be seen.

Python's audit events show files, sockets, processes and (from 3.12 and 3.13) threads and ``time.sleep``; the
last two are patched for the versions before. Everything is judged by the *running loop of this thread*: only
code that runs on a durable loop is refused, anything else in the process goes on untouched.

What cannot be caught is documented in docs/workflows.md: reading the clock, random numbers, environment
variables, and C extensions that raise no audit event.
"""

from __future__ import annotations

import asyncio
import functools
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, ParamSpec, Protocol, TypeVar

from rayflow.errors import WorkflowSideEffect

P = ParamSpec("P")
R = TypeVar("R")

_WATCHED = {
    "open": "opening a file",
    "os.mkdir": "making a folder",
    "os.remove": "removing a file",
    "os.rename": "renaming a file",
    "os.rmdir": "removing a folder",
    "os.system": "starting a process",
    "os.fork": "starting a process",
    "os.posix_spawn": "starting a process",
    "subprocess.Popen": "starting a process",
    "socket.connect": "connecting a socket",
    "socket.bind": "binding a socket",
    "socket.sendto": "sending to a socket",
    "socket.getaddrinfo": "looking up a host",
    "sqlite3.connect": "opening a database",
    "_thread.start_new_thread": "starting a thread",
    "time.sleep": "time.sleep() (use `await asyncio.sleep()`, which is durable)",
}

#: Modules that open files on behalf of the interpreter, not of the workflow: imports, and source lines for
#: tracebacks.
_EXEMPT = frozenset({"importlib._bootstrap", "importlib._bootstrap_external", "linecache", "zipimport", "tokenize"})

_installed = False
_install_lock = threading.Lock()


class GuardedLoop(Protocol):
    """A loop on which side effects are refused while ``guarded`` is true."""

    guarded: bool


def _refusing() -> bool:
    return getattr(asyncio._get_running_loop(), "guarded", False)


def _audit(event: str, args: tuple[Any, ...]) -> None:
    what = _WATCHED.get(event)
    if what is None or not _refusing():
        return
    if event in {"open", "os.mkdir", "os.remove", "os.rename"} and _by_interpreter():
        return
    detail = f" ({args[0]!r})" if event == "open" and args else ""
    raise WorkflowSideEffect(what + detail)


def _by_interpreter() -> bool:
    frame = sys._getframe(2)
    while frame is not None:
        if frame.f_globals.get("__name__") in _EXEMPT:
            return True
        frame = frame.f_back  # type: ignore[assignment]
    return False


def _guarded(function: Callable[P, R], what: str) -> Callable[P, R]:
    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        if _refusing():
            raise WorkflowSideEffect(what)
        return function(*args, **kwargs)

    return call


def install() -> None:
    """Install the guard in this process, once. It cannot be removed, and costs other code next to nothing."""
    global _installed
    with _install_lock:
        if _installed:
            return
        _installed = True
    sys.addaudithook(_audit)
    if sys.version_info < (3, 13):
        time.sleep = _guarded(time.sleep, _WATCHED["time.sleep"])
    if sys.version_info < (3, 12):
        threading.Thread.start = _guarded(threading.Thread.start, _WATCHED["_thread.start_new_thread"])  # type: ignore[method-assign]
