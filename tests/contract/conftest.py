"""Every test here runs over every store."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import obstore.store
import pytest

from rayflow.storage.base import Store
from rayflow.storage.memory import MemoryData, MemoryStore
from rayflow.storage.objects.buckets import FolderBucket, ObstoreBucket
from rayflow.storage.objects.store import ObjectStore
from rayflow.storage.sqlite.store import SqliteStore
from tests.contract.operations import NOW, run

T = TypeVar("T")


class Stores:
    """Makes stores of one kind that all hold the same records."""

    def __init__(self, make: Callable[[], Store]) -> None:
        self.new = make

    def run(self, body: Callable[[Store], Awaitable[T]]) -> T:
        """Run a test's body with a store that is open, is the writer, and is closed afterwards."""

        async def within() -> T:
            store = self.new()
            await store.open()
            try:
                await store.claim_writer("test", now=NOW, fresh_for=10)
                return await body(store)
            finally:
                await store.close()

        return run(within())


@pytest.fixture(params=["memory", "sqlite", "obstore", "folder"])
def stores(request: pytest.FixtureRequest, tmp_path: Path) -> Stores:
    match request.param:
        case "memory":
            data = MemoryData()
            return Stores(lambda: MemoryStore(data=data))
        case "obstore":
            remote = obstore.store.MemoryStore()
            return Stores(lambda: small(ObjectStore("s3://test", bucket=ObstoreBucket("s3://test", remote))))
        case "folder":
            bucket = FolderBucket(f"file://{tmp_path}", sync=False)
            return Stores(lambda: small(ObjectStore(bucket.url, bucket=bucket)))
    return Stores(lambda: SqliteStore(f"sqlite:///{tmp_path / 'store.db'}"))


def small(store: ObjectStore) -> ObjectStore:
    """A store that compacts its log all the time, so that this happens in tests, too."""
    store.checkpoint_segments = 2
    return store
