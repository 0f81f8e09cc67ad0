"""Object storage that fails on demand: at any call, before or after it is done, or with a put that comes late."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from rayflow.errors import StorageUnavailable
from rayflow.storage.changes import MemoryData
from rayflow.storage.objects.store import ObjectStore
from tests.contract.operations import NOW

#: How a call fails: not done; done, and the answer lost; done later, when ``World.deliver`` says; done, and
#: then tried again by the client, so that it is answered as if another had done it.
Fault = Literal["before", "after", "late", "twice"]


@dataclass
class World:
    """The objects, for all who reach them, and the puts that are on their way."""

    objects: dict[str, bytes] = field(default_factory=dict)
    late: list[Callable[[], object]] = field(default_factory=list)

    def create(self, key: str, data: bytes) -> bool:
        if key in self.objects:
            return False
        self.objects[key] = data
        return True

    def put(self, key: str, data: bytes) -> None:
        self.objects[key] = data

    def names(self, folder: str) -> list[str]:
        return sorted(key.removeprefix(f"{folder}/") for key in self.objects if key.startswith(f"{folder}/"))

    def deliver(self) -> None:
        """What is on its way arrives, the last first."""
        while self.late:
            self.late.pop()()


class FaultyBucket:
    """One process's way to the world.

    Args:
        world: the objects.
        at: number of the call that fails, from 1; None for none.
        fault: how it fails.
        for_good: whether everything fails after that: the process is dead.
    """

    url = "s3://faulty"

    def __init__(self, world: World, at: int | None = None, fault: Fault = "before", *, for_good: bool = False) -> None:
        self.world = world
        self.at = at
        self.fault = fault
        self.for_good = for_good
        self.calls = 0
        self.failed = False
        #: A create waits here, if it is set, before it is done.
        self.hold: asyncio.Event | None = None
        self.holding = asyncio.Event()

    async def create(self, key: str, data: bytes) -> bool:
        if self.hold is not None:
            self.holding.set()
            await self.hold.wait()
        fault = await self._call()
        if fault is None:
            return self.world.create(key, data)
        self._put(fault, lambda: self.world.create(key, data))
        return False

    async def put(self, key: str, data: bytes) -> None:
        fault = await self._call()
        if fault is None:
            self.world.put(key, data)
        else:
            self._put(fault, lambda: self.world.put(key, data))

    async def get(self, key: str) -> bytes | None:
        self._ask(await self._call())
        return self.world.objects.get(key)

    async def exists(self, key: str) -> bool:
        self._ask(await self._call())
        return key in self.world.objects

    async def list(self, folder: str, after: str = "") -> list[str]:
        self._ask(await self._call())
        return [name for name in self.world.names(folder) if name > after]

    async def delete(self, keys: Sequence[str]) -> None:
        for key in keys:
            fault = await self._call()
            if fault != "before":
                self.world.objects.pop(key, None)
            self._ask(fault)

    async def tidy(self) -> None:
        """Nothing is left behind."""

    async def _call(self) -> Fault | None:
        await asyncio.sleep(0)
        self.calls += 1
        if self.failed and self.for_good:
            raise StorageUnavailable("this process is dead")
        if self.calls != self.at:
            return None
        self.failed = True
        return self.fault

    def _put(self, fault: Fault, body: Callable[[], object]) -> None:
        if fault == "late":
            self.world.late.append(body)
        elif fault != "before":
            body()
        if fault != "twice":
            raise StorageUnavailable(f"failed, {fault}")

    def _ask(self, fault: Fault | None) -> None:
        if fault is not None:
            raise StorageUnavailable(f"failed, {fault}")


_made: list[ObjectStore] = []
_numbers = itertools.count()


def new_store(bucket: FaultyBucket, *, compact_after: int = 2) -> ObjectStore:
    """A store that compacts its log all the time; :func:`running` closes it."""
    store = ObjectStore(bucket.url, bucket=bucket)
    store.checkpoint_segments = compact_after
    store.checkpoint_patience = 1
    _made.append(store)
    return store


async def opened(bucket: FaultyBucket, nonce: str = "test", *, compact_after: int = 2) -> ObjectStore:
    """A store that is open and the writer, whoever was it before."""
    store = new_store(bucket, compact_after=compact_after)
    await store.open()
    await store.claim_writer(nonce, now=NOW, fresh_for=5, take_over=True)
    return store


async def reading(world: World) -> ObjectStore:
    """A store that was opened to read."""
    store = new_store(FaultyBucket(world))
    await store.open(read_only=True)
    return store


async def compacted(store: ObjectStore) -> None:
    """Wait for a checkpoint that is under way."""
    if store._checkpointing is not None:
        await asyncio.wait([store._checkpointing])


async def close_all() -> None:
    while _made:
        with contextlib.suppress(StorageUnavailable):
            await _made.pop().close()


def run(body: Coroutine[Any, Any, None]) -> None:
    """Run the body of a test, and close the stores it made."""

    async def within() -> None:
        try:
            await body
        finally:
            await close_all()

    asyncio.run(within())


def content(data: MemoryData) -> dict[str, object]:
    """All records but the writer, to be compared."""
    return {each.name: getattr(data, each.name) for each in fields(data) if each.name not in ("writer", "blobs")}
