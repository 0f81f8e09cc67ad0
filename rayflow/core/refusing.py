"""What asyncio offers and a workflow must not use, because no replay could repeat it."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Coroutine
from types import FrameType
from typing import Any, NoReturn

from rayflow.errors import WorkflowSideEffect

#: Up to 3.12, and from 3.13.
_AS_COMPLETED = frozenset({"as_completed", "_AsCompletedIterator.__init__"})


class RefusingLoop(asyncio.AbstractEventLoop):
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
            raise WorkflowSideEffect(
                "asyncio.as_completed() over bare coroutines (their order differs from run to run; make tasks first, "
                "`[asyncio.create_task(c) for c in coros]`)"
            )
        frame = frame.f_back


def _refusal(name: str, what: str) -> Callable[..., NoReturn]:
    def refuse(self: RefusingLoop, *args: Any, **kwargs: Any) -> NoReturn:
        raise WorkflowSideEffect(what)

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
        setattr(RefusingLoop, _name, _refusal(_name, _what))
