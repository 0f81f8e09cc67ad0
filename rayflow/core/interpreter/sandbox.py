"""Catches workflow code that reaches the outside world directly, as far as Python lets it be seen.

Python's audit events show files, sockets, processes and (from 3.12 and 3.13) threads and ``time.sleep``; the
last two are patched for the versions before. Everything is judged by the *running loop of this thread*: only
code that runs on a durable loop is refused, all other code in the process continues unaffected. The interpreter's
own actions for the code (imports and all that a module does while it is imported, source lines for tracebacks, time
zones) are allowed.

What cannot be caught is documented in docs/workflows.md: reading the clock, random numbers and environment variables,
asking whether a file exists, writing to a file that was opened before, and C extensions that raise no audit event.
"""

from __future__ import annotations

import asyncio
import functools
import os
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, NoReturn, ParamSpec, TypeVar

from rayflow.core.interpreter import library_patches, shared_objects
from rayflow.errors import SideEffectError

P = ParamSpec("P")
R = TypeVar("R")

_THREAD = "starting a thread"
_PROCESS = "starting a process"
_SLEEP = "time.sleep() (use `await asyncio.sleep()`, which is durable)"
_LOOKUP = "looking up a host"
_LISTING = "listing a folder"
_CHANGE = "changing a file"
_ATTRIBUTES = "reading or changing a file's attributes"
_LOCKING = "locking or controlling a file"
_ENVIRONMENT = "changing an environment variable"
_CHDIR = "changing the working directory"
_SIGNAL = "sending a signal to a process"
_SYSLOG = "writing to the system's log"

_WATCHED = {
    "open": "opening a file",
    "os.mkdir": "making a folder",
    "os.remove": "removing a file",
    "os.rename": "renaming a file",
    "os.rmdir": "removing a folder",
    "os.link": "linking a file",
    "os.symlink": "linking a file",
    "os.truncate": _CHANGE,
    "os.chmod": _CHANGE,
    "os.chown": _CHANGE,
    "os.chflags": _CHANGE,
    "os.utime": _CHANGE,
    "os.getxattr": _ATTRIBUTES,
    "os.listxattr": _ATTRIBUTES,
    "os.setxattr": _ATTRIBUTES,
    "os.removexattr": _ATTRIBUTES,
    "os.lockf": _LOCKING,
    "fcntl.fcntl": _LOCKING,
    "fcntl.flock": _LOCKING,
    "fcntl.ioctl": _LOCKING,
    "fcntl.lockf": _LOCKING,
    "mmap.__new__": "mapping a file",
    "os.listdir": _LISTING,
    "os.scandir": _LISTING,
    "os.chdir": _CHDIR,
    "os.fchdir": _CHDIR,
    "os.putenv": _ENVIRONMENT,
    "os.unsetenv": _ENVIRONMENT,
    "os.kill": _SIGNAL,
    "os.killpg": _SIGNAL,
    "signal.pthread_kill": _SIGNAL,
    "resource.setrlimit": "changing a limit of the process",
    "syslog.openlog": _SYSLOG,
    "syslog.syslog": _SYSLOG,
    "os.exec": _PROCESS,
    "os.fork": _PROCESS,
    "os.forkpty": _PROCESS,
    "os.spawn": _PROCESS,
    "os.posix_spawn": _PROCESS,
    "os.system": _PROCESS,
    "subprocess.Popen": _PROCESS,
    "socket.__new__": "making a socket",
    "socket.connect": "connecting a socket",
    "socket.bind": "binding a socket",
    "socket.sendto": "sending to a socket",
    "socket.sendmsg": "sending to a socket",
    "socket.gethostbyaddr": _LOOKUP,
    "socket.getnameinfo": _LOOKUP,
    "socket.getaddrinfo": _LOOKUP,
    "socket.gethostbyname": _LOOKUP,
    "sqlite3.connect": "opening a database",
    "_thread.start_new_thread": _THREAD,
    "_thread.start_joinable_thread": _THREAD,
    "time.sleep": _SLEEP,
}

#: Modules that open files on behalf of the interpreter, not of the workflow.
_EXEMPT = frozenset(
    {
        "importlib._bootstrap",
        "importlib._bootstrap_external",
        "linecache",
        "zipimport",
        "zoneinfo._common",
        "zoneinfo._tzpath",
    }
)

#: Where the search for them ends: what called the loop says nothing about the workflow's code.
_LOOP = "rayflow.core.interpreter.event_loop"

_installed = False
_install_lock = threading.Lock()


def _refusing() -> bool:
    return getattr(asyncio._get_running_loop(), "guarded", False)


