"""SQLite stores for tests: made by the dozen, closed whatever happens."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

from rayflow.storage.sqlite.store import SqliteStore
from tests.contract.operations import NOW, append, claim, done, start
from tests.storage.faults import FaultyConnection, faulty_store

T = TypeVar("T")


def url_of(file: Path) -> str:
    return f"sqlite:///{file}"


_made: list[SqliteStore] = []


def new_store(file: Path) -> SqliteStore:
    _made.append(SqliteStore(url_of(file)))
    return _made[-1]


def new_faulty_store(file: Path) -> tuple[SqliteStore, type[FaultyConnection]]:
    store, fault = faulty_store(url_of(file))
    _made.append(store)
    return store, fault


def run(body: Coroutine[Any, Any, T]) -> T:
    """Run it, and close what it made, also when it fails."""

    async def within() -> T:
        try:
            return await body
        finally:
            while _made:
                await _made.pop().close()

    return asyncio.run(within())


async def opened(store: SqliteStore) -> SqliteStore:
    await store.open()
    await store.claim_writer("test", now=NOW, fresh_for=0)
    return store


def fill(file: Path, *, rows: int = 1) -> None:
    async def body() -> None:
        store = await opened(new_store(file))
        await done(store, start(), claim(), append(bodies=[b"x" * 1000] * rows))
        await store.close()

    run(body())
