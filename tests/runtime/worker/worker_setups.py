"""Setups of pools that the tests of workers run, imported by reference."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import threading
from collections.abc import AsyncIterator, Generator, Iterator
from typing import Any, NoReturn

from tests.runtime.worker.worker_steps import STAGE, Broken


# --- what goes well -----------------------------------------------------------------------------------------
def prepare() -> str:
    STAGE.ran.append(threading.current_thread().name)
    return "prepared"


async def prepare_async() -> str:
    STAGE.ran.append(threading.current_thread().name)
    await asyncio.sleep(0)
    return "prepared"


@contextlib.contextmanager
def opened() -> Iterator[str]:
    STAGE.ran.append("opened")
    yield "open"
    STAGE.ran.append("closed")


@contextlib.asynccontextmanager
async def connected() -> AsyncIterator[str]:
    task = asyncio.current_task()
    STAGE.ran.append(f"connected on {threading.current_thread().name}")
    yield "connection"
    assert asyncio.current_task() is task, "task groups must be left by the task that entered them"
    STAGE.ran.append("disconnected")


async def open_later() -> Any:
    return opened()


class Connection:
    """Awaitable and a context manager, as those of some drivers."""

    def __await__(self) -> Generator[Any, None, str]:
        STAGE.ran.append("awaited")
        yield from asyncio.sleep(0).__await__()
        return "awaited"

    async def __aenter__(self) -> str:
        return await self

    async def __aexit__(self, *error: object) -> None:
        STAGE.ran.append("left")


# --- what goes wrong ----------------------------------------------------------------------------------------
def break_down() -> NoReturn:
    STAGE.ran.append("broke down")
    raise Broken("no key")


async def break_down_async() -> NoReturn:
    await asyncio.sleep(0)
    break_down()


@contextlib.asynccontextmanager
async def break_down_entering() -> AsyncIterator[None]:
    break_down()
    yield


def leave_the_process() -> NoReturn:
    STAGE.ran.append("broke down")
    sys.exit(3)


@contextlib.contextmanager
def cannot_be_left() -> Iterator[str]:
    yield "open"
    raise Broken("stuck")


@contextlib.asynccontextmanager
async def left_for_ever() -> AsyncIterator[str]:
    yield "open"
    await asyncio.Event().wait()


@contextlib.contextmanager
def opened_slowly() -> Iterator[str]:
    STAGE.gate("setup").wait()
    yield "open"
    STAGE.ran.append("closed")
