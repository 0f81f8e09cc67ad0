"""Log of a store in object storage: numbered segments that are read into records, and checkpoints.

Objects of a store, under its prefix:

* ``log/N``: transaction N, from 1, without gaps. Each is written by create alone, so a number belongs to one writer.
* ``state/N``: a checkpoint: all records after segment N.
* ``beat/E``: the last heartbeat of the writer of epoch E.
* ``asked/E``: a request to the writer of epoch E to stop. It helps a process that claims a store which is written all
  the time; whether the writer reads it or not, the log alone decides who writes.
* ``blob/…``: code, by its digest.
* ``value/D-E-N``: the large value of digest D, put by the writer of epoch E. The log names the one in use.

Why this is safe, whatever is delayed or cut off:

* A writer uses only the number after the last segment that it has applied. A claim is a segment too, and claims are
  never deleted. So the next number of a fenced writer is its successor's claim, or one of the writer's segments before
  that: its puts fail forever.
* Segments are deleted only up to the checkpoint before the newest one. So the segment of the newest checkpoint always
  exists, and the end of the log is where a listing returns no more.
* A put that was delayed for long may create a deleted segment again. Its number is below the checkpoint before the
  newest one. So segments are applied only if no such checkpoint has appeared after the records, and a claim counts only
  if no segment follows it.
* A checkpoint holds the records of the log up to its number, whichever process writes it and whenever it arrives. So
  the store can do without a damaged one, if the one before it and all segments since then exist.
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

#: Segments that are read at the same time.
_WINDOW = 16
#: Attempts to read a log that is compacted during the read.
_TRIES = 10


def name_of(number: int) -> str:
    """Return the name of an object with that number. Names sort like numbers."""
    return f"{number:020d}"


def number_of(name: str) -> int:
    """Return the number of an object; 0 for a name that is not a number."""
    return int(name) if len(name) == 20 and name.isascii() and name.isdecimal() else 0


class Log:
    """Log of a store. It owns the records and their position in the log; its user owns the content of the segments.

    Args:
        bucket: the objects.
        data: the records into which the log is read.

    Attributes:
        number: number of the last applied segment; 0 for none.
        claims: numbers of all claims.
        segments, size: number and bytes of the segments since the newest known checkpoint.
        checkpointed: bytes of that checkpoint.
    """

    def __init__(self, bucket: Bucket, data: MemoryData) -> None:
        self.bucket = bucket
        self.data = data
        self.number = 0
        self.claims: list[int] = []
        self.segments = 0
        self.size = 0
        self.checkpointed = 0
        #: Why the records are unusable; None if they are not.
        self.damage: CorruptRecord | None = None

    @property
    def next_key(self) -> str:
        """Return the key of the next segment."""
        if self.damage is not None:
            raise self.damage
        return f"{LOG}/{name_of(self.number + 1)}"

    def where(self, key: str) -> str:
        """Return an object's whole name, for messages."""
        return f"{self.bucket.url.rstrip('/')}/{key}"

    async def refresh(self) -> None:
        """Apply the segments that the records lack.

        Raises:
            CorruptRecord: an object is damaged or missing.
            StorageUnavailable: an object cannot be read now, or has a newer format.
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
        """Read the newest checkpoint; if it is damaged, the one before, since no segment after that one is deleted."""
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
        """Apply all segments up to an existing one; return whether none of them was compacted during that time."""
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
        """Apply the next segment, which is durable."""
        apply(self.data, segment.changes)
        self.number += 1
        self.segments += 1
        self.size += size
        if segment.is_claim:
            self.data.writer = segment.writer
            self.claims.append(self.number)

    async def _checkpoints(self) -> tuple[int, int]:
        """Return the checkpoint before the newest, and the newest; 0 for none. Segments up to the first may be gone."""
        numbers = sorted(map(number_of, await self.bucket.list(STATE)))
        before, newest = (0, 0, *numbers)[-2:]
        return before, newest

    async def _load(self, number: int) -> None:
        """Replace the records by those of a checkpoint, if it still exists."""
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

    async def checkpoint(self) -> None:
        """Write all records as one object, and delete objects that are no longer needed.

        It may be cut off anywhere, and segments may be appended at the same time.
        """
        number, writer, claims, data = self.number, self.data.writer, list(self.claims), snapshot(self.data)
        segments, size = self.segments, self.size
        body = await asyncio.to_thread(_encoded, number, writer, claims, data)
        await self.bucket.put(f"{STATE}/{name_of(number)}", body)
        self.segments, self.size, self.checkpointed = self.segments - segments, self.size - size, len(body)
        await self._collect(number, claims, writer.epoch)

    async def _collect(self, number: int, claims: Sequence[int], epoch: int) -> None:
        """Delete objects older than the checkpoint before the newest, which readers may still read."""
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
