"""The log of a store in object storage: numbered segments, read into records, and checkpoints of them.

Objects of a store, under its prefix:

* ``log/N``: the transactions, from 1, without a gap. Each is made by create alone, so a number is one writer's.
* ``state/N``: a checkpoint: all that the segments up to N have made.
* ``beat/E``: the last sign of life of the writer of epoch E.
* ``asked/E``: somebody who has a right to the store asks the writer of epoch E to give way. It helps who claims a store
  that is written all the time; whether it is heard or not, the log alone decides who writes.
* ``blob/…``: code, by its digest.
* ``value/D-E-N``: the large value of digest D, as the writer of epoch E has put it. Which one is meant is in the log.

What makes this safe, whatever is delayed or cut off:

* A writer takes the number after the last segment that it has applied, and no other. Who claims the store does so with
  a segment, and claims are never deleted. So the number that a writer takes which was taken over is its successor's
  claim, or is one of its own before that: its puts fail for ever.
* Segments are deleted only up to a checkpoint after which there is a newer one. So the segment of the newest
  checkpoint is always there, and the end of the log is where a listing shows nothing more.
* A put that was long delayed may make a segment anew that was deleted. It is before the checkpoint that precedes the
  newest one; so what was read is only applied if no such checkpoint has come after the records meanwhile, and a claim
  only counts if nothing is after it.
* A checkpoint holds what the log has up to its number, whoever writes it, and whenever it arrives. So a damaged one can
  be done without, as long as the one before it and all segments since that are there.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Sequence
from dataclasses import fields

from rayflow.errors import CorruptRecord, StorageUnavailable
from rayflow.storage.changes import Changes, MemoryData, apply, parts_of, snapshot
from rayflow.storage.objects.buckets import Bucket
from rayflow.storage.objects.segments import Segment, complete, decode_checkpoint, decode_segment, encode_checkpoint
from rayflow.storage.writer import Writer

log = logging.getLogger(__name__)

LOG, STATE, BEAT, ASKED, BLOB, VALUE = "log", "state", "beat", "asked", "blob", "value"

#: Segments that are asked for at once.
_WINDOW = 16
#: How often a log is read anew because it was compacted meanwhile.
_TRIES = 10


def name_of(number: int) -> str:
    """The name of an object with that number. Names sort as numbers do."""
    return f"{number:020d}"


def number_of(name: str) -> int:
    """The number of an object; 0 for one that has none, which is nobody's."""
    return int(name) if len(name) == 20 and name.isascii() and name.isdecimal() else 0


