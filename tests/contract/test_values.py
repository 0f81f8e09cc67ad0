"""Large values: put once, referred to by records, collected when nothing has referred to them for twice the grace."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from dataclasses import replace

import pytest

from rayflow.core.events import Ended, Entry, SignalReceived, StageNote, StepCompleted
from rayflow.errors import StorageUnavailable
from rayflow.ids import ExecutionStatus
from rayflow.storage.base import Store
from rayflow.storage.codec.journal import encode_entry
from rayflow.storage.codec.large_values import Reference
from rayflow.storage.codec.payloads import MsgpackCodec
from rayflow.storage.model import InboxRow, JournalRow
from rayflow.storage.operations import Operation, Rejected
from tests.contract.conftest import Stores
from tests.contract.operations import (
    NOW,
    append,
    begun,
    claim,
    delete,
    deliver,
    done,
    fail,
    letter,
    refused,
    rewind,
    send,
    start,
    start_child,
)

GRACE = 100.0
LATER = NOW + 2 * GRACE
MB = 1 << 20


def digest_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


A, B = b"first value", b"second value"


def payload(*values: bytes) -> bytes:
    """A payload that refers to these."""
    return MsgpackCodec().encode([Reference(digest_of(data), len(data)) for data in values])


def completed(*values: bytes, seq: int = 1) -> bytes:
    return encode_entry(Entry(seq, StepCompleted(NOW, 1, "step", 1, payload(*values))))


def signal(*values: bytes) -> bytes:
    return encode_entry(Entry(0, SignalReceived(NOW, "go", payload(*values))))


async def put(store: Store, *values: bytes, now: float = NOW) -> None:
    for data in values:
        await store.put_value(digest_of(data), data, now=now)


async def there(store: Store, *values: bytes) -> list[bool]:
    found = [await store.value(digest_of(data)) for data in values]
    assert all(each is None or each == data for each, data in zip(found, values, strict=True))
    return [each is not None for each in found]


async def collect(store: Store, now: float, limit: int = 100) -> int:
    return await store.collect_values(now=now, grace=GRACE, limit=limit)


async def unreferred_since(store: Store, now: float) -> None:
    """Let the store see that nothing refers to what nothing refers to."""
    assert await collect(store, now) == 0


# --- keeping ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("size", [0, 1, MB - 1, MB, MB + 1, 3 * MB + 7])
def test_a_value_of_any_size_comes_back(stores: Stores, size: int) -> None:
    data = bytes(range(256)) * (size // 256) + b"x" * (size % 256)

    async def write(store: Store) -> None:
        assert await store.value(digest_of(data)) is None
        await put(store, data, data)
        assert await store.value(digest_of(data)) == data

    async def read(store: Store) -> None:
        assert await store.value(digest_of(data)) == data
        assert await store.value(digest_of(b"other")) is None

    stores.run(write)
    stores.run(read)


def test_values_and_code_are_kept_apart(stores: Stores) -> None:
    async def body(store: Store) -> None:
        await store.put_blob(digest_of(A), A)
        assert await there(store, A) == [False]
        await put(store, B)
        assert await store.blob(digest_of(B)) is None
        assert await collect(store, NOW + 9 * GRACE) == 1
        assert await store.blob(digest_of(A)) == A

    stores.run(body)


def test_commits_go_on_while_a_large_value_is_put(stores: Stores) -> None:
    async def body(store: Store) -> None:
        await begun(store, "x")
        putting = asyncio.create_task(put(store, bytes(20 * MB)))
        await asyncio.sleep(0)
        for first in range(1, 6):
            await done(store, append(first=first))
        await putting
        assert await there(store, bytes(20 * MB)) == [True]

    stores.run(body)


# --- referring --------------------------------------------------------------------------------------------
WRITES: dict[str, Callable[[], Operation]] = {
    "input": lambda: start("y", input=payload(A)),
    "journal": lambda: append(bodies=[b"entry", completed(A)]),
    "stage": lambda: append(
        bodies=[encode_entry(Entry(1, SignalReceived(NOW, "s", b""), stages=(StageNote(0, "a", "done", payload(A)),)))]
    ),
    "state": lambda: append(bodies=[encode_entry(Entry(1, SignalReceived(NOW, "s", b""), state={"k": payload(A)}))]),
    "end": lambda: append(
        bodies=[encode_entry(Entry(1, Ended(NOW, ExecutionStatus.COMPLETED, payload(A))))],
        status=ExecutionStatus.COMPLETED,
        result=payload(A),
    ),
    "inbox": lambda: deliver(body=signal(A)),
    "letter": lambda: append(
        status=ExecutionStatus.FAILED, dead_letters=(replace(letter(), input=payload(A)),)
    ),
    "child": lambda: append(asks=(start_child(input=payload(A)),)),
    "signal": lambda: append(asks=(send("other", body=signal(A)),)),
    "next run": lambda: append(bodies=[b"1", b"2"], next_run=payload(A)),
    "fork": lambda: replace(
        start("y", last_seq=1), rows=(JournalRow(1, completed(A)),), carried=(InboxRow("c", "carried", signal(A), NOW),)
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WRITES)
def test_nothing_is_written_that_refers_to_what_is_not_there(stores: Stores, name: str) -> None:
    async def body(store: Store) -> None:
        await begun(store, "x", "other")
        error = await refused(store, WRITES[name](), StorageUnavailable)
        assert digest_of(A) in str(error)
        await put(store, A)
        await done(store, WRITES[name]())

    stores.run(body)


@pytest.mark.parametrize("name", WRITES)
def test_what_records_refer_to_is_not_collected(stores: Stores, name: str) -> None:
    async def write(store: Store) -> None:
        await begun(store, "x", "other")
        await put(store, A, B)
        await done(store, WRITES[name]())

    async def read(store: Store) -> None:
        assert await collect(store, LATER) == 1
        assert await collect(store, LATER + 9 * GRACE) == 0
        assert await there(store, A, B) == [True, False]

    stores.run(write)
    stores.run(read)


def test_a_neighbour_that_refers_to_nothing_is_written(stores: Stores) -> None:
    async def body(store: Store) -> None:
        await begun(store, "x", "other")
        bad, good = await store.commit([append(bodies=[completed(A)]), append("other")])
        assert isinstance(bad, Rejected)
        assert await store.journal("other")
        assert not await store.journal("x")
        assert good.last_seq == 1  # type: ignore[union-attr]

    stores.run(body)


def test_sending_again_what_was_written_is_acknowledged(stores: Stores) -> None:
    async def body(store: Store) -> None:
        await begun(store, "x")
        await put(store, A)
        operation = append(bodies=[completed(A)])
        await done(store, operation)
        await done(store, operation)
        await done(store, append(first=2, bodies=[b"1", b"2"], next_run=b"next"), claim(expected=1))
        assert await collect(store, LATER) == 0
        assert await collect(store, LATER + 2 * GRACE) == 1
        await done(store, claim(expected=1))

    stores.run(body)


# --- collecting -------------------------------------------------------------------------------------------
def test_it_is_kept_for_twice_the_grace_after_it_was_put(stores: Stores) -> None:
    async def body(store: Store) -> None:
        await put(store, A)
        assert await collect(store, LATER - 1) == 0
        assert await collect(store, LATER) == 1
        assert await there(store, A) == [False]
        await put(store, A, now=LATER)
        assert await there(store, A) == [True]

    stores.run(body)


def test_putting_it_again_makes_it_new(stores: Stores) -> None:
    async def body(store: Store) -> None:
        await put(store, A)
        await put(store, A, now=LATER - 1)
        assert await collect(store, LATER) == 0
        assert await collect(store, LATER + 2 * GRACE) == 1

    stores.run(body)


def test_after_its_last_record_is_gone_it_is_kept_for_twice_the_grace(stores: Stores) -> None:
    async def body(store: Store) -> None:
        await begun(store, "x", "other")
        await put(store, A)
        await done(store, append(bodies=[completed(A)], status=ExecutionStatus.COMPLETED))
        await done(store, append("other", bodies=[completed(A)], status=ExecutionStatus.COMPLETED))
        assert await delete(store, "x") == 1
        assert await collect(store, LATER) == 0
        assert await delete(store, "other") == 1
        await unreferred_since(store, LATER + 7)
        assert await collect(store, LATER + 7 + 2 * GRACE - 1) == 0
        assert await there(store, A) == [True]
        assert await collect(store, LATER + 7 + 2 * GRACE) == 1
        assert await there(store, A) == [False]

    stores.run(body)


def test_putting_it_while_it_is_referred_to_does_not_shorten_that(stores: Stores) -> None:
    async def body(store: Store) -> None:
        await begun(store, "x")
        await put(store, A)
        await done(store, append(bodies=[completed(A)], status=ExecutionStatus.COMPLETED))
        await put(store, A)
        await delete(store, "x")
        await unreferred_since(store, LATER)
        assert await collect(store, LATER + GRACE) == 0

    stores.run(body)


def test_a_record_that_comes_in_time_saves_it(stores: Stores) -> None:
    async def body(store: Store) -> None:
        await begun(store, "x")
        await put(store, A)
        await unreferred_since(store, LATER - 1)
        await done(store, append(bodies=[completed(A)]))
        assert await collect(store, LATER + 9 * GRACE) == 0
        assert await there(store, A) == [True]

    stores.run(body)


def test_a_new_run_forgets_what_only_earlier_ones_referred_to(stores: Stores) -> None:
    old, kept, given, carried, waits = b"old", b"kept", b"given", b"carried", b"waits"

    async def write(store: Store) -> None:
        await put(store, old, kept, given, carried, waits, A)
        await done(
            store, start(input=payload(A)), claim(), deliver(body=signal(old)), deliver(key="l", body=signal(waits))
        )
        last = encode_entry(Entry(2, SignalReceived(NOW, "go", payload(carried))))
        await done(store, append(bodies=[completed(old), last], next_run=payload(given), inbox_done=1))
        await done(store, claim(expected=1), append(first=3, bodies=[completed(kept, seq=3)], epoch=2))

    async def read(store: Store) -> None:
        await unreferred_since(store, LATER)
        assert await collect(store, LATER + 2 * GRACE) == 2
        assert await there(store, old, A) == [False, False]
        assert await there(store, kept, given, carried, waits) == [True] * 4

    stores.run(write)
    stores.run(read)


def test_a_rewind_keeps_what_it_supersedes(stores: Stores) -> None:
    async def body(store: Store) -> None:
        await begun(store, "x")
        await put(store, A)
        await done(store, append(bodies=[completed(A)]), fail("x", 2, first=2), rewind(last_seq=2))
        assert await collect(store, LATER + 9 * GRACE) == 0

    stores.run(body)


def test_so_many_at_a_time(stores: Stores) -> None:
    values = [b"%d" % n for n in range(5)]

    async def body(store: Store) -> None:
        await put(store, *values)
        assert [await collect(store, LATER, limit=2) for _ in range(4)] == [2, 2, 1, 0]
        assert await there(store, *values) == [False] * 5

    stores.run(body)


def test_one_that_is_larger_than_a_transaction_goes_whole(stores: Stores) -> None:
    data = bytes(40 * MB)

    async def body(store: Store) -> None:
        await put(store, data)
        assert await collect(store, LATER) == 1
        assert await there(store, data) == [False]
        await put(store, data, now=LATER)
        assert await there(store, data) == [True]

    stores.run(body)
