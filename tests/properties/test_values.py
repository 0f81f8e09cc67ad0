"""Never a record that refers to a large value which is not there; and what nothing refers to goes, in the end.

Whatever is put, written, deleted, collected or cut off, in whatever order, and wherever the clock is set.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import hypothesis.strategies as st
import obstore.store
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from rayflow.core.events import Entry, SignalReceived, StepCompleted
from rayflow.errors import StorageUnavailable
from rayflow.ids import ExecutionStatus
from rayflow.storage.base import Filter, Store
from rayflow.storage.codec.journal import decode_entry, encode_entry
from rayflow.storage.codec.large_values import Reference
from rayflow.storage.codec.payloads import MsgpackCodec, references
from rayflow.storage.memory import MemoryData, MemoryStore
from rayflow.storage.model import ExecutionRecord, InboxRow, JournalRow
from rayflow.storage.objects.buckets import ObstoreBucket
from rayflow.storage.objects.store import ObjectStore
from rayflow.storage.operations import Answer, Operation, Rejected
from rayflow.storage.rules.retention import PurgeFilter
from rayflow.storage.sqlite import large_values
from rayflow.storage.sqlite.store import SqliteStore
from tests.contract.operations import append, claim, deliver, letter, record, send, start, start_child

NAMES = ("a", "b", "c")
GRACE = 100.0
#: Of one chunk or more, where a chunk is so small.
CHUNK = 4
VALUES = (b"one", b"two", b"three", b"of more chunks than are deleted at once" * 2)
DIGESTS = {hashlib.sha256(data).hexdigest(): data for data in VALUES}

names = st.sampled_from(NAMES)
values = st.lists(st.sampled_from(VALUES), max_size=2)


def payload(given: Sequence[bytes]) -> bytes:
    return MsgpackCodec().encode([Reference(hashlib.sha256(data).hexdigest(), len(data)) for data in given])


class Values(RuleBasedStateMachine):
    """See the module's docstring. Each kind of store has a machine of its own."""

    kind: ClassVar[str]

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.folder = Path(tempfile.mkdtemp(prefix="rf-values-"))
        self.data, self.remote = MemoryData(), obstore.store.MemoryStore()
        self.now = 10_000.0
        self.numbers = itertools.count()
        self.chunk, large_values.CHUNK = large_values.CHUNK, CHUNK

    def run(self, body: Any) -> Any:
        return self.loop.run_until_complete(body)

    @initialize()
    def open(self) -> None:
        self.store = self.run(self._opened())

    async def _opened(self) -> Store:
        store: Store
        match self.kind:
            case "memory":
                store = MemoryStore(data=self.data)
            case "sqlite":
                store = SqliteStore(f"sqlite:///{self.folder}/store.db")
            case _:
                store = ObjectStore("s3://test", bucket=ObstoreBucket("s3://test", self.remote))
                store.checkpoint_segments = 3
        await store.open()
        await store.claim_writer("test", now=self.now, fresh_for=0)
        return store

    def teardown(self) -> None:
        try:
            if hasattr(self, "store"):
                self.nothing_is_left_in_the_end()
        finally:
            self.run(self.store.close())
            self.run(self.loop.shutdown_default_executor())
            self.loop.close()
            large_values.CHUNK = self.chunk
            shutil.rmtree(self.folder)

    def nothing_is_left_in_the_end(self) -> None:
        self.now += 1e6
        for _ in range(2):
            self.run(self.store.collect_values(now=self.now, grace=GRACE, limit=100))
            self.now += 2 * GRACE
        referred = self.run(self._referred())
        for digest in DIGESTS:
            assert (self.run(self.store.value(digest)) is not None) == (digest in referred)

    # --- what is there -------------------------------------------------------------------------------------
    async def _referred(self) -> set[str]:
        """Read from the records alone."""
        payloads: list[bytes] = []
        for head in await self.store.executions(Filter()):
            payloads.append(head.input)
            bodies = [(row.seq, row.body) for row in await self.store.journal(head.id)]
            bodies += [(0, row.body) for row in await self.store.inbox(head.id)]
            for seq, body in bodies:
                event = decode_entry(head.id, seq, body).event if body[:1] == b"\x01" else None
                payloads += [event.result] if isinstance(event, StepCompleted) else []
                payloads += [event.payload] if isinstance(event, SignalReceived) else []
        payloads += [each.input for each in await self.store.dead_letters()]
        return {digest for data in payloads if data[:1] == b"\x01" for digest in references(data)}

    @invariant()
    def nothing_dangles(self) -> None:
        if hasattr(self, "store"):
            for digest in self.run(self._referred()):
                assert self.run(self.store.value(digest)) == DIGESTS[digest]

    def head(self, name: str) -> ExecutionRecord | None:
        found: ExecutionRecord | None = self.run(self.store.execution(name))
        return found

    def commit(self, *operations: Operation) -> list[Answer]:
        answers: list[Answer] = self.run(self.store.commit(operations))
        for answer in answers:
            if isinstance(answer, Rejected) and isinstance(answer.error, StorageUnavailable):
                assert "is not in the store" in str(answer.error)
        return answers

    def entry(self, given: Sequence[bytes], seq: int = 0) -> bytes:
        return encode_entry(Entry(seq, StepCompleted(self.now, 1, "step", 1, payload(given))))

    # --- values --------------------------------------------------------------------------------------------
    @rule(data=st.sampled_from(VALUES))
    def put(self, data: bytes) -> None:
        self.run(self.store.put_value(hashlib.sha256(data).hexdigest(), data, now=self.now))

    @rule(data=st.sampled_from(VALUES), turns=st.integers(0, 6))
    def put_half_and_crash(self, data: bytes, turns: int) -> None:
        async def half() -> None:
            putting = asyncio.create_task(self.store.put_value(hashlib.sha256(data).hexdigest(), data, now=self.now))
            for _ in range(turns):
                await asyncio.sleep(0)
            putting.cancel()
            await asyncio.wait([putting])

        self.run(half())
        self.reopen()

    @rule(limit=st.sampled_from([1, 100]))
    def collect(self, limit: int) -> None:
        self.run(self.store.collect_values(now=self.now, grace=GRACE, limit=limit))

    @rule(by=st.sampled_from([1.0, GRACE, 2 * GRACE, 1e5, -GRACE, -1e5]))
    def set_the_clock(self, by: float) -> None:
        self.now += by

    @rule()
    def reopen(self) -> None:
        self.run(self.store.close())
        self.store = self.run(self._opened())

    # --- records -------------------------------------------------------------------------------------------
    @rule(name=names, given=values)
    def begin(self, name: str, given: list[bytes]) -> None:
        self.commit(start(name, input=payload(given)), claim(name))

    @rule(name=names, given=values, over=st.booleans(), dead=st.booleans())
    def record(self, name: str, given: list[bytes], *, over: bool, dead: bool) -> None:
        head = self.head(name)
        if head is not None:
            first = head.last_seq + 1
            letters = (replace(letter(name, seq=first), input=payload(given)),) if dead else ()
            status = ExecutionStatus.COMPLETED if over else ExecutionStatus.RUNNING
            about: dict[str, Any] = {"first": first, "epoch": head.epoch, "at": self.now, "dead_letters": letters}
            self.commit(append(name, bodies=[self.entry(given, first)], status=status, **about))

    @rule(name=names, given=values)
    def signal(self, name: str, given: list[bytes]) -> None:
        body = encode_entry(Entry(0, SignalReceived(self.now, "go", payload(given))))
        self.commit(deliver(name, str(next(self.numbers)), body=body, at=self.now))

    @rule(name=names, other=names, given=values)
    def ask(self, name: str, other: str, given: list[bytes]) -> None:
        head = self.head(name)
        if head is not None:
            body = encode_entry(Entry(0, SignalReceived(self.now, "go", payload(given))))
            asks = (
                send(other, str(next(self.numbers)), body=body, at=self.now),
                start_child(other, parent=name, input=payload(given)),
            )
            first = head.last_seq + 1
            about: dict[str, Any] = {"first": first, "epoch": head.epoch, "asks": asks, "at": self.now}
            self.commit(append(name, bodies=[self.entry((), first)], **about))

    @rule(name=names, given=values, all_seen=st.booleans())
    def continue_as_new(self, name: str, given: list[bytes], *, all_seen: bool) -> None:
        head = self.head(name)
        if head is not None:
            first = head.last_seq + 1
            bodies = [self.entry(given, first), self.entry(given[:1], first + 1)]
            seen = head.inbox_last if all_seen else head.inbox_done
            about: dict[str, Any] = {"first": first, "epoch": head.epoch, "at": self.now, "inbox_done": seen}
            self.commit(
                append(name, bodies=bodies, next_run=payload(given[1:]), **about),
                claim(name, expected=head.epoch, nonce="next"),
            )

    @rule(name=names, other=names)
    def fork(self, name: str, other: str) -> None:
        head = self.head(name)
        if head is not None:
            rows: list[JournalRow] = self.run(self.store.journal(name))
            inbox: list[InboxRow] = self.run(self.store.inbox(name))
            made = record(other, input=head.input, last_seq=head.last_seq, run=head.run)
            self.commit(replace(start(other), record=made, rows=tuple(rows), carried=tuple(inbox)))

    @rule(chosen=st.sets(names))
    def delete(self, chosen: set[str]) -> None:
        self.run(self.store.collect(PurgeFilter(ids=tuple(chosen))))


class InMemory(Values):
    kind = "memory"


class InSqlite(Values):
    kind = "sqlite"


class InObjects(Values):
    kind = "objects"


few = settings(max_examples=25, stateful_step_count=30, deadline=None)
TestInMemory = InMemory.TestCase
TestInMemory.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestInSqlite = InSqlite.TestCase
TestInSqlite.settings = few
TestInObjects = InObjects.TestCase
TestInObjects.settings = few