class Log:
    """See the module's docstring. It owns the records and where they are in the log; its user owns what is written.

    Args:
        bucket: where the objects are.
        data: what the log is read into.

    Attributes:
        number: of the last segment that is in the records; 0 for none.
        claims: the numbers of all claims.
        segments, size: how many segments there are since the newest known checkpoint, and of how many bytes.
        checkpointed: how large that checkpoint is, in bytes.
    """

    def __init__(self, bucket: Bucket, data: MemoryData) -> None:
        self.bucket = bucket
        self.data = data
        self.number = 0
        self.claims: list[int] = []
        self.segments = 0
        self.size = 0
        self.checkpointed = 0
        #: Why the records are of no use any more.
        self.damage: CorruptRecord | None = None

    @property
    def next_key(self) -> str:
        """The object that the next segment will be."""
        if self.damage is not None:
            raise self.damage
        return f"{LOG}/{name_of(self.number + 1)}"

    def where(self, key: str) -> str:
        """An object's whole name, for people."""
        return f"{self.bucket.url.rstrip('/')}/{key}"

    # --- reading -------------------------------------------------------------------------------------------
    async def refresh(self) -> None:
        """Read what the log has more than the records.

        Raises:
            CorruptRecord: an object is damaged, or missing.
            StorageUnavailable: an object cannot be read now, or is of a newer format.
        """
        if self.damage is not None:
            raise self.damage
        if self.number == 0:
            await self._begin()
        for _ in range(_TRIES):
            names = await self.bucket.list(LOG, after=name_of(self.number))
            last = max(map(number_of, names), default=0)
            if last <= self.number or await self._read_to(last):
                return
        raise StorageUnavailable(f"store {self.bucket.url} changes faster than it can be read; try again")

    async def _begin(self) -> None:
        """Read the newest checkpoint; if that is damaged the one before, since no segment after that one is deleted."""
        before, newest = await self._checkpoints()
        try:
            await self._load(newest)
        except CorruptRecord as error:
            log.error("%s. What it held is read from the objects before it", error)  # noqa: TRY400 - it says it all
            try:
                await self._load(before)
                await self._read_to(newest)
            except CorruptRecord as another:
                raise CorruptRecord("", f"{error.detail}; nor can it be made again: {another.detail}") from error

    async def _read_to(self, last: int) -> bool:
        """Read all segments up to one that is there; answers whether none of them was compacted meanwhile."""
        while self.number < last:
            numbers = range(self.number + 1, min(self.number + _WINDOW, last) + 1)
            found = await asyncio.gather(*(self.bucket.get(f"{LOG}/{name_of(number)}") for number in numbers))
            kept, newest = await self._checkpoints()
            there = list(itertools.takewhile(lambda body: body is not None, found))
            if kept > self.number or (len(there) < len(found) and newest > self.number + len(there)):
                await self._load(newest)
                return False
            for number, body in zip(numbers, there, strict=False):
                assert body is not None
                self._read(number, body)
            if len(there) < len(found):
                raise self._missing(self.number + 1)
        return True

    def _missing(self, number: int) -> CorruptRecord:
        return CorruptRecord(
            "",
            f"{self.where(f'{LOG}/{name_of(number)}')} is missing, although later ones are there and no checkpoint "
            "holds it. Only rayflow deletes objects of a store; restore it from the bucket's earlier versions",
        )

    def _read(self, number: int, body: bytes) -> None:
        where = self.where(f"{LOG}/{name_of(number)}")
        segment = decode_segment(where, number, body)
        expected = self.data.writer.epoch + segment.is_claim
        if segment.writer.epoch != expected:
            raise CorruptRecord("", f"{where} is of writer epoch {segment.writer.epoch}, where {expected} is due")
        try:
            complete(segment.changes, self.data)
            self.advance(segment, len(body))
        except (KeyError, AttributeError) as error:
            self.damage = CorruptRecord("", f"{where} does not fit what is before it: {error!r}")
            raise self.damage from error

    def advance(self, segment: Segment, size: int) -> None:
        """The next segment is durable: apply it."""
        apply(self.data, segment.changes)
        self.number += 1
        self.segments += 1
        self.size += size
        if segment.is_claim:
            self.data.writer = segment.writer
            self.claims.append(self.number)

    async def _checkpoints(self) -> tuple[int, int]:
        """The checkpoint before the newest, and the newest; 0 for none. Segments up to the former may be gone."""
        numbers = sorted(map(number_of, await self.bucket.list(STATE)))
        before, newest = (0, 0, *numbers)[-2:]
        return before, newest

    async def _load(self, number: int) -> None:
        """Begin anew from a checkpoint, if it still is there."""
        if number == 0:
            return
        key = f"{STATE}/{name_of(number)}"
        body = await self.bucket.get(key)
        if body is None:
            return  # there is a newer one
        writer, claims, parts = decode_checkpoint(self.where(key), number, body)
        data = MemoryData(writer=writer)
        for part in parts:
            apply(data, part)
        self._become(data, number, claims)
        self.checkpointed = len(body)

    def _become(self, data: MemoryData, number: int, claims: list[int]) -> None:
        for each in fields(MemoryData):
            setattr(self.data, each.name, getattr(data, each.name))
        self.number, self.claims, self.segments, self.size = number, claims, 0, 0

    # --- compaction ----------------------------------------------------------------------------------------
    async def checkpoint(self) -> None:
        """Keep what the log has made so far in one object, and delete what nobody needs any more.

        It may be cut off anywhere, and others may append meanwhile.
        """
        number, writer, claims, data = self.number, self.data.writer, list(self.claims), snapshot(self.data)
        segments, size = self.segments, self.size
        body = await asyncio.to_thread(_encoded, number, writer, claims, data)
        await self.bucket.put(f"{STATE}/{name_of(number)}", body)
        self.segments, self.size, self.checkpointed = self.segments - segments, self.size - size, len(body)
        await self._collect(number, claims, writer.epoch)

    async def _collect(self, number: int, claims: Sequence[int], epoch: int) -> None:
        """Delete what is older than the checkpoint before the newest: readers may still be at that one."""
        checkpoints = sorted(map(number_of, await self.bucket.list(STATE)))
        before = [each for each in checkpoints if 0 < each < number]
        if before:
            kept, needed = before[-1], set(claims)
            names = await self.bucket.list(LOG)
            old = [name for name in names if 0 < number_of(name) <= kept and number_of(name) not in needed]
            await self.bucket.delete([f"{LOG}/{name}" for name in old])
            await self.bucket.delete([f"{STATE}/{name_of(each)}" for each in before[:-1]])
        for folder in (BEAT, ASKED):
            past = [name for name in await self.bucket.list(folder) if 0 < number_of(name) < epoch]
            await self.bucket.delete([f"{folder}/{name}" for name in past])
        await self.bucket.tidy()


def _encoded(number: int, writer: Writer, claims: list[int], data: MemoryData) -> bytes:
    parts: list[Changes] = list(parts_of(data))
    return encode_checkpoint(number, writer, claims, parts)
