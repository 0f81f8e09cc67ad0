"""Reading a store without an engine: nothing is started, created or changed, and no Ray is needed."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

from rayflow.cli.exit_codes import UsageError
from rayflow.errors import StorageUnavailable
from rayflow.storage.base import Store
from rayflow.storage.urls import open_store, parse, resolve

T = TypeVar("T")


def store_url(given: str | None) -> str:
    """The store that is meant: the one given, else ``RAYFLOW_STORE``, else the file in the user's data folder.

    Raises:
        UsageError: it is no URL of a store.
    """
    try:
        return resolve(given)
    except StorageUnavailable as error:
        raise UsageError(str(error)) from error


def read(url: str, query: Callable[[Store], Awaitable[T]]) -> T:
    """What a query answers on the store, opened for reading only.

    Args:
        url: the resolved URL.
        query: asks the store.

    Raises:
        UsageError: there is no such store.
        StorageUnavailable: it cannot be read.
    """
    parsed = parse(url)
    if parsed.scheme == "memory":
        raise UsageError(
            "memory:// lives in the process that made it and cannot be read from here; name a store on disk with "
            "--store or RAYFLOW_STORE"
        )
    if parsed.scheme in ("sqlite", "file") and not Path(parsed.path).exists():
        raise UsageError(f"there is no store at {parsed.path}; name another one with --store or RAYFLOW_STORE")
    return asyncio.run(_read(url, query))


async def _read(url: str, query: Callable[[Store], Awaitable[T]]) -> T:
    store = open_store(url)
    await store.open(read_only=True)
    try:
        return await query(store)
    finally:
        await store.close()
