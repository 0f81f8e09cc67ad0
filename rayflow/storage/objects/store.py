"""Object storage implementation of the ``Store`` contract: S3, Google Cloud Storage, Azure, or a shared folder.

A transaction is one object, put once (:mod:`rayflow.storage.objects.log`). The records are in memory, so that only
writing uses the network. A put that failed may be done nevertheless, also later. So the next transaction uses the same
number, and whichever of the two arrives first counts. If that is the earlier one, it is applied, and the later
transaction is decided again.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

from rayflow.errors import RayflowError, StorageError, StorageUnavailable, WriterFenced
from rayflow.storage.changes import Changes, MemoryData
from rayflow.storage.memory import MemoryStore
from rayflow.storage.objects.buckets import Bucket, open_bucket
from rayflow.storage.objects.log import ASKED, BEAT, BLOB, LOG, VALUE, Log, name_of
from rayflow.storage.objects.segments import Segment, UnwritableError, encode_segment, size_of
from rayflow.storage.operations import Answer, Operation, Rejected
from rayflow.storage.rules.retention import PurgeBatch, PurgeFilter
from rayflow.storage.writer import Writer, WriterIdentity, next_writer

log = logging.getLogger(__name__)
T = TypeVar("T")

#: Attempts of a transaction that is overtaken by another one.
_TRIES = 10
#: Attempts of a claim; attempts after which the writer, which is faster, is asked to stop at its next heartbeat; and
#: seconds between two attempts from then on.
_CLAIMS, _PATIENT, _PAUSE = 60, 3, 0.05
#: Seconds that a close waits for a running checkpoint.
_PATIENCE = 5.0
_GONE = "gone"


class ObjectStore(MemoryStore):
    """Store in object storage.

    A writer reads from memory. A fenced writer that has not noticed yet (it does with its next commit or heartbeat)
    reads the records from before. A store that is not the writer reads the log before each read.

    Args:
        url: ``s3://bucket/prefix``, ``gs://…``, ``az://…`` or ``file:///folder``.
        bucket: the objects; None for the bucket of the URL.
    """

    #: A checkpoint is due after this number of segments, or of bytes in them,
    checkpoint_segments = 256
    checkpoint_bytes = 8 << 20
    #: if they are at least 1/4 of the last checkpoint; or in any case after 16 times the number of segments.
    checkpoint_part = 4
    checkpoint_patience = 16
    #: Maximum bytes of one transaction.
    largest = 1 << 30

    def __init__(self, url: str, *, bucket: Bucket | None = None) -> None:
        super().__init__(url)
        self._given = bucket
        self._log: Log | None = None
        self._lock = asyncio.Lock()
        self._put: set[str] = set()
        self._places = itertools.count(1)
        self._tidied = False
        self._checkpointing: asyncio.Task[None] | None = None
        self._next_attempt = 0
        #: Bytes deleted since checkpoints were last requested for that, and checkpoints that are still due.
        self._freed = self._wanted = 0

    async def open(self, *, read_only: bool = False) -> None:
        """See Store. Reads the newest checkpoint, and the segments since then."""
        if self._open:
            return
        self.data = MemoryData()
        found = Log(self._given or open_bucket(self.url), self.data)
        await found.refresh()
        if read_only and found.number == 0:
            raise StorageUnavailable(f"cannot open store {self.url}: it does not exist, and reading does not create it")
        self._log = found
        await super().open(read_only=read_only)

    async def close(self) -> None:
        """See Store. Waits a moment for a checkpoint under way."""
        task, self._checkpointing = self._checkpointing, None
        if task is not None:
            await asyncio.wait([task], timeout=_PATIENCE)
            task.cancel()
            await asyncio.wait([task])
        async with self._lock:
            if self._open and self._epoch is not None and self._fenced is None:
                with contextlib.suppress(StorageUnavailable):  # it only spares the next writer a wait
                    await self._opened().bucket.put(_beat(self._epoch), _GONE.encode())
            self._open = False
            self._epoch = None
            self._log = None
            self._put.clear()
            self._tidied = False

    def _opened(self) -> Log:
        self._check_open()
        assert self._log is not None
        return self._log

    async def claim_writer(self, nonce: str, *, now: float, fresh_for: float, take_over: bool = False) -> int:
        """See Store. The claim is the next segment; who loses that number to another looks again."""
        async with self._lock:
            mine = self._epoch
            for losses in range(_CLAIMS):
                self._check_writable()
                records = self._opened()
                await records.refresh()
                self._check_not_fenced()
                current = await self._last_seen(records)
                claimed = next_writer(current, nonce, now=now, fresh_for=fresh_for, take_over=take_over, url=self.url)
                # If the answer is lost, the writer is unknown; a claim is never recognised as one's own, since
                # another process may use the same nonce.
                self._epoch = None
                if await self._claim(records, claimed):
                    self._epoch = claimed.epoch
                    return claimed.epoch
                self._epoch = mine
                if losses >= _PATIENT:
                    await records.bucket.put(_asked(current.epoch), nonce.encode(errors="replace"))
                    await asyncio.sleep(_PAUSE)
        raise StorageUnavailable(f"store {self.url} is claimed by many at once, or written all the time; try again")

    async def _claim(self, records: Log, writer: Writer) -> bool:
        """Write a claim; return whether it is the end of the log, so that it counts."""
        segment = Segment(writer, Changes())
        body = encode_segment(records.number + 1, segment.writer, segment.changes)
        made = await records.bucket.create(records.next_key, body)
        if not made or await records.bucket.list(LOG, after=name_of(records.number + 1)):
            return False
        records.advance(segment, len(body))
        return True

    async def _last_seen(self, records: Log) -> Writer:
        """Return the writer with its newest heartbeat."""
        writer = records.data.writer
        beat = await records.bucket.get(_beat(writer.epoch)) if writer.epoch else None
        if beat is None:
            return writer
        with contextlib.suppress(ValueError):  # unreadable: the claim itself counts as a heartbeat
            text = beat.decode()
            return Writer(writer.epoch, writer.nonce, None if text == _GONE else float(text))
        return writer

    async def heartbeat(self, *, now: float) -> None:
        """See Store."""
        records, writer = self._opened_for_writing()
        await records.bucket.put(_beat(writer.epoch), repr(now).encode())
        by = await records.bucket.get(_asked(writer.epoch))
        async with self._lock:
            self._check_writer()
            if not await self._look(records) and by is not None:
                self._fenced = WriterFenced(
                    f"store {self.url} is being taken over by {WriterIdentity.from_text(by.decode(errors='replace'))}; "
                    f"this writer, of epoch {writer.epoch}, stops writing at its request"
                )
                raise self._fenced

    def _opened_for_writing(self) -> tuple[Log, Writer]:
        writer = self._check_writer()
        return self._opened(), writer

    async def _look(self, records: Log) -> bool:
        """Apply segments that the records lack; return whether there were any. Raises WriterFenced."""
        if not await records.bucket.exists(records.next_key):
            return False
        await records.refresh()
        self._check_writer()
        return True

    async def commit(self, operations: Sequence[Operation]) -> list[Answer]:
        """See Store."""
        try:
            return await self._transact(lambda: self._decide(operations))
        except UnwritableError:
            return await self._write(lambda: self._decide_singly(operations))

    async def _write(self, decide: Callable[[], tuple[Changes, T]]) -> T:
        try:
            return await self._transact(decide)
        except UnwritableError as error:
            raise StorageError(f"this cannot be written to store {self.url}: {error}") from error

    async def _transact(self, decide: Callable[[], tuple[Changes, T]]) -> T:
        async with self._lock:
            for _ in range(_TRIES):
                records, writer = self._opened_for_writing()
                changes, answer = decide()
                if changes:
                    written = await self._append(records, Segment(Writer(writer.epoch, writer.nonce), changes))
                else:
                    written = not await self._look(records)
                if written:
                    self._checkpoint_if_due(records)
                    return answer
        raise StorageUnavailable(f"store {self.url} reports an object that it does not list; try again")

    async def _append(self, records: Log, segment: Segment) -> bool:
        """Write the next segment. If another segment has its number, apply that one and return False."""
        key, body = records.next_key, encode_segment(records.number + 1, segment.writer, segment.changes)
        if len(body) > self.largest:
            raise UnwritableError(f"it takes {len(body)} bytes, of {self.largest} at most")
        # An existing object may be this segment, if the answer to its first put was lost.
        if not await records.bucket.create(key, body) and await records.bucket.get(key) != body:
            await records.refresh()
            return False
        records.advance(segment, len(body))
        return True

    def _decide_singly(self, operations: Sequence[Operation]) -> tuple[Changes, list[Answer]]:
        """Decide as ``_decide``, and reject the operations that cannot be encoded, and only those."""
        good: list[Operation] = []
        refused: dict[int, Answer] = {}
        for index, operation in enumerate(operations):
            problem = self._problem(operation)
            # An operation that is refused anyway, or was applied before, writes nothing: its content does not matter.
            if problem and self._decide([*good, operation])[0] != self._decide(good)[0]:
                refused[index] = Rejected(problem)
            else:
                good.append(operation)
        changes, answers = self._decide(good)
        rest = iter(answers)
        return changes, [refused[index] if index in refused else next(rest) for index in range(len(operations))]

    def _problem(self, operation: Operation) -> RayflowError | None:
        """Return why an operation cannot be encoded; None if it can."""
        try:
            size = size_of(operation)
            why = f"it takes {size} bytes" if size > self.largest else ""
        except UnwritableError as error:
            why = str(error)
        if not why:
            return None
        return StorageError(
            f"this {type(operation).__name__} of execution {operation.execution_id!r} cannot be written: {why}. "
            f"Numbers must fit 64 bits, and an operation {self.largest} bytes"
        )

    def _checkpoint_if_due(self, records: Log) -> None:
        if self._checkpointing is not None and not self._checkpointing.done():
            return
        if not records.segments or records.number < self._next_attempt:
            return
        many = records.segments >= self.checkpoint_segments or records.size >= self.checkpoint_bytes
        worth = records.size * self.checkpoint_part >= records.checkpointed
        overdue = records.segments >= self.checkpoint_segments * self.checkpoint_patience
        if self._wanted or (many and (worth or overdue)):
            self._checkpointing = asyncio.create_task(self._checkpoint(records), name="checkpoint")

    async def _checkpoint(self, records: Log) -> None:
        try:
            await records.checkpoint()
            self._wanted = max(0, self._wanted - 1)
        except RayflowError as error:
            self._next_attempt = records.number + self.checkpoint_segments
            log.warning("store %s: compaction of the log failed, will retry later: %s", self.url, error)

    async def collect(self, over: PurgeFilter, *, dry_run: bool = False) -> PurgeBatch:
        """See Store."""
        found = await super().collect(over, dry_run=dry_run)
        if not dry_run:
            self._freed += found.size
        return found

    async def reclaim(self) -> bool:
        """See Store. Deleted values stay in the log until two checkpoints follow.

        They are made when that is worth it: the first one now, in the background, the second after a later transaction.
        """
        records, _ = self._opened_for_writing()
        if self._freed * self.checkpoint_part >= records.checkpointed + records.size > 0:
            self._freed, self._wanted = 0, 2
            self._checkpoint_if_due(records)
        return False

    async def _reading(self) -> None:
        records = self._opened()
        if self._epoch is None or self._fenced is not None:
            async with self._lock:
                await records.refresh()
        elif records.damage is not None:
            raise records.damage

    async def put_blob(self, digest: str, data: bytes) -> None:
        """See Store. A blob that this writer has put before is not put again."""
        records, _ = self._opened_for_writing()
        async with self._lock:
            self._check_writer()
            await self._look(records)
        if digest not in self._put:
            await records.bucket.put(f"{BLOB}/{digest}", data)
            self._put.add(digest)

    async def blob(self, digest: str) -> bytes | None:
        """See Store."""
        return await self._opened().bucket.get(f"{BLOB}/{digest}")

    async def put_value(self, digest: str, data: bytes, *, now: float) -> None:
        """See Store. First the object, then its record; for an existing one only the record."""
        place = ""
        for _ in range(_TRIES):
            records, writer = self._opened_for_writing()
            if digest not in self.data.values and not place:
                # Never a used name: a pending deletion of that object may still happen.
                place = f"{VALUE}/{digest}-{writer.epoch}-{next(self._places)}"
                await records.bucket.put(place, data)
            there = await self._write(partial(self._put_there, digest, len(data), now, place))
            if there is not None:
                if place not in ("", there):  # another call has put the same value
                    await records.bucket.delete([place])
                return
        raise StorageUnavailable(f"value {digest} of store {self.url} is collected faster than it is put; try again")

    def _put_there(self, digest: str, size: int, now: float, place: str) -> tuple[Changes, str | None]:
        """Record a value that was put; return its place, or None if it was collected and must be put again."""
        if digest not in self.data.values and not place:
            return Changes(), None
        record = self._renewed(digest, size, now, place)
        return Changes(values=[record]), record.place

    async def value(self, digest: str) -> bytes | None:
        """See Store."""
        await self._reading()
        record = self.data.values.get(digest)
        return None if record is None else await self._opened().bucket.get(record.place)

    async def collect_values(self, *, now: float, grace: float, limit: int) -> int:
        """See Store. First the records, then the objects; the next writer deletes what a stopped one leaves."""
        records, writer = self._opened_for_writing()
        gone = await self._write(lambda: self._plan_collection(now, grace, limit))
        await records.bucket.delete([value.place for value in gone])
        if not self._tidied:
            # An earlier writer is fenced, so objects that it has not recorded will never be read.
            known = {value.place for value in self.data.values.values()}
            places = [f"{VALUE}/{name}" for name in await records.bucket.list(VALUE)]
            await records.bucket.delete([p for p in places if p not in known and _epoch_of(p) < writer.epoch])
            self._tidied = True
        return len(gone)


def _epoch_of(place: str) -> int:
    return int(place.split("-")[1])


def _asked(epoch: int) -> str:
    return f"{ASKED}/{name_of(epoch)}"


def _beat(epoch: int) -> str:
    return f"{BEAT}/{name_of(epoch)}"