def _audit(event: str, args: tuple[Any, ...]) -> None:
    if event == "import" and args[0] == "anyio":
        library_patches.patch_anyio()
    what = _WATCHED.get(event)
    if what is None or not _refusing():
        return
    detail = ""
    if event == "open":
        if _is_time_zone(args[0]):
            return
        detail = f" ({args[0]!r})"
    _refuse(what + detail)


def _refuse(what: str) -> None:
    if not _by_interpreter():
        raise SideEffectError(what)


def _by_interpreter() -> bool:
    frame: FrameType | None = sys._getframe(2)
    while frame is not None:
        module = frame.f_globals.get("__name__")
        if module in _EXEMPT:
            return True
        if module == _LOOP:
            return False
        frame = frame.f_back
    return False


def _is_time_zone(path: object) -> bool:
    # zoneinfo's C half opens its files without a Python frame. The files are the same for each process.
    zoneinfo = sys.modules.get("zoneinfo")
    return zoneinfo is not None and isinstance(path, str) and path.startswith(tuple(zoneinfo.TZPATH))


@contextmanager
def outside() -> Iterator[None]:
    """Exempt the enclosed actions on this thread from the rules for the workflow code whose loop runs there."""
    loop = asyncio._get_running_loop()
    asyncio._set_running_loop(None)
    try:
        yield
    finally:
        asyncio._set_running_loop(loop)


def _guarded(function: Callable[P, R], what: str) -> Callable[P, R]:
    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        if _refusing():
            _refuse(what)
        return function(*args, **kwargs)

    return call


def install() -> None:
    """Install the guard in this process, once. It cannot be removed, and costs other code next to nothing."""
    global _installed  # noqa: PLW0603 - an audit hook belongs to the process, and so does the knowledge of it
    with _install_lock:
        if _installed:
            return
        _installed = True
    library_patches.install()
    shared_objects.install()
    sys.addaudithook(_audit)
    for name in ("write", "writev", "pwrite", "pwritev"):  # which raise no audit event
        if (original := getattr(os, name, None)) is not None:
            library_patches.replace_everywhere(original, _guarded(original, f"os.{name}()"))
    if sys.version_info < (3, 13):
        library_patches.replace_everywhere(time.sleep, _guarded(time.sleep, _SLEEP))
    if sys.version_info < (3, 12):
        threading.Thread.start = _guarded(threading.Thread.start, _THREAD)  # type: ignore[method-assign]


#: Up to 3.12, and from 3.13.
_AS_COMPLETED = frozenset({"as_completed", "_AsCompletedIterator.__init__"})


class RestrictedEventLoop(asyncio.AbstractEventLoop):
    """An event loop that refuses threads, connections, processes and signals, with a word on what to do."""


def refuse_as_completed(coro: Coroutine[Any, Any, Any]) -> None:
    """Refuse to make a task for ``as_completed``.

    Over bare coroutines it makes tasks in the order of a set of them, and they hash by their address.
    """
    frame: FrameType | None = sys._getframe(2)
    for _ in range(4):
        if frame is None:
            return
        code = frame.f_code
        if code.co_name in {"as_completed", "__init__"} and code.co_qualname in _AS_COMPLETED:
            coro.close()
            raise SideEffectError(
                "asyncio.as_completed() over bare coroutines (their order differs from run to run; make tasks first, "
                "`[asyncio.create_task(c) for c in coros]`)"
            )
        frame = frame.f_back


def _refusal(name: str, what: str) -> Callable[..., NoReturn]:
    def refuse(self: RestrictedEventLoop, *args: Any, **kwargs: Any) -> NoReturn:
        raise SideEffectError(what)

    refuse.__name__ = name
    refuse.__doc__ = f"Refused: {what}."
    return refuse


_REFUSED = {
    "running a function in a thread": ("run_in_executor", "call_soon_threadsafe", "set_default_executor"),
    "opening a connection": (
        "create_connection", "create_server", "create_datagram_endpoint", "create_unix_connection",
        "create_unix_server", "connect_accepted_socket", "start_tls", "sendfile", "getaddrinfo", "getnameinfo",
        "sock_recv", "sock_recv_into", "sock_recvfrom", "sock_recvfrom_into", "sock_sendto", "sock_sendall",
        "sock_connect", "sock_accept", "sock_sendfile", "connect_read_pipe", "connect_write_pipe",
        "add_reader", "remove_reader", "add_writer", "remove_writer",
    ),
    "starting a process": ("subprocess_shell", "subprocess_exec"),
    "handling a signal of the operating system": ("add_signal_handler", "remove_signal_handler"),
    "running or closing the loop": (
        "run_forever", "run_until_complete", "stop", "close", "shutdown_asyncgens", "shutdown_default_executor",
        "set_exception_handler", "get_exception_handler",
    ),
}  # fmt: skip
for _what, _names in _REFUSED.items():
    for _name in _names:
        setattr(RestrictedEventLoop, _name, _refusal(_name, _what))
